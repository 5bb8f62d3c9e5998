"""Write what a verb records: its session, its records, and folders that exist before the work begins."""

import argparse
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

from mlpbench.cli.options import RESULTS
from mlpbench.errors import InputError, printable
from mlpbench.records import files
from mlpbench.records.kinds import Record, Session
from mlpbench.records.results import Results
from mlpbench.records.store import append, load, newest_files, results_file

T = TypeVar("T")


class SessionFile:
    """Append the records of one session to the results file of this machine and day."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path, self.session = path, session

    @classmethod
    def start(cls, root: Path, command: str, preset: str = "-", *, run: str | None = None, process: int = 0) -> Self:
        """Start a session and write it; with `run`, it goes on with the sessions of that run.

        Raises:
            InputError: if the file cannot be written.
        """
        from mlpbench.machine import environment

        session = environment.start_session(command, preset, run=run, process=process)
        file = cls(results_file(root, session.environment, datetime.now(UTC).date()), session)
        file(session)
        return file

    def __call__(self, record: Record) -> None:
        """Write a record."""
        write(self.path, record)


def write(path: Path, record: Record) -> None:
    """Append a record.

    Raises:
        InputError: if the file cannot be written.
        OutputError: if the disk is full or failed.
    """
    try:
        append(path, record)
    except OSError as error:
        raise files.problem(path, error, "choose another --results") from None


def say(text: str) -> None:
    """Print a line on standard output, with escapes for control characters."""
    print(printable(text))


def make_folder(path: Path) -> None:
    """Make the folder of an output, before the work that fills it.

    Raises:
        InputError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.problem(path, error, "choose another folder") from None


def as_results(session: Session, records: Iterable[Record]) -> Results:
    """Return the records of a session as if they were loaded from its file."""
    results = Results()
    for record in (session, *records):
        results.add(record)
    return results


def read(parsed: argparse.Namespace, paths: Iterable[Path]) -> Results:
    """Load results, and note the damaged files among them.

    Raises:
        InputError: as `load` does.
    """
    results = load(paths)
    note_problems(parsed, results.problems)
    return results


def read_newest(parsed: argparse.Namespace, use: Callable[[Results], T]) -> T:
    """Return what `use` makes of the newest file among the results that it can use, and say on standard error which.

    Raises:
        InputError: if there is no results file, or `use` can use none of them.
    """
    paths = newest_files(RESULTS)
    reason = ""
    for path in paths:
        try:
            results = load([path])
        except InputError as error:
            note_problems(parsed, [str(error)])
            continue
        try:
            content = use(results)
        except InputError as error:
            reason = reason or f"; {path}: {error}"
            continue
        others = f", the newest that can be used of {len(paths)} files" if len(paths) > 1 else ""
        place = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        print(f"mlpbench: read {printable(str(place))}{others}", file=sys.stderr)
        note_problems(parsed, results.problems)
        return content
    raise InputError(f"none of the {len(paths)} files under {RESULTS} can be used{reason}")


def note_problems(parsed: argparse.Namespace, problems: Iterable[str]) -> None:
    """Print a line on standard error for each damaged file. Because of it, the verb cannot end with success."""
    parsed.problems = [*getattr(parsed, "problems", ()), *problems]
    for problem in problems:
        print(f"mlpbench: {printable(problem)}", file=sys.stderr)


def check_outputs(parsed: argparse.Namespace) -> None:
    """Check that the folders of the output files exist, before the work that fills them.

    Raises:
        InputError: if a folder is missing.
    """
    for name in ("json", "csv", "markdown", "html"):
        path = getattr(parsed, name)
        if path is not None and not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")
