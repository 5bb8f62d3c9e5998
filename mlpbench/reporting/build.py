"""Build the report from results and certificates: its head, its facts and its sections, in reading order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlpbench.certifying.certificate import Certificate
from mlpbench.records.results import Results
from mlpbench.reporting.section import Fact, Part, ReportData, Section
from mlpbench.reporting.sections import (
    activations,
    comparisons,
    engines,
    history,
    machine,
    memory,
    reproducibility,
    suite,
    training,
    verdicts,
)

# In reading order. A new section is a function in a file of `sections/` and a line here.
PARTS: tuple[Callable[[ReportData], Part], ...] = (
    verdicts.of_plans,
    suite.make,
    comparisons.make,
    training.make,
    activations.make,
    reproducibility.determinism,
    engines.make,
    memory.make,
    machine.make,
    reproducibility.make,
    history.make,
    machine.protocol,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Hold a report, ready to be printed or written."""

    summary: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    target: float


def build(results: Results, certificates: Iterable[Certificate], target: float) -> Report:
    """Build the report.

    Args:
        results: the records to report on.
        certificates: certificates to compare with each other.
        target: the test accuracy that time-to-accuracy refers to, a fraction.
    """
    data = ReportData(results=results, certificates=tuple(certificates), target=target)
    parts = [make(data) for make in PARTS]
    return Report(
        summary=machine.summary(results),
        facts=tuple(fact for part in parts for fact in part.facts),
        sections=tuple(section for part in parts for section in part.sections),
        target=target,
    )
