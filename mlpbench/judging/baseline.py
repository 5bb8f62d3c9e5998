"""The accepted baseline of each machine: a results file that only `accept` replaces."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from mlpbench.errors import InputError
from mlpbench.judging.evidence import samples
from mlpbench.records.codec import encode
from mlpbench.records.store import load

FOLDER = "baselines"


def path_of(root: Path, machine: str) -> Path:
    """Where a machine's baseline lies."""
    return root / FOLDER / f"{machine}.jsonl"


def accept(root: Path, paths: Sequence[Path]) -> Path:
    """Make these results, all of one machine, its baseline; the old one is replaced at once or not at all.

    Raises:
        InputError: if they are of several machines, damaged, or without a finished measurement in two processes.
    """
    results = load(paths)
    if results.problems:
        raise InputError(f"{results.problems[0]}; a baseline is accepted whole or not at all")
    if max((len(of_one.processes) for of_one in samples(results).values()), default=0) < 2:
        raise InputError("no benchmark of these results ran in two processes, which a verdict needs")
    machines = {session.environment.machine for session in results.sessions.values()}
    if len(machines) > 1:
        raise InputError(f"results of several machines ({', '.join(sorted(machines))}); accept them one by one")
    path = path_of(root, machines.pop())
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(b"".join(encode(record).encode() + b"\n" for record in results.records()))
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return path


def find(root: Path, machine: str) -> Path:
    """The baseline of a machine.

    Raises:
        InputError: if none was accepted.
    """
    path = path_of(root, machine)
    if not path.exists():
        raise InputError(f"no baseline of {machine}; `mlpbench baseline accept RESULTS` makes one")
    return path
