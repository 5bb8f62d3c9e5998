"""Where two certificates of the same run first differ, and how far the runs drift apart."""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mlpbench.certifying.certificate import STAGE_HEX, ULP_TYPES, Certificate, Detail, Entry, unpack
from mlpbench.config import RunConfig, format_value
from mlpbench.errors import InputError

# What may differ between two certificates of the same run: how it was computed, not what.
_HOW = ("device", "num_threads", "loader", "num_epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first stage in which two certificates differ, and by how much at the values that both have of it."""

    stage: str
    num_samples: int  # values that both have; 0: the step has no details
    num_different: int  # of those
    max_abs: float | None  # None: nothing to compare, or equal where both have values
    relative_norm: float | None  # norm of the difference over the norm of the first
    ulps: int | None  # most steps between neighbouring numbers of the stage's type; of little meaning near zero


def first_divergence(one: Certificate, other: Certificate) -> Divergence | None:
    """Where two certificates of the same run first differ, in the order of computing; None: nowhere.

    A shorter one is compared as far as it goes.

    Raises:
        InputError: if they are not of the same run.
    """
    check_same_run(one, other)
    details = [{detail.step: detail for detail in certificate.details} for certificate in (one, other)]
    for ours, theirs in _once(one.before, other.before):
        if ours.digest != theirs.digest:
            return _divergence(ours.stage, ours.dtype, ours.samples, theirs.samples)
    for step, lines in enumerate(zip(one.steps, other.steps, strict=False)):
        found = _in_step(one, step, lines, [of.get(step) for of in details])
        if found:
            return found
    for ours, theirs in _once(one.after, other.after):
        if one.num_steps == other.num_steps and ours.digest != theirs.digest:
            return _divergence(ours.stage, ours.dtype, ours.samples, theirs.samples)
    return None


def check_same_run(one: Certificate, other: Certificate) -> None:
    """See that two certificates can be compared.

    Raises:
        InputError: if they are not of the same run.
    """
    for f in fields(RunConfig):
        ours, theirs = getattr(one.config, f.name), getattr(other.config, f.name)
        is_how = f.name in _HOW or (f.name == "engine" and one.arithmetic == other.arithmetic != "PyTorch")
        if not is_how and ours != theirs:
            raise InputError(f"these are not of the same run: {f.name} {format_value(ours)} and {format_value(theirs)}")
    for name in ("arithmetic", "bits"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"these cannot be compared: {name} {ours} and {theirs}")
    lacking = set(_shapes(one)) ^ set(_shapes(other))
    if lacking:
        raise InputError(f"these cannot be compared: one lacks the stage {min(lacking)[0]!r}, or has it otherwise")


def _shapes(certificate: Certificate) -> list[tuple[str, str, int]]:
    """Name, type and size of every stage but the orders of epochs after the first, of which a longer run has more."""
    later = [f"order of epoch {epoch}" for epoch in range(1, certificate.num_steps)]
    once = [(e.stage, e.dtype, e.num_values) for e in (*certificate.before, *certificate.after)]
    return [shape for shape in once if shape[0] not in later] + [
        (stage.name, stage.dtype, stage.num_values) for stage in certificate.stages
    ]


def _once(ours: Iterable[Entry], theirs: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Entries of one name; a longer run has the orders of more epochs."""
    by_stage = {entry.stage: entry for entry in theirs}
    return ((entry, by_stage[entry.stage]) for entry in ours if entry.stage in by_stage)


def _in_step(one: Certificate, step: int, lines: Sequence[str], details: Sequence[Detail | None]) -> Divergence | None:
    """The first stage of a step that differs, by its line and, where both have them, its details."""
    ours, theirs = details
    if lines[0] == lines[1] and not (ours and theirs and ours.digests != theirs.digests):
        return None
    digests = [line.split(" ")[2] for line in lines]
    for index, stage in enumerate(one.stages):
        digits = slice(STAGE_HEX * index, STAGE_HEX * (index + 1))
        differs = digests[0][digits] != digests[1][digits]
        if differs or (ours and theirs and ours.digests[index] != theirs.digests[index]):
            samples = [detail.samples[index] if detail else "" for detail in details]
            return _divergence(f"step {step} {stage.name}", stage.dtype, *samples)
    return _divergence(f"step {step}", "float64", "", "")


def _divergence(stage: str, dtype: str, ours: str, theirs: str) -> Divergence:
    """The sizes of a difference, by the samples of both sides; there may be none."""
    nothing = {"max_abs": None, "relative_norm": None, "ulps": None}
    a, b = unpack(ours), unpack(theirs)
    if len(a) != len(b):  # one has no details of the step, or zoomed in on it
        return Divergence(stage=stage, num_samples=0, num_different=0, **nothing)
    different = a.view(np.int64) != b.view(np.int64)
    if not different.any():
        return Divergence(stage=stage, num_samples=len(a), num_different=0, **nothing)
    with np.errstate(all="ignore"):  # a run that diverged has infinities
        distance = np.abs(a - b)
        norm = float(np.linalg.norm(a))
        return Divergence(
            stage=stage,
            num_samples=len(a),
            num_different=int(different.sum()),
            max_abs=float(distance.max()),
            relative_norm=float(np.linalg.norm(distance)) / norm if norm else math.inf,
            ulps=max(abs(x - y) for x, y in zip(_ordered(a, dtype), _ordered(b, dtype), strict=True)),
        )


def _ordered(values: NDArray[np.float64], dtype: str) -> list[int]:
    """Whole numbers in the order of the values, neighbours one apart."""
    floating, whole = ULP_TYPES[dtype]
    bits = values.astype(floating).view(whole).astype(object)
    lowest = -(2 ** (8 * np.dtype(whole).itemsize - 1))
    return [int(b) if b >= 0 else lowest - int(b) for b in bits]


# --- drift ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far two runs are apart after a step, over the sampled parameters."""

    step: int
    relative_norm: float
    loss: float  # difference, in nats per sample


def drift(one: Certificate, other: Certificate) -> list[Drift]:
    """How far two certificates of the same run are apart at the steps of which both have details.

    Raises:
        InputError: if they are not of the same run.
    """
    check_same_run(one, other)
    theirs = {detail.step: detail for detail in other.details}
    updates = [index for index, stage in enumerate(one.stages) if stage.name.startswith("update ")]
    made: list[Drift] = []
    if not updates:
        return made
    for detail in one.details:
        if detail.step not in theirs:
            continue
        a, b = ([unpack(of.samples[index]) for index in updates] for of in (detail, theirs[detail.step]))
        if list(map(len, a)) != list(map(len, b)):
            continue
        first, second = np.concatenate(a), np.concatenate(b)
        norm = float(np.linalg.norm(first))
        losses = [struct.unpack(">d", bytes.fromhex(c.steps[detail.step][:16]))[0] for c in (one, other)]
        made.append(
            Drift(
                step=detail.step,
                relative_norm=float(np.linalg.norm(first - second)) / norm if norm else 0.0,
                loss=losses[1] - losses[0],
            )
        )
    return made
