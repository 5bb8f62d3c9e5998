"""What was found out about this machine's bits, and what follows from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlpbench.certifying.probes import PROBES, STAGES

Digests = Mapping[str, str]  # by reading, such as `exp float32`
UNAVAILABLE = "not available"  # in place of a digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Digests on one thread, and on several."""

    one: Digests
    many: Digests


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceTable:
    """The digests of one machine on one thread; of those under a setting, the ones that differ."""

    environment: Mapping[str, Any]
    digests: Digests
    under: Mapping[str, Digests]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """All that was found out about this machine."""

    table: ReferenceTable
    num_threads: int  # of the readings on several
    answers: Mapping[str, bool]  # by part: whether the known answer of portable/1 comes out
    here: Reading  # as it is
    under: Mapping[str, Reading]  # by setting; empty if that was not asked for


def differing(one: Digests, other: Digests) -> list[str]:
    """The readings whose bits differ, of those that both have."""
    both = [name for name in one if name in other and UNAVAILABLE not in (one[name], other[name])]
    return [name for name in both if one[name] != other[name]]


def of_kind(kind: str, readings: Iterable[str]) -> list[str]:
    """Those of one kind, in the order of the probes."""
    wanted = set(readings)
    named = [reading for name, probe in PROBES.items() if probe.kind == kind for reading in probe.readings(name)]
    return [reading for reading in named if reading in wanted]


def defects(found: Examination) -> list[str]:
    """Known answers that do not come out, and readings that differ from the table though there is one right answer."""
    readings = (found.here, *found.under.values())
    wrong = [name for r in readings for of in (r.one, r.many) for name in differing(found.table.digests, of)]
    answers = [f"known answer of {part}" for part, is_right in found.answers.items() if not is_right]
    return answers + of_kind("exact", wrong)


def first_stage(readings: Iterable[str]) -> str | None:
    """Where a default run first meets one of these; None if it does not."""
    met = {reading.removesuffix(" float32") for reading in readings}
    return next((stage for stage, names in STAGES.items() if met.intersection(names)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What a setting changes: names of readings, and the stages of a default run."""

    steadied: list[str]  # no longer depend on the number of threads
    unsettled: list[str]  # now do
    agreed: list[str]  # are now as on the table's machine under the same setting, on one thread
    parted: list[str]  # no longer are
    broken: list[str]  # have one right answer, and give another
    stage_before: str | None  # of a default run: the first that depends on the number of threads
    stage: str | None


def effect(setting: str, table: ReferenceTable, before: Reading, after: Reading) -> Effect:
    """Compare the readings under a setting with those before."""
    depended, depend = differing(before.one, before.many), differing(after.one, after.many)
    apart = differing(table.digests, before.one)
    there = {**table.digests, **table.under[setting]} if setting in table.under else {}
    still = differing(there, after.one) if there else apart
    wrong = [*differing(table.digests, after.one), *differing(table.digests, after.many)]
    return Effect(
        steadied=[name for name in depended if name not in depend],
        unsettled=[name for name in depend if name not in depended],
        agreed=[name for name in apart if name not in still],
        parted=[name for name in still if name not in apart],
        broken=of_kind("exact", wrong),
        stage_before=first_stage(depended),
        stage=first_stage(depend),
    )
