"""Encode records as lines of JSON, and decode them again."""

import functools
import json
import math
import types
import typing
import zlib
from dataclasses import fields, is_dataclass
from typing import Any

from mlpbench.errors import InputError
from mlpbench.records import ranges
from mlpbench.records.kinds import KINDS, Record

SCHEMA = 3
"""The schema that `encode` writes; `decode` also reads every older one."""

# No count and no time is larger, and a float could not hold an arbitrarily large number.
_LARGEST = 2**64

# JSON has no nan and no infinity, but a run that diverged is a result too.
_NOT_FINITE = ("nan", "inf", "-inf")

_EXPECTED = {
    bool: "true or false",
    int: "a whole number of at most 2**64",
    float: "a number",
    str: "a text",
}


class DamageError(ValueError):
    """Report that a line is not a complete record that this version can read."""


def encode(record: Record) -> str:
    """Return the record as one line of JSON. Floats have the shortest form that reads back to the same double."""
    content = {"kind": record.kind, "schema": SCHEMA, **plain(record)}
    return seal(json.dumps(content, separators=(",", ":"), allow_nan=False))


def seal(text: str) -> str:
    """Add the CRC-32 of a JSON object as its last field, so that a damaged digit is not read as a time."""
    return f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}'


def _is_sealed(line: str) -> bool:
    text = line.rstrip()
    return text == seal(text[: -len(',"crc32":"00000000"}')] + "}")


def plain(value: Any) -> Any:
    """Convert a record to the types of JSON: objects, lists, texts and numbers."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        # A text comes from anywhere, such as the message of a library. What is written can always be read again.
        return ranges.tidy(value)
    return value


def decode(line: str) -> Record:
    """Return the record of one line.

    Raises:
        DamageError: if the line is not a complete record of a known kind and schema, or a value has the wrong type.
    """
    try:
        content = json.loads(line)
    # ValueError is raised for a number with too many digits, too.
    except (ValueError, RecursionError):
        raise DamageError("not JSON") from None
    if not isinstance(content, dict) or "kind" not in content or "schema" not in content:
        raise DamageError("not an mlpbench record")
    kind, schema = content.pop("kind"), content.pop("schema")
    if type(schema) is int and schema > SCHEMA:
        raise DamageError(f"schema {schema} is newer than this mlpbench reads ({SCHEMA}); upgrade mlpbench")
    if type(schema) is not int or schema < 1 or not isinstance(kind, str) or kind not in KINDS:
        raise DamageError(f"unknown kind {kind!r:.40} of schema {schema!r:.40}")
    if schema > 1:
        if not _is_sealed(line):
            raise DamageError("its checksum does not match its content")
        del content["crc32"]
    if schema < SCHEMA:
        content |= _values_before(KINDS[kind], content, schema) | _converted(KINDS[kind], content, schema)
    record: Record = typed(KINDS[kind], content, kind)
    return record


def _values_before(record_type: type[Record], content: dict[str, Any], schema: int) -> dict[str, Any]:
    """Return the fields that came after `schema`, with the values that they stand for in older lines.

    Raises:
        DamageError: if the content has such a field.
    """
    newer = [f for f in fields(record_type) if f.metadata.get("since", 1) > schema]
    for f in newer:
        if f.name in content:
            since = f.metadata["since"]
            raise DamageError(f"{record_type.kind} of schema {schema} has {f.name!r}, a field of schema {since}")
    values = {f.name: f.metadata["before"] for f in newer}
    return {name: value(content) if callable(value) else value for name, value in values.items()}


def _converted(record_type: type[Record], content: dict[str, Any], schema: int) -> dict[str, Any]:
    """Return the fields whose type changed after `schema`, converted to their present type.

    Raises:
        DamageError: if the value of such a field does not have the type of that schema.
    """
    changed = [f for f in fields(record_type) if f.metadata.get("changed", 1) > schema and f.name in content]
    return {f.name: f.metadata["convert"](typed(f.metadata["before"], content[f.name], f.name)) for f in changed}


def typed(hint: Any, value: Any, where: str) -> Any:
    """Convert a value of JSON back to the annotated type; the inverse of `plain`. Nothing is guessed or coerced.

    Args:
        hint: The annotated type.
        value: The value, as `json.loads` returned it.
        where: The name of the value in messages.

    Raises:
        DamageError: if the value has another type, or the class of a record refuses it.
    """
    if typing.get_origin(hint) is typing.Annotated:
        base, *checks = typing.get_args(hint)
        item = typed(base, value, where)
        for check in checks:
            if not check.is_met(item):
                raise DamageError(f"{where} is {value!r:.40}, expected {check.expected}")
        return item
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (option for option in typing.get_args(hint) if option is not type(None))
        return None if value is None else typed(inner, value, where)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return _typed_fields(hint, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return _typed_items(typing.get_args(hint), value, where)
    if hint is float and (value in _NOT_FINITE or (type(value) is int and abs(value) <= 2**53)):
        return float(value)
    if type(value) is not hint or (hint is int and abs(value) > _LARGEST):
        raise DamageError(f"{where} is {value!r:.40}, expected {_expected(hint)}")
    if hint is str and not ranges.TEXT.is_met(value):
        raise DamageError(f"{where} is {value!r:.40}, expected {ranges.TEXT.expected}")
    return value


def _expected(hint: Any) -> str:
    return _EXPECTED.get(hint, "an object" if is_dataclass(hint) else "a list")


@functools.cache
def _field_types(record_type: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record_type, include_extras=True)
    return {f.name: hints[f.name] for f in fields(record_type)}


def _typed_fields(record_type: type, value: dict[str, Any], where: str) -> Any:
    hints = _field_types(record_type)
    for problem, names in (("lacks", set(hints) - set(value)), ("has unknown", set(value) - set(hints))):
        if names:
            raise DamageError(f"{where} {problem} fields: {', '.join(map(repr, sorted(names)))}")
    try:
        return record_type(**{name: typed(hints[name], item, name) for name, item in value.items()})
    except InputError as error:
        raise DamageError(str(error)) from None


def _typed_items(hints: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise DamageError(f"{where} has {len(value)} items, expected {len(hints)}")
    return tuple(typed(hint, item, where) for hint, item in zip(hints, value, strict=True))
