"""Judge: is NEW slower than BASE? A verdict for each benchmark, with error rates that hold for all together.

The unit of evidence is a process: the median of its blocks, on the log scale. Every number of a verdict follows from
the records alone, so that the same files give the same verdict anywhere.
"""

import fnmatch
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlpbench.judging import statistics as stats
from mlpbench.judging.evidence import MACHINE, STACK, Sample, Samples, sides
from mlpbench.judging.metrics import Benchmark, Metric, Verdict
from mlpbench.records.kinds import Plan
from mlpbench.records.results import Results

ALPHA = 0.05  # of any false `slower` or `faster` among all benchmarks of a comparison
MARGIN_RATIO = 1.03
PAIRED_MARGIN_RATIO = 1.01  # for pairs that took turns: what changes the machine changes both
# A benchmark may feel a change of the machine more than the control does: on the log scale, a train step 1.25 times
# as much (docs/evidence/README.md).
CONTROL_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The verdict on one benchmark: base against new."""

    metric: Metric
    benchmark: str
    base: float  # median over processes
    new: float
    ratio: float  # new over base
    low_ratio: float
    high_ratio: float
    margin_ratio: float  # a change within 1/margin to margin does not count
    margin_from: str  # where the margin comes from: default, option, threshold, noise, control
    control_ratio: float | None  # how far the control workload moved, new over base; None: it did not run
    p_value: float  # of no change beyond the margin, adjusted for the family
    detectable_ratio: float  # the smallest true change that would be found 4 times out of 5
    verdict: Verdict
    num_base: int  # processes, or seeds
    num_new: int
    is_paired: bool
    flagged_share: float  # of the blocks, whatever the flag


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Everything that comparing two sets of results says."""

    comparisons: tuple[Comparison, ...]
    new: tuple[str, ...] = ()  # benchmarks without a base
    missing: tuple[str, ...] = ()  # benchmarks that NEW has not run
    changed: tuple[str, ...] = ()  # of the same name, but another workload: what differs
    incomparable: tuple[str, ...] = ()  # measured where times do not compare: which field differs
    different: tuple[str, ...] = ()  # differs in the stack, which may be what is compared
    unreplicated: tuple[str, ...] = ()  # one process on a side: no verdict

    def exit_code(self, also_fail_on: Iterable[str] = (), *, allow_missing: bool = False) -> int:
        """0 no regression; 1 a regression, or what was to fail too; 3 inconclusive, where that was; 4 not all compared.

        A benchmark that is missing, changed, on another machine or in one process has not been judged: a gate that lets
        it pass would pass without having measured.
        """
        verdicts = {c.verdict for c in self.comparisons}
        failing = {Verdict.SLOWER, Verdict.WORSE, *also_fail_on} - {Verdict.INCONCLUSIVE}
        if verdicts & failing:
            return 1
        not_judged = self.missing or self.changed or self.incomparable or self.unreplicated
        if not self.comparisons or (not_judged and not allow_missing):
            return 4
        return 3 if Verdict.INCONCLUSIVE in {*also_fail_on} & verdicts else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """The change that matters, and the noise of the machine that a change has to exceed."""

    default_ratio: float | None = None  # of an option; else 3 %, or 1 % for pairs
    thresholds: Mapping[str, float] = field(
        default_factory=dict
    )  # glob over `benchmark` or `metric:benchmark` -> ratio
    noise_ratio: float = 1.0  # this machine's measured A/A floor, of unpaired processes

    def asked(self, metric: Metric, benchmark: str, *, is_paired: bool) -> tuple[float, str]:
        """The change that matters to the user, as a ratio, and who says so; of the globs that fit, the last one."""
        ratio, source = (PAIRED_MARGIN_RATIO if is_paired else MARGIN_RATIO), "default"
        if self.default_ratio is not None:
            ratio, source = self.default_ratio, "option"
        for glob, threshold in self.thresholds.items():
            if any(fnmatch.fnmatchcase(name, glob) for name in (benchmark, f"{metric}:{benchmark}")):
                ratio, source = threshold, "threshold"
        return ratio, source


# --- the verdict ------------------------------------------------------------------------------------------------------


def judge(
    base: Mapping[Benchmark, Samples],
    new: Mapping[Benchmark, Samples],
    margins: Margins,
    *,
    is_paired: bool = False,
    has_control: bool = True,
    machine: Iterable[str] = MACHINE,
    alpha: float = ALPHA,
) -> Judgement:
    """Compare what both have measured.

    Slower or faster: the interval lies wholly beyond the margin, after Holm's correction over the family of benchmarks.
    Same: it lies within the margin that was asked for, whatever the machine's noise. Else inconclusive.

    Args:
        base: the processes of each benchmark.
        new: likewise.
        margins: the change that matters.
        is_paired: equal keys ran in turns.
        has_control: the control workload of a pair may explain what sets its processes apart; not where the sides
            differ in what may change the control itself.
        machine: the fields of the environment that have to agree.
        alpha: the probability of any false slower or faster.
    """
    both = [benchmark for benchmark in base if benchmark in new]
    incomparable = {i: _differing(base[i], new[i], machine) for i in both}
    unreplicated = [i for i in both if not incomparable[i] and not _is_replicated(i, base[i], new[i])]
    judged = [i for i in both if not incomparable[i] and i not in unreplicated]
    bits = [_compare_bits(i, base[i], new[i]) for i in judged if not i.metric.is_statistical]
    family = [i for i in judged if i.metric.is_statistical]
    stack = {i: _differing(base[i], new[i], (*MACHINE, *STACK)) for i in judged}
    effects = [
        _effect(i, base[i], new[i], is_paired=is_paired, has_control=has_control and not stack[i]) for i in family
    ]
    bounds = [_bound(i, base[i], new[i], margins, is_paired=is_paired) for i in family]
    p_values = stats.holm([e.p_beyond(bound.ratio) for e, bound in zip(effects, bounds, strict=True)])
    comparisons = []
    for benchmark, effect, bound, p_value in zip(family, effects, bounds, p_values, strict=True):
        ones, others = (list(side[benchmark].processes.values()) for side in (base, new))
        interval = effect.interval(1 - alpha)
        comparisons.append(
            Comparison(
                metric=benchmark.metric,
                benchmark=benchmark.name,
                base=statistics.median(s.value for s in ones),
                new=statistics.median(s.value for s in others),
                ratio=interval.estimate,
                low_ratio=interval.low,
                high_ratio=interval.high,
                margin_ratio=bound.ratio,
                margin_from=bound.source,
                control_ratio=bound.control_ratio,
                p_value=p_value,
                detectable_ratio=effect.detectable(bound.ratio, alpha / len(family)),
                verdict=_verdict(benchmark.metric, effect, interval, bound, is_significant=p_value <= alpha),
                num_base=len(ones),
                num_new=len(others),
                is_paired=is_paired,
                flagged_share=sum(s.num_flagged for s in ones + others) / sum(s.num_blocks for s in ones + others),
            )
        )
    changed, missing, added = _unmatched([i for i in base if i not in new], [i for i in new if i not in base])
    return Judgement(
        comparisons=tuple(comparisons + bits),
        new=added,
        missing=missing,
        changed=changed,
        incomparable=tuple(f"{i}: {fields}" for i, fields in incomparable.items() if fields),
        different=tuple(dict.fromkeys(fields for fields in stack.values() if fields)),
        unreplicated=tuple(map(str, unreplicated)),
    )


def _differing(base: Samples, new: Samples, names: Iterable[str]) -> str:
    one, other = base.environment, new.environment
    return "; ".join(
        f"{name} {one[name]} → {other[name]}"
        for name in names
        if name in one and name in other and one[name] != other[name]
    )


def _is_replicated(benchmark: Benchmark, base: Samples, new: Samples) -> bool:
    needed = 2 if benchmark.metric.is_statistical else 1
    return min(len(base.processes), len(new.processes)) >= needed


def _effect(benchmark: Benchmark, base: Samples, new: Samples, *, is_paired: bool, has_control: bool) -> stats.Effect:
    pairs = [key for key in base.processes if key in new.processes]
    if is_paired or (benchmark.metric is Metric.TEST_ACCURACY and len(pairs) >= 2):
        ones, others = [base.processes[k] for k in pairs], [new.processes[k] for k in pairs]
        differences = [_difference(one, other) for one, other in zip(ones, others, strict=True)]
        shifts = [_control_shift(one, other) for one, other in zip(ones, others, strict=True)]
        usable = [shift for shift in shifts if shift is not None]
        # with few pairs a line costs more than it explains
        is_used = has_control and len(usable) == len(pairs) >= 4
        return stats.paired_effect(differences, usable if is_used else None)
    ones, others = list(base.processes.values()), list(new.processes.values())
    values = [[math.log(sample.value) for sample in side] for side in (ones, others)]
    return stats.unpaired_effect(*values)


def _difference(one: Sample, other: Sample) -> float:
    """The log ratio of a pair: the median over the rounds that both have, else of the two values."""
    common = [math.log(other.rounds[r] / one.rounds[r]) for r in one.rounds if r in other.rounds]
    return statistics.median(common) if common else math.log(other.value / one.value)


def _control_shift(one: Sample, other: Sample) -> float | None:
    return math.log(other.control_s / one.control_s) if one.control_s and other.control_s else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bound:
    """What a change of one benchmark has to exceed."""

    ratio: float
    source: str
    asked_ratio: float  # what matters to the user, whatever the machine's noise
    control_ratio: float | None


def _bound(benchmark: Benchmark, base: Samples, new: Samples, margins: Margins, *, is_paired: bool) -> _Bound:
    """Unpaired processes ran at different times.

    If the control moved between them the machine did, and only a change counts that is larger than what the machine's
    can have made.
    """
    asked_ratio, source = margins.asked(*benchmark, is_paired=is_paired)
    ratio = asked_ratio
    if benchmark.metric is Metric.SECONDS and not is_paired and margins.noise_ratio > ratio:
        ratio, source = margins.noise_ratio, "noise"
    controls = [[math.log(s.control_s) for s in side.processes.values() if s.control_s] for side in (base, new)]
    if not all(controls):
        return _Bound(ratio=ratio, source=source, asked_ratio=asked_ratio, control_ratio=None)
    shift = statistics.fmean(controls[1]) - statistics.fmean(controls[0])
    moved = math.exp(CONTROL_FACTOR * abs(shift))
    if not is_paired and moved > ratio:
        ratio, source = moved, "control"
    return _Bound(ratio=ratio, source=source, asked_ratio=asked_ratio, control_ratio=math.exp(shift))


def _verdict(
    metric: Metric, effect: stats.Effect, interval: stats.Interval, bound: _Bound, *, is_significant: bool
) -> Verdict:
    if is_significant:
        return metric.verdict(effect.log_ratio)
    within = 1 / bound.asked_ratio <= interval.low and interval.high <= bound.asked_ratio
    return Verdict.SAME if within else Verdict.INCONCLUSIVE


def _compare_bits(benchmark: Benchmark, base: Samples, new: Samples) -> Comparison:
    """Equal bits are equal or not: no statistics."""
    one, other = (min(s.value for s in side.processes.values()) for side in (base, new))
    return Comparison(
        metric=benchmark.metric,
        benchmark=benchmark.name,
        base=one,
        new=other,
        ratio=math.nan,
        low_ratio=math.nan,
        high_ratio=math.nan,
        margin_ratio=1.0,
        margin_from="default",
        control_ratio=None,
        p_value=0.0 if one != other else 1.0,
        detectable_ratio=1.0,
        verdict=Verdict.SAME if one == other else benchmark.metric.verdict(other - one),
        num_base=len(base.processes),
        num_new=len(new.processes),
        is_paired=False,
        flagged_share=0.0,
    )


def _unmatched(
    base: Sequence[Benchmark], new: Sequence[Benchmark]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Changed, missing and new benchmarks: one that is alone on each side under its suite and operation has changed."""

    def stem(benchmark: Benchmark) -> tuple[Metric, str]:
        return benchmark.metric, benchmark.name.split(" ", 1)[0]

    changed, gone, came = [], list(base), list(new)
    for one in base:
        rivals = [i for i in base if stem(i) == stem(one)]
        others = [i for i in new if stem(i) == stem(one)]
        if len(rivals) == len(others) == 1:
            changed.append(f"{one} → {others[0]}")
            gone.remove(one)
            came.remove(others[0])
    return tuple(changed), tuple(map(str, gone)), tuple(map(str, came))


def looks(pairs: int) -> list[int]:
    """After how many pairs a plan's verdicts are read: fixed beforehand, so that looking often does not find more.

    >>> looks(12), looks(3)
    ([6, 9, 12], [3])
    """
    return sorted({count for count in (math.ceil(pairs / 2), math.ceil(3 * pairs / 4)) if count >= 4} | {pairs})


# Settings of a side that may change the control workload too.
_TOUCHES_CONTROL = ("env:", "python=", "device=", "num_threads=")


def judge_plan(results: Results, plan: Plan, margins: Margins) -> Judgement:
    """The verdicts of `ab`'s two sides; each look has its share of the error.

    Both sides ran on one machine, so that what differs in the environment is what is compared.
    """
    return judge(
        *sides(results, plan),
        margins,
        is_paired=plan.interleaved,
        has_control=not any(label.startswith(_TOUCHES_CONTROL) for label in (*plan.a, *plan.b)),
        machine=(),
        alpha=ALPHA / len(looks(plan.pairs)) if plan.interleaved else ALPHA,
    )
