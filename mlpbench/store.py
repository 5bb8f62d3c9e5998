"""Append records to JSON Lines files, and load them again.

History of the schema:

- 1 (2026-11): session, measurement, block, train_result, check, skip.
- 2 (2026-11): plan, ending, conditions, peak, memory, noise; a session's run, process and side, a measurement's
  planned rounds, a block's control_ns; every line ends with its CRC-32.

One line is one record: `{"kind": ..., "schema": ..., field: value, ...}`. A file only grows, a whole line at a time, so
that a killed process loses at most the line it was writing.
"""

import errno
import json
import math
import os
import types
import typing
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mlpbench.records import (
    Block,
    Check,
    Conditions,
    Ending,
    Environment,
    InputError,
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


@dataclass(slots=True)
class Results:
    """Records of any number of files, by kind, in reading order; `problems` has a line for each damaged file."""

    sessions: dict[str, Session] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    train_results: list[TrainResult] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)  # by plan
    conditions: dict[str, Conditions] = field(default_factory=dict)  # by session
    peaks: list[Peak] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    noises: list[Noise] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take one record in.

        Raises:
            ValueError: if it points to a session, measurement or plan that is not here.
        """
        kind = _KIND_OF[type(record)]
        pointer = _POINTERS.get(kind, "session")
        if pointer and getattr(record, pointer) not in getattr(self, f"{pointer}s"):
            raise DamageError(f"its {pointer} {getattr(record, pointer)!r} is missing")
        place, key = _PLACES[kind]
        if key:
            getattr(self, place)[getattr(record, key)] = record
        else:
            getattr(self, place).append(record)

    @property
    def newest_session(self) -> Session:
        """The session that started last; `load` sees to it that there is one."""
        return max(self.sessions.values(), key=lambda session: session.started_at)

    def whole(self) -> dict[str, list[Block]]:
        """By measurement, the blocks of those that were not cut short."""
        found: dict[str, list[Block]] = {}
        for block in self.blocks:
            found.setdefault(block.measurement, []).append(block)
        return {name: blocks for name, blocks in found.items() if len(blocks) >= self.measurements[name].rounds}

    def records(self) -> Iterator[Record]:
        """Every record, each after the one it points to."""
        first = ("sessions", "plans", "measurements")
        for name in (*first, *(place for place, _ in _PLACES.values() if place not in first)):
            found = getattr(self, name)
            yield from found.values() if isinstance(found, dict) else found


# Which field of a record names another that has to be there before it; a session, unless said otherwise.
_POINTERS = {"session": None, "plan": None, "block": "measurement", "ending": "plan"}
# Where Results keeps a kind, and by which field, if it is looked up.
_PLACES = {
    "session": ("sessions", "id"),
    "measurement": ("measurements", "id"),
    "block": ("blocks", None),
    "train_result": ("train_results", None),
    "check": ("checks", None),
    "skip": ("skips", None),
    "plan": ("plans", "id"),
    "ending": ("endings", "plan"),
    "conditions": ("conditions", "session"),
    "peak": ("peaks", None),
    "memory": ("memories", None),
    "noise": ("noises", None),
}


def results_file(root: Path, environment: Environment, day: date) -> Path:
    """`<root>/<machine>/<date>-<commit>.jsonl`; a file of uncommitted source says `-dirty`."""
    suffix = "-dirty" if environment.dirty else ""
    return root / environment.machine / f"{day.isoformat()}-{environment.commit}{suffix}.jsonl"


def append(path: Path, record: Record) -> None:
    """Write one record at the end of the file, at once.

    One `write` to a file opened for appending, so lines of several processes do not mix. If the file ends inside a line
    (its writer was killed), the record starts on a line of its own.
    """
    line = encode(record).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "only a part of the record was written; is the disk full?")


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


def load(paths: Iterable[Path]) -> Results:
    """Every record of files and, recursively, directories.

    A damaged line costs that line and what points to it: it is counted in `problems`, with its file and number, and
    never guessed at. So is a file of a folder in which nothing is a record.

    Raises:
        InputError: for a path that is not there, a named file in which nothing is a record, or no results at all.
    """
    results = Results()
    paths = list(paths)
    files = _files(paths)
    seen: set[bytes] = set()
    for path in files:
        try:
            _load_file(path, results, seen)
        except InputError as error:
            if path in paths:
                raise
            results.problems.append(str(error))  # one bad file in a folder does not cost the others
    if not results.sessions:
        found = "; ".join(results.problems) or f"no results in {', '.join(map(str, files))}"
        raise InputError(f"{found}; `pytest bench/` measures some")
    return results


def newest_file(root: Path) -> Path:
    """The results file under a folder that was written last.

    Raises:
        InputError: if there is none.
    """
    return max(_files([root]), key=lambda path: path.stat().st_mtime)


def _files(paths: Iterable[Path]) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            found = sorted(file for file in path.rglob("*.jsonl") if file.is_file()) if path.is_dir() else [path]
            exists = path.exists()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not exists:
            raise InputError(f"no such file or directory: {path}; `pytest bench/` measures some results")
        if not found:
            raise InputError(f"no results (*.jsonl) under {path}; `pytest bench/` measures some")
        files.update({file.resolve(): file for file in found})
    return list(files.values())


def _load_file(path: Path, results: Results, seen: set[bytes]) -> None:
    """Read one file into `results`, but for lines `seen` before: a copy of a file is not more evidence.

    A file in which nothing is a record is foreign, not damaged.
    """
    damaged: list[str] = []
    num_records = 0
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = decode(line.decode())
            if line not in seen:
                results.add(record)
                seen.add(line)
            num_records += 1
        except UnicodeDecodeError:
            damaged.append(f"line {number} is damaged (not UTF-8)")
        except DamageError as error:
            cut = number == len(lines)  # every whole record ends with a newline
            damaged.append(f"line {number} is {'cut off' if cut else f'damaged ({error})'}")
    if damaged and not num_records:
        raise InputError(f"{path} is not an mlpbench results file: {damaged[0]}")
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        results.problems.append(f"{path}: {damaged[0]}{more}; the other {num_records} records were read")
