"""Append records to JSON Lines files, and load them again.

History of the schema:

- 1 (2026-11): session, measurement, block, train_result, check, skip.
- 2 (2026-11): plan, ending, conditions, peak, memory, noise; a session's run, process and side, a measurement's
  planned rounds, a block's control_ns; every line ends with its CRC-32.

One line is one record: `{"kind": ..., "schema": ..., field: value, ...}`. A file only grows, a whole line at a time, so
that a killed process loses at most the line it was writing.
"""

import errno
import os
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from mlpbench.errors import InputError
from mlpbench.records.codec import DamageError, decode, encode
from mlpbench.records.kinds import (
    Environment,
    Record,
)
from mlpbench.records.results import Results


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
