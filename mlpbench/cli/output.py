"""Write what a verb records: its session, its records, and folders that exist before the work begins."""

import argparse
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mlpbench.errors import InputError, printable
from mlpbench.records import files
from mlpbench.records.kinds import Record, Session
from mlpbench.records.results import Results
from mlpbench.records.store import append, load, results_file


class SessionFile:
    """Append the records of one session to the results file of this machine and day."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path, self.session = path, session

    @classmethod
    def start(cls, root: Path, command: str, preset: str = "-") -> Self:
        """Start a session and write it.

        Raises:
            InputError: if the file cannot be written.
        """
        from mlpbench.machine import environment

        session = environment.start_session(command, preset)
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
