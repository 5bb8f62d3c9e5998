"""Options that verbs share, and where they write."""

import argparse
import math
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from mlpbench.records import InputError, Record, Session
from mlpbench.store import Results, append, results_file

RESULTS = Path("results")


Verbs: TypeAlias = "argparse._SubParsersAction[Any]"


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Options that say what to run, and where results go."""
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the workload")
    parser.add_argument("--dataset", help="digits, mnist, fashion_mnist or kmnist")
    parser.add_argument("--device", help="cpu, cuda or auto")
    parser.add_argument("--data", metavar="DIR", help="where data sets are kept (else $MLPBENCH_DATA)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where results are appended")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """An accuracy above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"an accuracy above 0 and at most 1, not {text!r}")
    return value


def seeds(text: str) -> tuple[int, ...]:
    """Seeds such as 0-4 or 0,3,7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise argparse.ArgumentTypeError(f"seeds such as 0-4 or 0,3,7, not {text!r}")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"at least one seed; {text!r} has none")
    return tuple(dict.fromkeys(found))


def settings_of(parsed: argparse.Namespace) -> list[str]:
    """Every `field=value` that was said, in whatever way."""
    named = [f"{name}={getattr(parsed, name)}" for name in ("dataset", "device") if getattr(parsed, name)]
    if getattr(parsed, "epochs", None) is not None:
        named.append(f"num_epochs={parsed.epochs}")
    return [*named, *parsed.set]


class Sink:
    """Appends a session and its records to the results file of this machine and day."""

    def __init__(self, root: Path, command: Sequence[str], preset: str = "-") -> None:
        from mlpbench import environment

        self.session: Session = environment.start_session(shlex.join(command), preset)
        self.path = results_file(root, self.session.environment, datetime.now(UTC).date())
        self(self.session)

    def __call__(self, record: Record) -> None:
        """Write a record."""
        write(self.path, record)


def write(path: Path, record: Record) -> None:
    """Append a record; what cannot be written is bad input."""
    try:
        append(path, record)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --results") from None


def make_folder(path: Path) -> None:
    """Find out before the work whether its output has a place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another folder") from None


def as_options(settings: Sequence[str]) -> list[str]:
    """The settings as a command says them."""
    return [part for setting in settings for part in ("--set", setting)]


def as_results(session: Session, records: Iterable[Record]) -> Results:
    """A session's records, as if loaded from its file."""
    results = Results()
    for record in (session, *records):
        results.add(record)
    return results
