"""Build the report from results and certificates: its head, its facts and its sections, in reading order."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mlpbench.certifying.certificate import Certificate
from mlpbench.records.results import Results
from mlpbench.reporting.section import Fact, Part, ReportData, Section, file_name
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
        facts=_distinct_facts([fact for part in parts for fact in part.facts]),
        sections=_distinct_sections([section for part in parts for section in part.sections]),
        target=target,
    )


def _distinct_facts(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Return the facts with names that differ: one that repeats gets its number."""
    names = _distinct([fact.name for fact in facts], " ({})")
    return tuple(replace(fact, name=name) for fact, name in zip(facts, names, strict=True))


def _distinct_sections(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return the sections with titles that differ, and with names that differ and can name a file."""
    titles = _distinct([section.title for section in sections], " ({})")
    names = _distinct([file_name(section.name) for section in sections], "-{}")
    return tuple(
        replace(section, title=title, name=name) for section, title, name in zip(sections, titles, names, strict=True)
    )


def _distinct(texts: Sequence[str], suffix: str) -> list[str]:
    """Return the texts; each that repeats gets the suffix with its number, the first of them has none."""
    results: dict[str, None] = {}
    for text in texts:
        numbers = itertools.count(2)
        other = text
        while other in results:
            other = text + suffix.format(next(numbers))
        results[other] = None
    return list(results)
