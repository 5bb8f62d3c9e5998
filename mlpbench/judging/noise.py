"""A machine against itself: how far apart, and how often wrongly judged, are two measurements of the same thing?"""

import math
from collections.abc import Iterable, Mapping, Sequence

from mlpbench.errors import InputError
from mlpbench.judging.evidence import Sample, Samples, sides
from mlpbench.judging.metrics import Benchmark, Verdict
from mlpbench.judging.verdict import Comparison, Judgement, Margins, judge
from mlpbench.records.kinds import Noise, Plan
from mlpbench.records.results import Results

SIZE = 5  # processes of a side, as the default preset has


def measured(results: Results, plan: Plan, session: str) -> list[Noise]:
    """What `aa` found: 5 successive processes of its run, as the default preset has, against as many later ones.

    Raises:
        InputError: if there were not so many.
    """
    ordered = _in_order(results, plan)
    judgements = self_comparisons(ordered, SIZE)
    if not judgements:
        raise InputError(f"a noise floor needs {2 * SIZE} processes, not {len(ordered)}; nothing is stored")
    made = []
    for operation in plan.operations:
        found = [c for j in judgements for c in j.comparisons if c.benchmark == f"ab/{operation}"]
        made.append(
            Noise(
                session=session,
                suite="ab",
                operation=operation,
                config=plan.config,
                processes=SIZE,
                comparisons=len(found),
                floor_ratio=floor_ratio(found),
                false_alarms=sum(c.verdict in (Verdict.SLOWER, Verdict.FASTER) for c in found),
            )
        )
    return made


def _in_order(results: Results, plan: Plan) -> list[dict[Benchmark, Sample]]:
    """What each process of a plan measured, in the order of the processes."""
    base, new = sides(results, plan)
    side_of = {s.process: base if s.side == "a" else new for s in results.sessions.values() if s.run == plan.id}
    ordered = []
    for process, side in sorted(side_of.items(), key=lambda item: item[0]):
        key = str(process // 2)
        found = {identity: s.processes[key] for identity, s in side.items() if key in s.processes}
        if found:
            ordered.append(found)
    return ordered


def self_comparisons(processes: Sequence[Mapping[Benchmark, Sample]], size: int) -> list[Judgement]:
    """Every comparison of `size` successive processes with as many that began after they were done."""
    made = []
    for start in range(len(processes) - 2 * size + 1):
        for other in range(start + size, len(processes) - size + 1):
            base, new = (as_samples(processes[first : first + size]) for first in (start, other))
            made.append(judge(base, new, Margins()))
    return made


def as_samples(processes: Sequence[Mapping[Benchmark, Sample]]) -> dict[Benchmark, Samples]:
    """Processes of one side, as `judge` takes them; of what all have measured."""
    shared = set(processes[0]).intersection(*processes)
    return {
        identity: Samples(environment={}, processes={str(n): p[identity] for n, p in enumerate(processes)})
        for identity in processes[0]
        if identity in shared
    }


def floor_ratio(comparisons: Iterable[Comparison], share: float = 0.95) -> float:
    """The ratio that this share of comparisons of a thing with itself stay within, up or down.

    >>> floor_ratio([])
    1.0
    """
    distances = sorted(abs(math.log(c.ratio)) for c in comparisons)
    return math.exp(distances[math.ceil(share * len(distances)) - 1]) if distances else 1.0
