"""Define a judgement: the verdict on each benchmark, the benchmarks without one, and the exit code of the gate."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlpbench.judging import statistics as stats
from mlpbench.judging.metrics import Metric, Verdict

MARGIN_RATIO = 1.03
PAIRED_MARGIN_RATIO = 1.01
"""The margin of interleaved pairs. It is smaller, because a change of the machine changes both sides of a pair."""
# With a larger margin, nothing would ever be a regression.
_MOST = 1000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Hold the verdict on one benchmark, and the numbers behind it."""

    metric: Metric
    benchmark: str
    base: float
    """The median over processes; for bits the minimum."""
    new: float
    ratio: float
    """New over base."""
    low_ratio: float
    high_ratio: float
    margin_ratio: float
    """The margin: a change between 1/margin and margin does not count."""
    margin_from: str
    """The origin of the margin: default, option, threshold, noise or control."""
    control_ratio: float | None
    """The machine speed change: the control workload, new over base. None if it did not run."""
    p_value: float
    """The p value of no change beyond the margin, adjusted for the family."""
    detectable_ratio: float
    """The smallest true change that would be found 4 times out of 5."""
    verdict: Verdict
    num_base: int
    """The number of processes, or of seeds."""
    num_new: int
    is_paired: bool
    flagged_share: float
    """The share of disturbed blocks, whatever their flags."""
    pair_correlation: float | None = None
    """How far successive pairs resemble each other: about 0 if they are independent. None: no pairs, or too few."""
    widening: float = 1.0
    """The factor by which the interval is wider than that of independent pairs; 1 if no correlation was found."""
    early_widening: float = 1.0
    """The factor by which the interval had to be wider for a verdict before the last planned pair; 1 after it."""
    must_find_ratio: float | None = None
    """The change that the gate must be able to find. None: it was not asked for one."""
    num_needed: int | None = None
    """Estimated number of pairs, or of processes on each side, to find it. None: unknown, or it is found already."""

    @property
    def is_blind(self) -> bool:
        """True if a change that the gate must find could have been missed here."""
        if self.must_find_ratio is None or self.verdict not in (Verdict.SAME, Verdict.INCONCLUSIVE):
            return False
        return self.detectable_ratio > self.must_find_ratio


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Omission:
    """Tell that something of a benchmark does not count, and why."""

    benchmark: str
    side: str
    """BASE or NEW; empty for both."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Hold the result of comparing two sets of results.

    Every benchmark that a side names is in exactly one of the fields up to `older`. The fields after it add what a
    reader must know.
    """

    comparisons: tuple[Comparison, ...]
    new: tuple[str, ...] = ()
    """Benchmarks that BASE does not have."""
    missing: tuple[str, ...] = ()
    """Benchmarks that NEW does not have."""
    changed: tuple[str, ...] = ()
    """Benchmarks of the same name but another workload, with the difference."""
    incomparable: tuple[str, ...] = ()
    """Benchmarks whose machines cannot be compared, with the fields that differ."""
    unreplicated: tuple[str, ...] = ()
    """Benchmarks with only one process on a side, which get no verdict."""
    unjudged: tuple[Omission, ...] = ()
    """Benchmarks that were measured, but have no usable value on a side, with the reason."""
    older: tuple[str, ...] = ()
    """Benchmarks that only another source, machine or stack than the newest has measured."""
    omitted: tuple[Omission, ...] = ()
    """Measurements that do not count, though their benchmark may have a verdict from the others."""
    left_out: tuple[str, ...] = ()
    """For each side with processes of another machine, stack or source: how many, and why."""
    unknown_machine: tuple[str, ...] = ()
    """Facts without which it is not known whether both sides are of one machine."""
    different: tuple[str, ...] = ()
    """Differences of the stack, which may be the subject of the comparison."""
    stopped: str = ""
    """The reason why `ab` stopped before its last pair, for example a time limit; empty if it did not."""
    remarks: tuple[str, ...] = ()
    """What else limits the verdicts, for example a baseline that was accepted by force."""

    def exit_code(self, also_fail_on: Iterable[str] = (), *, allow_missing: bool = False) -> int:
        """Return the exit code of the gate.

        0: no regression. 1: a regression, or a verdict of `also_fail_on`. 3: inconclusive, if `also_fail_on` has it; or
        a change that must be found could have been missed. 4: a benchmark could not be judged.

        A benchmark that is missing, changed, on another machine, in one process or without a usable value has not been
        judged. A gate that let it pass would pass without a measurement.
        """
        verdicts = {c.verdict for c in self.comparisons}
        failing = {Verdict.SLOWER, Verdict.WORSE, *also_fail_on} - {Verdict.INCONCLUSIVE}
        if verdicts & failing:
            return 1
        not_judged = self.missing or self.changed or self.incomparable or self.unreplicated or self.unjudged
        if not self.comparisons or (not_judged and not allow_missing):
            return 4
        is_open = Verdict.INCONCLUSIVE in {*also_fail_on} & verdicts
        return 3 if is_open or any(c.is_blind for c in self.comparisons) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """Hold the changes that matter to the user, and the noise of the machine that a change must exceed."""

    default_ratio: float | None = None
    """The margin of an option; None for the default: 3 %, or 1 % for pairs."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Ratios by glob; a glob matches `benchmark` or `metric:benchmark`."""
    noise_ratio: float = 1.0
    """The noise floor of this machine, as `aa` measured it on unpaired processes."""
    must_find_ratio: float | None = None
    """The change that must not be missed. None: the gate passes whatever it could have missed."""

    def __post_init__(self) -> None:
        """Check every ratio, wherever it came from.

        Raises:
            InputError: if one is not a number from 1 to 1000.
        """
        for glob, ratio in self.thresholds.items():
            stats.check_ratio(ratio, f"the margin of {glob!r}", _MOST)
        stats.check_ratio(self.noise_ratio, "the noise floor", _MOST)
        for optional, name in ((self.default_ratio, "the margin"), (self.must_find_ratio, "the change to be found")):
            if optional is not None:
                stats.check_ratio(optional, name, _MOST)

    def asked(self, metric: Metric, benchmark: str, *, is_paired: bool) -> tuple[float, str]:
        """Return the ratio that matters to the user, and its origin; the last matching glob wins."""
        ratio, source = (PAIRED_MARGIN_RATIO if is_paired else MARGIN_RATIO), "default"
        if self.default_ratio is not None:
            ratio, source = self.default_ratio, "option"
        for glob, threshold in self.thresholds.items():
            if any(fnmatch.fnmatchcase(name, glob) for name in (benchmark, f"{metric}:{benchmark}")):
                ratio, source = threshold, "threshold"
        return ratio, source
