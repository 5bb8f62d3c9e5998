"""Define the words of a judgement: what is compared, and the verdicts."""

from enum import StrEnum
from typing import NamedTuple, Self


class Verdict(StrEnum):
    """Name the outcomes of a comparison, what needs attention first."""

    SLOWER = "slower"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    FASTER = "faster"
    BETTER = "better"
    SAME = "same"

    @property
    def is_regression(self) -> bool:
        """True if a gate fails on this verdict unless told otherwise."""
        return self in (self.SLOWER, self.WORSE)


class Metric(StrEnum):
    """Name what is compared; each metric carries its words, its unit and its direction."""

    quantity: str
    """The quantity, for headings."""
    suffix: str
    """The unit, as a suffix of column names."""
    is_higher_better: bool
    is_statistical: bool
    """False where values are equal or not, so that one process is enough and no ratio is taken."""
    words: tuple[Verdict, Verdict]
    """The verdicts for a change for the worse and for the better."""

    def __new__(  # noqa: PLR0917
        cls,
        name: str,
        quantity: str,
        suffix: str,
        is_higher_better: bool,  # noqa: FBT001 (members are written as one line each)
        is_statistical: bool,  # noqa: FBT001
        words: tuple[Verdict, Verdict],
    ) -> Self:
        """Make a member, whose value is its name in records and files."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.quantity, member.suffix, member.words = quantity, suffix, words
        member.is_higher_better, member.is_statistical = is_higher_better, is_statistical
        return member

    SECONDS = "seconds", "Time", "_s", False, True, (Verdict.SLOWER, Verdict.FASTER)
    PEAK_BYTES = "peak_bytes", "Peak memory", "_bytes", False, True, (Verdict.WORSE, Verdict.BETTER)
    TEST_ACCURACY = "test_accuracy", "Test accuracy", "_accuracy", True, True, (Verdict.WORSE, Verdict.BETTER)
    EQUAL_BITS = "equal_bits", "Equal bits", "", True, False, (Verdict.WORSE, Verdict.BETTER)

    def verdict(self, log_ratio: float) -> Verdict:
        """Return the verdict on a significant change, from the logarithm of new over base."""
        worse, better = self.words
        return better if (log_ratio > 0) == self.is_higher_better else worse


class Benchmark(NamedTuple):
    """Identify what is compared: a metric of a named benchmark."""

    metric: Metric
    name: str

    def __str__(self) -> str:
        """Return the name; for other metrics than time with the metric."""
        return self.name if self.metric is Metric.SECONDS else f"{self.name} ({self.metric})"
