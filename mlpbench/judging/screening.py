"""Leave out what cannot be judged, and say so: impossible values, and processes without a partner."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlpbench.judging.evidence import Evidence
from mlpbench.judging.judgement import Omission
from mlpbench.judging.metrics import Benchmark


def is_possible(value: float) -> bool:
    """True for a finite number above 0: nothing else has a logarithm."""
    return math.isfinite(value) and value > 0


def usable(benchmark: Benchmark, evidence: Evidence) -> Evidence:
    """Return the evidence without values that nothing can have measured, and with a remark about them."""
    is_statistical = benchmark.metric.is_statistical
    processes = {
        key: replace(
            process,
            rounds={number: value for number, value in process.rounds.items() if is_possible(value)},
            control_s=process.control_s if process.control_s and is_possible(process.control_s) else None,
        )
        for key, process in evidence.processes.items()
        if (is_possible(process.value) if is_statistical else process.value in (0, 1))
    }
    num_lost = len(evidence.processes) - len(processes)
    if not num_lost:
        return replace(evidence, processes=processes)
    remark = f"processes whose value is not a possible {benchmark.metric.quantity.lower()}: {num_lost}"
    return replace(evidence, processes=processes, omissions=(*evidence.omissions, remark))


def partners(
    side: Mapping[Benchmark, Evidence], other: Mapping[Benchmark, Evidence], both: Iterable[Benchmark]
) -> dict[Benchmark, Evidence]:
    """Return a side with the processes that have a partner on the other side, in the order of the pairs."""
    paired = dict(side)
    for benchmark in both:
        evidence = side[benchmark]
        keys = [key for key in evidence.processes if key in other[benchmark].processes]
        # The pairs of a resumed run may have been measured in another order than they are counted.
        keys = sorted(keys, key=int) if all(key.isdecimal() for key in keys) else keys
        num_alone = len(evidence.processes) - len(keys)
        remarks = (f"processes without a partner on the other side: {num_alone}",)
        paired[benchmark] = replace(
            evidence,
            processes={key: evidence.processes[key] for key in keys},
            omissions=(*evidence.omissions, *(remarks if num_alone else ())),
        )
    return paired


def reason(benchmark: Benchmark, base: Evidence, new: Evidence) -> Omission:
    """Return the reason why a benchmark that both sides have measured cannot be judged."""
    unknown = ("no usable value",)
    reasons = {
        name: "; ".join(evidence.omissions or unknown)
        for name, evidence in (("BASE", base), ("NEW", new))
        if not evidence.processes
    }
    if len(reasons) == 1:
        ((side, text),) = reasons.items()
    else:
        side, text = "", "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return Omission(benchmark=str(benchmark), side=side, reason=text)
