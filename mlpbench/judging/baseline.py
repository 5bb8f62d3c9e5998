"""Keep the accepted baseline of each machine: a results file that only `accept` replaces."""

from collections.abc import Sequence
from pathlib import Path

from mlpbench.errors import InputError
from mlpbench.judging.evidence import collect
from mlpbench.records import files
from mlpbench.records.codec import encode
from mlpbench.records.store import load

FOLDER = "baselines"


def path_of(root: Path, machine: str) -> Path:
    """Return the path of a machine's baseline, whether it exists or not."""
    return root / FOLDER / f"{machine}.jsonl"


def accept(root: Path, paths: Sequence[Path]) -> Path:
    """Make results of one machine its baseline; the old baseline is replaced completely or not at all.

    Returns:
        The path of the baseline.

    Raises:
        InputError: if the results come from several machines, are damaged, or have no benchmark that two processes
            measured completely; or if the baseline cannot be written.
    """
    results = load(paths)
    if results.problems:
        raise InputError(f"{results.problems[0]}; a baseline must be complete, so nothing was accepted")
    if max((len(evidence.processes) for evidence in collect(results).values()), default=0) < 2:
        raise InputError(
            "no benchmark of these results ran in two processes, but a verdict needs two; measure with --preset default"
        )
    machines = {session.environment.machine for session in results.sessions.values()}
    if len(machines) > 1:
        raise InputError(f"results of several machines ({', '.join(sorted(machines))}); accept them one by one")
    path = path_of(root, machines.pop())
    files.write(path, "".join(f"{encode(record)}\n" for record in results.records()))
    return path


def find(root: Path, machine: str) -> Path:
    """Return the path of a machine's baseline.

    Raises:
        InputError: if no baseline was accepted for this machine.
    """
    path = path_of(root, machine)
    if not path.exists():
        raise InputError(f"no baseline of {machine}; `mlpbench baseline accept RESULTS` makes one")
    return path
