"""Processes whose times are known, as evidence and as files."""

from pathlib import Path

from mlpbench.judging.evidence import collect
from mlpbench.judging.verdict import Margins, judge
from mlpbench.records import store
from tests.strategies import replicated, results

# The times of blocks, in milliseconds, of five processes.
STEADY = [[1.0, 1.01, 0.99], [1.01, 1.0, 1.02], [0.99, 1.0, 0.98], [1.0, 1.0, 1.01], [1.0, 0.99, 1.0]]


def scaled(factor: float, processes=STEADY) -> list[list[float]]:
    return [[value * factor for value in times] for times in processes]


def side(processes, **changes):
    """Return the evidence of processes with these times."""
    return collect(results(replicated(processes, **changes)))


def verdict(base, new, **changes) -> str:
    """Judge the only benchmark of both sides."""
    (comparison,) = judge(base, new, Margins(), **changes).comparisons
    return comparison.verdict


def write(path: Path, *records) -> str:
    """Write records to a file, and return its path as text."""
    for item in records:
        for record in item if isinstance(item, list) else [item]:
            store.append(path, record)
    return str(path)
