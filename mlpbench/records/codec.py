"""Encode records as JSON and decode them again."""

import json
import math
import types
import typing
import zlib
from dataclasses import fields, is_dataclass
from typing import Any

from mlpbench.errors import InputError
from mlpbench.records.kinds import (
    Block,
    Check,
    Conditions,
    Ending,
    Measurement,
    Memory,
    Noise,
    Peak,
    Plan,
    Record,
    Session,
    Skip,
    TrainResult,
)

SCHEMA = 2
_LARGEST = 2**64  # no count and no time is larger; floats could not hold what is

KINDS: dict[str, type[Record]] = {
    "session": Session,
    "measurement": Measurement,
    "block": Block,
    "train_result": TrainResult,
    "check": Check,
    "skip": Skip,
    "plan": Plan,
    "ending": Ending,
    "conditions": Conditions,
    "peak": Peak,
    "memory": Memory,
    "noise": Noise,
}

_KIND_OF = {record_type: kind for kind, record_type in KINDS.items()}


class DamageError(ValueError):
    """What was read is not a whole record that this version understands."""


def encode(record: Record) -> str:
    """The record as one line of JSON, floats exact (shortest form that reads back to the same double)."""
    content = {"kind": _KIND_OF[type(record)], "schema": SCHEMA, **plain(record)}
    return seal(json.dumps(content, separators=(",", ":"), allow_nan=False))


def seal(text: str) -> str:
    """A JSON object with its CRC-32 as the last field, so that a damaged digit does not pass for a time."""
    return f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}'


def _is_sealed(line: str) -> bool:
    text = line.rstrip()
    return text == seal(text[: -len(',"crc32":"00000000"}')] + "}")


def plain(value: Any) -> Any:
    """A record as JSON has it: objects, lists, texts and numbers."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no nan and no inf, and a run that diverged is a result too
    return value


def decode(line: str) -> Record:
    """The record of one line.

    Raises:
        ValueError: if the line is not a whole record, of a known kind and schema, with values of the right types.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):  # ValueError also for a number of too many digits
        raise DamageError("not JSON") from None
    if not isinstance(content, dict) or "kind" not in content or "schema" not in content:
        raise DamageError("not an mlpbench record")
    kind, schema = content.pop("kind"), content.pop("schema")
    if type(schema) is int and schema > SCHEMA:
        raise DamageError(f"schema {schema} is newer than this mlpbench reads ({SCHEMA}); upgrade mlpbench")
    if type(schema) is not int or schema < 1 or not isinstance(kind, str) or kind not in KINDS:
        raise DamageError(f"unknown kind {kind!r} of schema {schema!r}")
    if schema > 1:
        if not _is_sealed(line):
            raise DamageError("its checksum does not fit")
        del content["crc32"]
    else:
        added = _since_1(kind, content)
        if set(added) & set(content):
            raise DamageError(f"{kind} of schema 1 has fields of schema 2")
        content |= added
    record: Record = typed(KINDS[kind], content, kind)
    return record


def _since_1(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """What schema 2 added to a kind, as it was before: every session by itself, no number of rounds, no control."""
    match kind:
        case "session":
            return {"run": content.get("id"), "process": 0, "side": ""}
        case "measurement":
            return {"rounds": 0}
        case "block":
            return {"control_ns": None}
    return {}


def typed(hint: Any, value: Any, where: str) -> Any:
    """What `plain` made, as the annotation wants it: nothing is guessed and nothing is coerced.

    Raises:
        ValueError: if the value is of another type, or a record would not have it; `where` is what to call it then.
    """
    if isinstance(hint, types.UnionType):
        (inner,) = (option for option in typing.get_args(hint) if option is not type(None))
        return None if value is None else typed(inner, value, where)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return _typed_fields(hint, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return _typed_items(typing.get_args(hint), value, where)
    if hint is float and (value in ("nan", "inf", "-inf") or (type(value) is int and abs(value) <= 2**53)):
        return float(value)
    if type(value) is not hint or (hint is int and abs(value) > _LARGEST):
        raise DamageError(f"{where} is {value!r:.40}")
    return value


def _typed_fields(record_type: type, value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(record_type)
    odd = sorted(set(value) ^ set(hints))
    if odd:
        raise DamageError(f"{where} has missing or unknown fields: {', '.join(map(repr, odd))}")
    try:
        return record_type(**{name: typed(hints[name], item, name) for name, item in value.items()})
    except InputError as error:
        raise DamageError(str(error)) from None


def _typed_items(hints: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise DamageError(f"{where} has {len(value)} items, not {len(hints)}")
    return tuple(typed(hint, item, where) for hint, item in zip(hints, value, strict=True))
