"""Judge whether NEW is slower than BASE: a verdict for each benchmark, with error rates that hold for all together.

The unit of evidence is a process: the median of its blocks, on the log scale. Every number of a verdict follows from
the records alone, so that the same files give the same verdict on every machine.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlpbench.judging import screening
from mlpbench.judging import statistics as stats
from mlpbench.judging.evidence import Evidence, ProcessEvidence, sides
from mlpbench.judging.judgement import Comparison, Judgement, Margins, Omission
from mlpbench.judging.metrics import Benchmark, Metric, Verdict
from mlpbench.records.environment import compare, compare_machines, in_words
from mlpbench.records.kinds import Plan
from mlpbench.records.results import Results

ALPHA = 0.05
"""The probability of any false `slower` or `faster` among all benchmarks of a comparison."""
# A change of the machine may change a benchmark more than the control. On the log scale it changes a train step 1.25
# times as much (docs/evidence/README.md).
CONTROL_FACTOR = 1.5
# Settings of a side that may change the control workload too.
_TOUCHES_CONTROL = ("env:", "python=", "device=", "num_threads=")


def judge(
    base: Mapping[Benchmark, Evidence],
    new: Mapping[Benchmark, Evidence],
    margins: Margins,
    *,
    is_paired: bool = False,
    is_early: bool = False,
    has_control: bool = True,
    must_be_one_machine: bool = True,
    alpha: float = ALPHA,
) -> Judgement:
    """Compare the benchmarks that both sides have measured, and name all others with the reason.

    Slower or faster: the whole interval lies beyond the margin, after Holm's correction over the family of benchmarks.
    Same: the whole interval lies within the margin of the user, whatever the noise of the machine. Otherwise
    inconclusive.

    Args:
        base: the processes of each benchmark.
        new: likewise.
        margins: the changes that matter.
        is_paired: processes with equal keys were interleaved. If successive pairs are correlated, the interval is
            wider.
        is_early: more pairs are planned. So few pairs do not show whether they are correlated. So a verdict must hold
            for the strongest correlation that they do not exclude.
        has_control: the control workload of a pair may explain a difference between its processes. False where the
            sides differ in a setting that may change the control itself.
        must_be_one_machine: benchmarks of machines that are known to differ get no verdict.
        alpha: the probability of any false slower or faster.

    Raises:
        InputError: if a number from which a verdict would follow is not possible.
    """
    base, new = ({i: screening.usable(i, evidence) for i, evidence in side.items()} for side in (base, new))
    in_base, in_new = ([i for i, evidence in side.items() if not evidence.is_older] for side in (base, new))
    both = [i for i in in_base if i in set(in_new)]
    if is_paired:
        base, new = screening.partners(base, new, both), screening.partners(new, base, both)
    incomparable = {i: facts for i in both if must_be_one_machine and (facts := _other_machine(base[i], new[i]))}
    comparable = [i for i in both if i not in incomparable]
    unjudged = [i for i in comparable if not (base[i].processes and new[i].processes)]
    unreplicated = [i for i in comparable if i not in unjudged and not _is_replicated(i, base[i], new[i])]
    judged = [i for i in comparable if i not in unjudged and i not in unreplicated]
    stack = {i: _differing(base[i], new[i]) for i in judged}
    unknown = [_unknown(base[i], new[i]) for i in judged if must_be_one_machine]
    bits = [_compare_bits(i, base[i], new[i]) for i in judged if not i.metric.is_statistical]
    family = [i for i in judged if i.metric.is_statistical]
    effects = [
        _effect(i, base[i], new[i], is_paired=is_paired, has_control=has_control and not stack[i]) for i in family
    ]
    bounds = [_bound(i, base[i], new[i], margins, is_paired=is_paired) for i in family]
    cautions = [_early_widening(effect) if is_early and is_paired else 1.0 for effect in effects]
    cautious = [effect.widened(factor) for effect, factor in zip(effects, cautions, strict=True)]
    p_values = stats.holm([e.p_beyond(bound.ratio) for e, bound in zip(cautious, bounds, strict=True)])
    comparisons = []
    for number, benchmark in enumerate(family):
        effect, bound, p_value = effects[number], bounds[number], p_values[number]
        interval = cautious[number].interval(1 - alpha)
        verdict = _verdict(benchmark.metric, effect, interval, bound, is_significant=p_value <= alpha)
        comparison = _comparison(
            benchmark,
            base[benchmark],
            new[benchmark],
            interval=effect.interval(1 - alpha),
            bound=bound,
            p_value=p_value,
            detectable_ratio=effect.detectable(bound.ratio, alpha / len(family)),
            verdict=verdict,
            is_paired=is_paired,
        )
        comparison = replace(
            comparison,
            pair_correlation=effect.correlation.estimate if is_paired and effect.correlation else None,
            widening=_widening(effect) if is_paired else 1.0,
            early_widening=cautions[number],
            must_find_ratio=margins.must_find_ratio,
        )
        if comparison.is_blind:
            comparison = replace(comparison, num_needed=_num_needed(comparison, effect, alpha / len(family)))
        comparisons.append(comparison)
    changed, missing, added = _unmatched([i for i in in_base if i not in both], [i for i in in_new if i not in both])
    older = [i for i in dict.fromkeys([*base, *new]) if i not in in_base and i not in in_new]
    return Judgement(
        comparisons=tuple(comparisons + bits),
        new=added,
        missing=missing,
        changed=changed,
        incomparable=tuple(f"{i}: {facts}" for i, facts in incomparable.items()),
        unknown_machine=tuple(dict.fromkeys(name for names in unknown for name in names)),
        unreplicated=tuple(map(str, unreplicated)),
        unjudged=tuple(screening.reason(i, base[i], new[i]) for i in unjudged),
        older=tuple(map(str, older)),
        omitted=tuple(
            Omission(benchmark=str(i), side=name, reason=reason)
            for name, side in (("BASE", base), ("NEW", new))
            for i, evidence in side.items()
            if i not in unjudged
            for reason in evidence.omissions
        ),
        different=tuple(dict.fromkeys(fields for fields in stack.values() if fields)),
    )


def _widening(effect: stats.Effect) -> float:
    """Return the factor by which the pairs' own correlation widens the interval."""
    correlation = effect.correlation
    return correlation.widening if correlation and correlation.is_significant else 1.0


def _early_widening(effect: stats.Effect) -> float:
    """Return the factor for a correlation that the pairs so far do not exclude, beyond `_widening`."""
    # Fewer than four pairs exclude nothing.
    return effect.correlation.largest_widening / _widening(effect) if effect.correlation else math.inf


def _num_needed(comparison: Comparison, effect: stats.Effect, alpha: float) -> int | None:
    """Estimate the number of pairs, or of processes on each side, that finds the change that must be found."""
    assert comparison.must_find_ratio is not None, "a comparison is blind to a change that was asked for"
    replicates = round(2 / (1 / comparison.num_base + 1 / comparison.num_new))
    return effect.replicates_for(comparison.must_find_ratio, replicates, comparison.margin_ratio, alpha)


def _comparison(
    benchmark: Benchmark,
    base: Evidence,
    new: Evidence,
    *,
    interval: stats.Interval,
    bound: "_Bound",
    p_value: float,
    detectable_ratio: float,
    verdict: Verdict,
    is_paired: bool = False,
) -> Comparison:
    """Return a comparison with the numbers that all metrics share; the caller gives the rest."""
    ones, others = list(base.processes.values()), list(new.processes.values())
    middle = statistics.median if benchmark.metric.is_statistical else min
    return Comparison(
        metric=benchmark.metric,
        benchmark=benchmark.name,
        base=middle([s.value for s in ones]),
        new=middle([s.value for s in others]),
        ratio=interval.estimate,
        low_ratio=interval.low,
        high_ratio=interval.high,
        margin_ratio=bound.ratio,
        margin_from=bound.source,
        control_ratio=bound.control_ratio,
        p_value=p_value,
        detectable_ratio=detectable_ratio,
        verdict=verdict,
        num_base=len(ones),
        num_new=len(others),
        is_paired=is_paired,
        flagged_share=sum(s.num_flagged for s in ones + others) / sum(s.num_blocks for s in ones + others),
    )


def _compare_bits(benchmark: Benchmark, base: Evidence, new: Evidence) -> Comparison:
    """Compare two reruns: bits are equal or not, so that there is no ratio and no noise."""
    one, other = (min(s.value for s in side.processes.values()) for side in (base, new))
    return _comparison(
        benchmark,
        base,
        new,
        interval=stats.Interval(estimate=math.nan, low=math.nan, high=math.nan, coverage=math.nan),
        bound=_Bound(ratio=1.0, source="default", asked_ratio=1.0, control_ratio=None),
        p_value=0.0 if one != other else 1.0,
        detectable_ratio=1.0,
        verdict=Verdict.SAME if one == other else benchmark.metric.verdict(other - one),
    )


def _other_machine(base: Evidence, new: Evidence) -> str:
    """Return the facts that show that the sides are of two machines, with both values; empty if none does."""
    return in_words(compare_machines(base.environment, new.environment).differing)


def _differing(base: Evidence, new: Evidence) -> str:
    """Return the facts that are known to differ, as text with both values; empty if none does."""
    one, other = base.environment, new.environment
    names = [name for name in dict.fromkeys((*one, *other)) if one and other]
    return in_words(compare(one, other, names).differing)


def _unknown(base: Evidence, new: Evidence) -> tuple[str, ...]:
    """Return the facts without which it is not known whether the sides are of one machine."""
    if not (base.environment or new.environment):
        return ()
    return compare_machines(base.environment, new.environment).unknown


def _is_replicated(benchmark: Benchmark, base: Evidence, new: Evidence) -> bool:
    """True if both sides have enough processes for a verdict."""
    needed = 2 if benchmark.metric.is_statistical else 1
    return min(len(base.processes), len(new.processes)) >= needed


def _effect(benchmark: Benchmark, base: Evidence, new: Evidence, *, is_paired: bool, has_control: bool) -> stats.Effect:
    """Return the change of one benchmark; accuracies pair up by seed, if both sides have two common seeds."""
    pairs = [key for key in base.processes if key in new.processes]
    if is_paired or (benchmark.metric is Metric.TEST_ACCURACY and len(pairs) >= 2):
        ones, others = [base.processes[k] for k in pairs], [new.processes[k] for k in pairs]
        differences = [_difference(one, other) for one, other in zip(ones, others, strict=True)]
        shifts = [_control_shift(one, other) for one, other in zip(ones, others, strict=True)]
        usable = [shift for shift in shifts if shift is not None]
        # With fewer than four pairs, the slope of the control costs more than it explains.
        is_used = has_control and len(usable) == len(pairs) >= 4
        effect = stats.paired_effect(differences, usable if is_used else None)
        return effect.widened(_widening(effect)) if is_paired else effect
    ones, others = list(base.processes.values()), list(new.processes.values())
    values = [[math.log(process.value) for process in side] for side in (ones, others)]
    return stats.unpaired_effect(*values)


def _difference(one: ProcessEvidence, other: ProcessEvidence) -> float:
    """Return the log ratio of a pair: the median over their common rounds; without any, the ratio of the values."""
    common = [math.log(other.rounds[r] / one.rounds[r]) for r in one.rounds if r in other.rounds]
    return statistics.median(common) if common else math.log(other.value / one.value)


def _control_shift(one: ProcessEvidence, other: ProcessEvidence) -> float | None:
    return math.log(other.control_s / one.control_s) if one.control_s and other.control_s else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bound:
    """Hold the margin of one benchmark."""

    ratio: float
    """The ratio that a change must exceed."""
    source: str
    asked_ratio: float
    """The ratio that matters to the user, whatever the noise of the machine."""
    control_ratio: float | None


def _bound(benchmark: Benchmark, base: Evidence, new: Evidence, margins: Margins, *, is_paired: bool) -> _Bound:
    """Return the margin of one benchmark: the user's margin, or a wider one for unpaired processes.

    Unpaired processes ran at different times, so that a change must exceed the noise of the machine. If the control
    moved between them, the machine changed its speed. Then a change must also exceed what that can have caused.
    """
    asked_ratio, source = margins.asked(*benchmark, is_paired=is_paired)
    ratio = asked_ratio
    if benchmark.metric is Metric.SECONDS and not is_paired and margins.noise_ratio > ratio:
        ratio, source = margins.noise_ratio, "noise"
    controls = [[math.log(s.control_s) for s in side.processes.values() if s.control_s] for side in (base, new)]
    if not all(controls):
        return _Bound(ratio=ratio, source=source, asked_ratio=asked_ratio, control_ratio=None)
    shift = statistics.fmean(controls[1]) - statistics.fmean(controls[0])
    explained_ratio = math.exp(CONTROL_FACTOR * abs(shift))
    if not is_paired and explained_ratio > ratio:
        ratio, source = explained_ratio, "control"
    return _Bound(ratio=ratio, source=source, asked_ratio=asked_ratio, control_ratio=math.exp(shift))


def _verdict(
    metric: Metric, effect: stats.Effect, interval: stats.Interval, bound: _Bound, *, is_significant: bool
) -> Verdict:
    if is_significant:
        return metric.verdict(effect.log_ratio)
    is_within = 1 / bound.asked_ratio <= interval.low and interval.high <= bound.asked_ratio
    return Verdict.SAME if is_within else Verdict.INCONCLUSIVE


def _unmatched(
    base: Sequence[Benchmark], new: Sequence[Benchmark]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the changed, missing and new benchmarks.

    A benchmark has changed if it is the only one of its suite and operation on each side.
    """

    def stem(benchmark: Benchmark) -> tuple[Metric, str]:
        return benchmark.metric, benchmark.name.split(" ", 1)[0]

    changed, missing, added = [], list(base), list(new)
    for one in base:
        rivals = [i for i in base if stem(i) == stem(one)]
        others = [i for i in new if stem(i) == stem(one)]
        if len(rivals) == len(others) == 1:
            changed.append(f"{one} → {others[0]}")
            missing.remove(one)
            added.remove(others[0])
    return tuple(changed), tuple(map(str, missing)), tuple(map(str, added))


def looks(pairs: int) -> list[int]:
    """Return the numbers of pairs after which the verdicts of a plan are read.

    They are fixed beforehand, so that looking more often does not find more false changes.

    >>> looks(12), looks(3)
    ([6, 9, 12], [3])
    """
    return sorted({count for count in (math.ceil(pairs / 2), math.ceil(3 * pairs / 4)) if count >= 4} | {pairs})


def judge_plan(results: Results, plan: Plan, margins: Margins) -> Judgement:
    """Judge the two sides of an `ab` run; each look gets an equal share of the error.

    Both sides ran on one machine. A difference in their environments is the subject of the comparison, so that no
    field must agree.
    """
    base, new = sides(results, plan)
    num_pairs = max((len(base[i].processes.keys() & new[i].processes.keys()) for i in base if i in new), default=0)
    judgement = judge(
        base,
        new,
        margins,
        is_paired=plan.interleaved,
        is_early=num_pairs < plan.pairs,
        has_control=not any(label.startswith(_TOUCHES_CONTROL) for label in (*plan.a, *plan.b)),
        must_be_one_machine=False,
        alpha=ALPHA / len(looks(plan.pairs)) if plan.interleaved else ALPHA,
    )
    measured = {benchmark.name.split(" ", 1)[0].rpartition("/")[2] for benchmark in (*base, *new)}
    reasons = {skip.operation: skip.reason for skip in results.skips if results.sessions[skip.session].run == plan.id}
    absent = [
        Omission(benchmark=f"ab/{name}", side="", reason=reasons.get(name, "planned, but not measured"))
        for name in plan.operations
        if name not in measured
    ]
    ending = results.endings.get(plan.id)
    return replace(
        judgement,
        unjudged=(*judgement.unjudged, *absent),
        stopped="" if num_pairs >= plan.pairs else ending.reason if ending else "not finished",
    )
