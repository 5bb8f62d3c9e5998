"""Measure the noise floor of a machine: compare measurements of the same thing, and count the false verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence

from mlpbench.errors import InputError
from mlpbench.judging.evidence import Evidence, ProcessEvidence, sides
from mlpbench.judging.judgement import Comparison, Judgement, Margins
from mlpbench.judging.metrics import Benchmark, Verdict
from mlpbench.judging.verdict import judge
from mlpbench.records.kinds import Noise, Plan
from mlpbench.records.results import Results

SIZE = 5
"""The number of processes of a side, as in the default preset."""


def floors(results: Results, plan: Plan, session: str) -> list[Noise]:
    """Return the noise floor of each operation of an `aa` run.

    Each comparison takes 5 successive processes of the run, as in the default preset, and 5 later ones.

    Raises:
        InputError: if the run has fewer than 10 processes.
    """
    processes = _in_order(results, plan)
    judgements = self_comparisons(processes, SIZE)
    if not judgements:
        raise InputError(f"a noise floor needs {2 * SIZE} processes, not {len(processes)}; nothing is stored")
    noises = []
    for operation in plan.operations:
        comparisons = [c for j in judgements for c in j.comparisons if c.benchmark == f"ab/{operation}"]
        noises.append(
            Noise(
                session=session,
                suite="ab",
                operation=operation,
                config=plan.config,
                processes=SIZE,
                comparisons=len(comparisons),
                floor_ratio=floor_ratio(comparisons),
                false_alarms=sum(c.verdict in (Verdict.SLOWER, Verdict.FASTER) for c in comparisons),
            )
        )
    return noises


def _in_order(results: Results, plan: Plan) -> list[dict[Benchmark, ProcessEvidence]]:
    """Return the evidence of each process of a plan, in the order of the processes."""
    base, new = sides(results, plan)
    side_of = {s.process: base if s.side == "a" else new for s in results.sessions.values() if s.run == plan.id}
    ordered = []
    for process, side in sorted(side_of.items(), key=lambda item: item[0]):
        key = str(process // 2)
        values = {benchmark: s.processes[key] for benchmark, s in side.items() if key in s.processes}
        if values:
            ordered.append(values)
    return ordered


def self_comparisons(processes: Sequence[Mapping[Benchmark, ProcessEvidence]], size: int) -> list[Judgement]:
    """Compare every `size` successive processes with every `size` successive processes that began after them."""
    judgements = []
    for start in range(len(processes) - 2 * size + 1):
        for other in range(start + size, len(processes) - size + 1):
            base, new = (as_evidence(processes[first : first + size]) for first in (start, other))
            judgements.append(judge(base, new, Margins()))
    return judgements


def as_evidence(processes: Sequence[Mapping[Benchmark, ProcessEvidence]]) -> dict[Benchmark, Evidence]:
    """Return the processes of one side as `judge` takes them; only benchmarks that all of them have measured."""
    shared = set(processes[0]).intersection(*processes)
    return {
        benchmark: Evidence(environment={}, processes={str(n): p[benchmark] for n, p in enumerate(processes)})
        for benchmark in processes[0]
        if benchmark in shared
    }


def floor_ratio(comparisons: Iterable[Comparison], share: float = 0.95) -> float:
    """Return the ratio, above 1, within which this share of the comparisons lies; up and down count alike.

    >>> floor_ratio([])
    1.0
    """
    distances = sorted(abs(math.log(c.ratio)) for c in comparisons)
    return math.exp(distances[math.ceil(share * len(distances)) - 1]) if distances else 1.0
