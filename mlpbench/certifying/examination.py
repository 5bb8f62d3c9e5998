"""Compare the readings of this machine with the reference table, and name the consequences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlpbench.certifying.probes import PROBES, STAGES

Digests = Mapping[str, str]
"""Digests by reading, such as `exp float32`."""
UNAVAILABLE = "not available"
"""The text in place of a digest, if this PyTorch cannot run the operation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Hold the digests of one process."""

    one_thread: Digests
    several_threads: Digests


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceTable:
    """Hold the digests of the reference machine, on one thread."""

    environment: Mapping[str, Any]
    digests: Digests
    by_setting: Mapping[str, Digests]
    """For each setting the digests that it changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """Hold everything that was measured on this machine."""

    table: ReferenceTable
    num_threads: int
    """The thread count of the readings on several threads."""
    answers: Mapping[str, bool]
    """For each part of portable/1: True if its known answer is correct here."""
    here: Reading
    """The reading without any setting."""
    by_setting: Mapping[str, Reading]
    """The readings under each setting; empty if no setting was examined."""


def differing(one: Digests, other: Digests) -> list[str]:
    """Return the readings whose bits differ, among those that both have."""
    both = [name for name in one if name in other and UNAVAILABLE not in (one[name], other[name])]
    return [name for name in both if one[name] != other[name]]


def of_kind(kind: str, readings: Iterable[str]) -> list[str]:
    """Return the readings of one kind, in the order of the probes."""
    names = set(readings)
    of_probes = [reading for name, probe in PROBES.items() if probe.kind == kind for reading in probe.readings(name)]
    return [reading for reading in of_probes if reading in names]


def defects(examination: Examination) -> list[str]:
    """Return the wrong known answers, and the exact operations whose bits differ from the table."""
    readings = (examination.here, *examination.by_setting.values())
    different = [
        name
        for reading in readings
        for digests in (reading.one_thread, reading.several_threads)
        for name in differing(examination.table.digests, digests)
    ]
    answers = [f"known answer of {part}" for part, is_right in examination.answers.items() if not is_right]
    return answers + of_kind("exact", different)


def first_stage(readings: Iterable[str]) -> str | None:
    """Return the stage in which a default run first uses one of these readings; None if it uses none."""
    operations = {reading.removesuffix(" float32") for reading in readings}
    return next((stage for stage, names in STAGES.items() if operations.intersection(names)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Hold the effect of a setting on the readings, and on a default run."""

    now_independent: list[str]
    """Readings that no longer depend on the thread count."""
    now_dependent: list[str]
    """Readings that depend on the thread count only under the setting."""
    now_equal: list[str]
    """Readings, on one thread, that equal the reference machine's only if both use the setting."""
    now_different: list[str]
    """Readings, on one thread, that no longer equal the reference machine's."""
    wrong: list[str]
    """Exact operations whose result is wrong under the setting."""
    stage_before: str | None
    """The first stage of a default run that depends on the thread count without the setting."""
    stage: str | None
    """The first stage of a default run that depends on the thread count under the setting."""


def effect(setting: str, table: ReferenceTable, before: Reading, after: Reading) -> Effect:
    """Compare the readings under a setting with the readings without it."""
    dependent_before = differing(before.one_thread, before.several_threads)
    dependent = differing(after.one_thread, after.several_threads)
    different_before = differing(table.digests, before.one_thread)
    is_in_table = setting in table.by_setting
    reference = {**table.digests, **table.by_setting[setting]} if is_in_table else {}
    different = differing(reference, after.one_thread) if is_in_table else different_before
    different_from_table = [
        *differing(table.digests, after.one_thread),
        *differing(table.digests, after.several_threads),
    ]
    return Effect(
        now_independent=[name for name in dependent_before if name not in dependent],
        now_dependent=[name for name in dependent if name not in dependent_before],
        now_equal=[name for name in different_before if name not in different],
        now_different=[name for name in different if name not in different_before],
        wrong=of_kind("exact", different_from_table),
        stage_before=first_stage(dependent_before),
        stage=first_stage(dependent),
    )
