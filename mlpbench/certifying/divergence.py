"""Find the first stage in which two certificates of the same run differ, and measure how far the runs drift apart."""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mlpbench.certifying.certificate import STAGE_HEX, ULP_TYPES, Certificate, Detail, Entry, unpack
from mlpbench.config import RunConfig, format_value
from mlpbench.errors import InputError

# Fields of the config that may differ between two certificates of the same run. They change how it is computed, or how
# long it is, but not its values.
_FREE_FIELDS = ("device", "num_threads", "loader", "num_epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Hold the first stage in which two certificates differ, and the size of the difference at its sampled values."""

    stage: str
    num_samples: int
    """The number of sampled values that both certificates have; 0 if the step has no details."""
    num_different: int
    """The number of those that differ."""
    max_abs: float | None
    """The largest difference. None if there is nothing to compare, or if all sampled values are equal."""
    relative_norm: float | None
    """The norm of the difference over the norm of the first certificate's values."""
    ulps: int | None
    """The largest number of steps between neighbouring numbers of the stage's type; it means little near zero."""


def first_divergence(one: Certificate, other: Certificate) -> Divergence | None:
    """Return the first difference between two certificates, in the order of computing; None if they are equal.

    Certificates of different lengths are compared over the steps that both have.

    Raises:
        InputError: if they are from different runs.
    """
    check_same_run(one, other)
    details = [{detail.step: detail for detail in certificate.details} for certificate in (one, other)]
    for ours, theirs in _common_entries(one.before, other.before):
        if ours.digest != theirs.digest:
            return _divergence(ours.stage, ours.dtype, ours.samples, theirs.samples)
    for step, lines in enumerate(zip(one.steps, other.steps, strict=False)):
        divergence = _in_step(one, step, lines, [by_step.get(step) for by_step in details])
        if divergence:
            return divergence
    for ours, theirs in _common_entries(one.after, other.after):
        if one.num_steps == other.num_steps and ours.digest != theirs.digest:
            return _divergence(ours.stage, ours.dtype, ours.samples, theirs.samples)
    return None


def check_same_run(one: Certificate, other: Certificate) -> None:
    """Check that two certificates can be compared.

    Raises:
        InputError: if they are from different runs.
    """
    is_engine_free = one.arithmetic == other.arithmetic != "PyTorch"
    for f in fields(RunConfig):
        ours, theirs = getattr(one.config, f.name), getattr(other.config, f.name)
        if ours == theirs or f.name in _FREE_FIELDS or (f.name == "engine" and is_engine_free):
            continue
        if f.name == "engine":
            raise InputError(f"cannot compare: the certificates use different engines ({ours}, {theirs})")
        raise InputError(
            f"cannot compare: the certificates are from different runs "
            f"({f.name} {format_value(ours)} vs {format_value(theirs)})"
        )
    for name in ("arithmetic", "bits"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"cannot compare: the certificates differ in {name} ({ours} vs {theirs})")
    unmatched = set(_shapes(one)) ^ set(_shapes(other))
    if unmatched:
        raise InputError(
            f"cannot compare: only one certificate has the stage {min(unmatched)[0]!r} in that dtype and size"
        )


def _shapes(certificate: Certificate) -> list[tuple[str, str, int]]:
    """Return name, dtype and size of every stage.

    The orders of later epochs are left out, because a longer run has more of them.
    """
    later = [f"order of epoch {epoch}" for epoch in range(1, certificate.num_steps)]
    once = [(e.stage, e.dtype, e.num_values) for e in (*certificate.before, *certificate.after)]
    return [shape for shape in once if shape[0] not in later] + [
        (stage.name, stage.dtype, stage.num_values) for stage in certificate.stages
    ]


def _common_entries(ours: Iterable[Entry], theirs: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Pair the entries of equal names; a longer run has the orders of more epochs."""
    by_stage = {entry.stage: entry for entry in theirs}
    return ((entry, by_stage[entry.stage]) for entry in ours if entry.stage in by_stage)


def _in_step(one: Certificate, step: int, lines: Sequence[str], details: Sequence[Detail | None]) -> Divergence | None:
    """Return the first stage of a step that differs, by its line and, where both have them, its details."""
    ours, theirs = details
    if lines[0] == lines[1] and not (ours and theirs and ours.digests != theirs.digests):
        return None
    digests = [line.split(" ")[2] for line in lines]
    for index, stage in enumerate(one.stages):
        digits = slice(STAGE_HEX * index, STAGE_HEX * (index + 1))
        differs = digests[0][digits] != digests[1][digits]
        if differs or (ours and theirs and ours.digests[index] != theirs.digests[index]):
            values = [detail.samples[index] if detail else "" for detail in details]
            return _divergence(f"step {step} {stage.name}", stage.dtype, *values)
    return _divergence(f"step {step}", "float64", "", "")


def _divergence(stage: str, dtype: str, ours: str, theirs: str) -> Divergence:
    """Return the size of a difference, from the sampled values of both sides, which may be empty."""
    no_sizes = {"max_abs": None, "relative_norm": None, "ulps": None}
    a, b = unpack(ours), unpack(theirs)
    # The lengths differ if one has no details of the step, or zoomed in on it.
    if len(a) != len(b):
        return Divergence(stage=stage, num_samples=0, num_different=0, **no_sizes)
    different = a.view(np.int64) != b.view(np.int64)
    if not different.any():
        return Divergence(stage=stage, num_samples=len(a), num_different=0, **no_sizes)
    # A run whose training diverged has infinities.
    with np.errstate(all="ignore"):
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
    """Map values to integers in the same order, so that neighbouring numbers of the type differ by one."""
    floating, integer = ULP_TYPES[dtype]
    bits = values.astype(floating).view(integer).astype(object)
    lowest = -(2 ** (8 * np.dtype(integer).itemsize - 1))
    return [int(b) if b >= 0 else lowest - int(b) for b in bits]


# --- drift ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Hold the distance of two runs after a step, over the sampled values of the parameters."""

    step: int
    relative_norm: float
    loss: float
    """The difference of the losses, in nats per sample."""


def drift(one: Certificate, other: Certificate) -> list[Drift]:
    """Measure how far two certificates of the same run are apart, at the steps of which both have details.

    Raises:
        InputError: if they are from different runs.
    """
    check_same_run(one, other)
    theirs = {detail.step: detail for detail in other.details}
    updates = [index for index, stage in enumerate(one.stages) if stage.name.startswith("update ")]
    distances: list[Drift] = []
    if not updates:
        return distances
    for detail in one.details:
        if detail.step not in theirs:
            continue
        a, b = ([unpack(side.samples[index]) for index in updates] for side in (detail, theirs[detail.step]))
        if list(map(len, a)) != list(map(len, b)):
            continue
        first, second = np.concatenate(a), np.concatenate(b)
        norm = float(np.linalg.norm(first))
        losses = [struct.unpack(">d", bytes.fromhex(c.steps[detail.step][:16]))[0] for c in (one, other)]
        distances.append(
            Drift(
                step=detail.step,
                relative_norm=float(np.linalg.norm(first - second)) / norm if norm else 0.0,
                loss=losses[1] - losses[0],
            )
        )
    return distances
