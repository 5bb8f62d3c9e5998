"""Append records to JSON Lines files, and load them again.

History of the schema:

- 1 (2026-11): session, measurement, block, train_result, check, skip.
- 2 (2026-11): plan, ending, conditions, peak, memory, noise; a session's run, process and side, a measurement's
  planned rounds, a block's control_ns; every line ends with its CRC-32.
- 3 (2026-11): epoch, acceptance; a skip's benchmark; a session's environment is hardware, stack and source. Older
  environments are flat, and know less.

One line is one record: `{"kind": ..., "schema": ..., field: value, ...}`. A file only grows, by a whole line at a time.
So a killed process loses at most the line that it was writing.
"""

import codecs
import errno
import os
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from mlpbench.errors import InputError
from mlpbench.records.codec import DamageError, decode, encode
from mlpbench.records.environment import Environment
from mlpbench.records.kinds import Record
from mlpbench.records.results import Results


def results_file(root: Path, environment: Environment, day: date) -> Path:
    """Return `<root>/<machine>/<date>-<commit>.jsonl`, with `-dirty` after the commit for uncommitted source."""
    return root / environment.machine / f"{day.isoformat()}-{environment.source}.jsonl"


def append(path: Path, record: Record) -> None:
    """Write one record at the end of the file, at once.

    It is one `write` to a file opened for appending, so lines of several processes do not mix. If the file ends inside
    a line, because its writer was killed, the record starts on a new line.

    Raises:
        OSError: if the record could not be written completely.
    """
    line = encode(record).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "the record was written only in part; is the disk full?", str(path))


def load(paths: Iterable[Path]) -> Results:
    """Load every record of files and, recursively, of folders.

    A damaged line is left out, and so are the records that point to it. `problems` gets a line with the file and the
    number of its first damaged line. In a folder, a file without any record is left out in the same way.

    Raises:
        InputError: if a path does not exist, a file named in `paths` has no record, or there are no results at all.
    """
    results = Results()
    paths = list(paths)
    files = _files(paths)
    seen: set[str] = set()
    for path in files:
        try:
            _load_file(path, results, seen)
        except InputError as error:
            if path in paths:
                raise
            # One bad file in a folder must not make the others unreadable.
            results.problems.append(str(error))
    if not results.sessions:
        problems = "; ".join(results.problems) or f"no results in {', '.join(map(str, files))}"
        raise InputError(f"{problems}; measure some with `pytest bench/`")
    return results


def newest_files(root: Path) -> list[Path]:
    """Return the results files under a folder, the one that was written last first.

    Raises:
        InputError: if there is no results file.
    """
    return sorted(_files([root]), key=lambda path: path.stat().st_mtime, reverse=True)


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return every results file among the paths and under them; each file once, also if links lead to it.

    Raises:
        InputError: if a path does not exist or cannot be read, or a folder has no results file.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            matches = sorted(file for file in path.rglob("*.jsonl") if file.is_file()) if path.is_dir() else [path]
            exists = path.exists()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not exists:
            raise InputError(f"no such file or directory: {path}; measure some results with `pytest bench/`")
        if not matches:
            raise InputError(f"no results (*.jsonl) under {path}; measure some with `pytest bench/`")
        files.update({file.resolve(): file for file in matches})
    return list(files.values())


def _load_file(path: Path, results: Results, seen: set[str]) -> None:
    """Add the records of one file to `results`, and one line to its problems if the file is damaged.

    Records in `seen`, in the form in which they are written today, are skipped: a copy is no further evidence, whatever
    ends its lines. New records are added to it.

    Raises:
        InputError: if the file cannot be read, or has lines but no record.
    """
    problems: list[str] = []
    num_records = 0
    results.begin_file()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path} is text in UTF-16, not in UTF-8; save or send it as UTF-8")
    # Some editors write a byte order mark, which says nothing in UTF-8.
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = decode(line.decode())
            canonical = encode(record)
            if canonical not in seen:
                results.add(record)
                seen.add(canonical)
            num_records += 1
        except UnicodeDecodeError:
            problems.append(f"line {number} is damaged (not UTF-8)")
        except DamageError as error:
            # Every complete record ends with a newline, so the last item of the split is empty or cut off.
            is_cut = number == len(lines)
            problems.append(f"line {number} is {'cut off' if is_cut else f'damaged ({error})'}")
    if problems and not num_records:
        raise InputError(f"{path} is not an mlpbench results file: {problems[0]}")
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        results.problems.append(f"{path}: {problems[0]}{more}; the other {num_records} records were read")
