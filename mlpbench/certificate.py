"""Certificates: what a run computed, small enough to send, for another machine to compute again and compare.

`docs/certificate-format.md` has the file format. A certificate is compared with another one, never with a run: to
verify is to make this machine's own certificate of the same run, and to compare the two.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpbench.records import Environment, InputError, RunConfig, format_value
from mlpbench.store import DamageError, plain, typed

FORMAT = 1
RECIPE = "sha256-1"  # of digests: see determinism.digest
FOLDER = "certificates"  # beside a machine's results
NUM_SAMPLES, NUM_ZOOMED = 8, 64  # values kept of a stage
ENTRY_HEX, STEP_HEX, STAGE_HEX = 32, 12, 4  # digits kept of the digests of an entry, a step, and a stage of a step

# What may differ between two certificates of the same run: how it was computed, not what.
_HOW = ("device", "num_threads", "loader", "num_epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A tensor that every step makes."""

    name: str
    dtype: str  # float32 | float64
    num_values: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A tensor that is made once, before the first step or after the last."""

    stage: str
    dtype: str
    num_values: int
    digest: str
    samples: str  # values at `positions`, as float64, little-endian, hexadecimal


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """Every stage of one step."""

    step: int
    digests: tuple[str, ...]
    samples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What a run computed."""

    format: int
    recipe: str
    created_at: str  # UTC, ISO 8601
    arithmetic: str  # portable/1 | PyTorch
    bits: int | None  # of the operands of products; None where the arithmetic has no such number
    config: RunConfig
    environment: Environment
    num_steps: int
    zoom: int | None  # the step of which more values are kept
    before: tuple[Entry, ...]  # tables, data, initial parameters, orders of the epochs
    stages: tuple[Stage, ...]  # of a step, in the order of computing
    steps: tuple[str, ...]  # loss, digest of the step, digests of its stages: digits of each, see docs
    details: tuple[Detail, ...]
    after: tuple[Entry, ...]  # logits of the test half
    test_accuracy: float

    def __post_init__(self) -> None:
        """Refuse what is not of one piece."""
        digits = STAGE_HEX * len(self.stages)
        names = [*(e.stage for e in self.before), *(s.name for s in self.stages), *(e.stage for e in self.after)]
        if self.format != FORMAT or self.recipe != RECIPE:
            raise InputError(f"digests are {self.recipe!r:.20}; this mlpbench reads {RECIPE}")
        if not 1 <= self.num_steps == len(self.steps):
            raise InputError(f"{len(self.steps)} steps, not {self.num_steps}")
        if any(list(map(len, step.split(" "))) != [16, STEP_HEX, digits] for step in self.steps) or not set(
            "".join(self.steps)
        ) <= set("0123456789abcdef "):
            raise InputError("a step is not loss, digest and digests of stages")
        if not self.stages or len(set(names)) < len(names):
            raise InputError("a stage is there twice, or none")
        if any(len(d.digests) != len(self.stages) or len(d.samples) != len(self.stages) for d in self.details):
            raise InputError("a step's details are not one for each stage")
        every: list[Entry | Stage] = [*self.before, *self.after, *self.stages]
        if any(e.dtype not in _ULP_TYPES or e.num_values < 1 for e in every):
            raise InputError("a stage has no values of a known type")
        if not all(0 <= detail.step < self.num_steps for detail in self.details):
            raise InputError("a detail is of a step that is not there")

    @property
    def num_threads(self) -> int:
        """Intra-op threads that computed it."""
        return self.config.num_threads or self.environment.num_threads

    @property
    def num_entries(self) -> int:
        """Digests that can be compared."""
        per_step = len(self.stages) + 1
        return len(self.before) + len(self.after) + per_step * self.num_steps + len(self.stages) * len(self.details)


# --- values -----------------------------------------------------------------------------------------------------------

_ULP_TYPES = {"float32": ("<f4", "<i4"), "float64": ("<f8", "<i8"), "int64": ("<f8", "<i8")}


def positions(num_values: int, num_samples: int) -> NDArray[np.int64]:
    """Where a tensor is sampled, in row-major order: everywhere if it is small, else evenly from first to last.

    >>> positions(3, 8).tolist(), positions(1000, 4).tolist()
    ([0, 1, 2], [0, 333, 666, 999])
    """
    if num_values <= num_samples:
        return np.arange(num_values)
    return np.arange(num_samples) * (num_values - 1) // (num_samples - 1)


def pack(values: NDArray[np.float64]) -> str:
    """Samples as a certificate has them; minus zero is zero."""
    return (values + 0.0).astype("<f8").tobytes().hex()


def unpack(samples: str) -> NDArray[np.float64]:
    """The values of samples, as many as are whole.

    Raises:
        InputError: if these are none.
    """
    try:
        content = bytes.fromhex(samples)
        return np.frombuffer(content, "<f8")
    except ValueError:
        raise InputError("samples are not hexadecimal float64 numbers") from None


# --- files ------------------------------------------------------------------------------------------------------------


def write(path: Path, certificate: Certificate) -> None:
    """Write a certificate, sealed with the SHA-256 of its content.

    Raises:
        InputError: if it cannot be written.
    """
    content = plain(certificate)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text({"mlpbench_certificate": FORMAT, **content, "sha256": _seal(content)}) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def read(path: Path) -> Certificate:
    """The certificate in a file.

    Raises:
        InputError: if the file cannot be read, is no certificate, or was changed since it was made.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or "mlpbench_certificate" not in content:
            raise InputError(f"{path} is not a certificate; `mlpbench certify` makes one")
        version, seal = content.pop("mlpbench_certificate"), content.pop("sha256", None)
        is_whole = seal == _seal(content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except InputError:
        raise
    except (ValueError, RecursionError):  # ValueError also for a number of too many digits, or not UTF-8
        raise InputError(f"{path} is not a certificate: not JSON; `mlpbench certify` makes one") from None
    if version != FORMAT:
        raise InputError(f"{path} is a certificate of format {version!r:.20}; this mlpbench reads {FORMAT}")
    if not all(text.isprintable() for text in _texts(content)):
        raise InputError(f"{path} is not a certificate: it has characters that cannot be printed")
    if not is_whole:
        raise InputError(f"{path} is damaged: its content is not what was sealed; have it made or sent again")
    try:
        made: Certificate = typed(Certificate, content, "certificate")
        for samples in (*_entries_samples(made), *(s for d in made.details for s in d.samples)):
            unpack(samples)
    except (DamageError, InputError) as error:
        raise InputError(f"{path} is not a whole certificate: {error}") from None
    return made


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.items() if isinstance(value, dict) else value:
            yield from _texts(list(item) if isinstance(item, tuple) else item)


def _entries_samples(certificate: Certificate) -> Iterator[str]:
    return (entry.samples for entry in (*certificate.before, *certificate.after))


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode("utf-8", "surrogatepass")).hexdigest()


def place(root: Path, certificate: Certificate) -> Path:
    """Where a certificate goes among results: by its machine, named by what was run and when."""
    config, when = certificate.config, "".join(c for c in certificate.created_at[:19] if c.isalnum())
    name = f"{config.engine}-{config.dataset}-{config.optimizer}-{certificate.num_steps}-{when}"
    safe = "".join(c if c.isalnum() else "-" for c in name)
    return root / certificate.environment.machine / FOLDER / f"{safe}-{_seal(plain(certificate))[:8]}.json"


def find(roots: Iterable[Path]) -> tuple[dict[Path, Certificate], list[str]]:
    """Every certificate under folders, and a line for each file that lies among them and is none."""
    found: dict[Path, Certificate] = {}
    problems = []
    for path in sorted({path for root in roots for path in root.rglob(f"{FOLDER}/*.json")}):
        try:
            found[path] = read(path)
        except InputError as error:
            problems.append(str(error))
    return found, problems


# --- comparing --------------------------------------------------------------------------------------------------------


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
    _same_run(one, other)
    for stage, ours, theirs in _once(one.before, other.before):
        if ours.digest != theirs.digest:
            return _divergence(stage, ours.dtype, [ours.samples], [theirs.samples])
    for step, (ours_line, theirs_line) in enumerate(zip(one.steps, other.steps, strict=False)):
        details = [next((d for d in c.details if d.step == step), None) for c in (one, other)]
        if ours_line == theirs_line and (None in details or _digests(details[0]) == _digests(details[1])):
            continue
        return _in_step(one, step, ours_line, theirs_line, details)
    for stage, ours, theirs in _once(one.after, other.after):
        if one.num_steps == other.num_steps and ours.digest != theirs.digest:
            return _divergence(stage, ours.dtype, [ours.samples], [theirs.samples])
    return None


def _same_run(one: Certificate, other: Certificate) -> None:
    for f in fields(RunConfig):
        ours, theirs = getattr(one.config, f.name), getattr(other.config, f.name)
        is_how = f.name in _HOW or (f.name == "engine" and one.arithmetic == other.arithmetic != "PyTorch")
        if not is_how and ours != theirs:
            raise InputError(f"these are not of the same run: {f.name} {format_value(ours)} and {format_value(theirs)}")
    for name in ("arithmetic", "bits"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"these cannot be compared: {name} {ours} and {theirs}")
    lacking = _stage_names(one) ^ _stage_names(other)
    if lacking:
        raise InputError(f"these cannot be compared: one lacks the stage {min(lacking)!r}")


def _stage_names(certificate: Certificate) -> set[str]:
    """Every stage but the orders of epochs, of which a longer run has more."""
    once = [entry.stage for entry in (*certificate.before, *certificate.after)]
    return {name for name in (*once, *(s.name for s in certificate.stages)) if not name.startswith("order of epoch ")}


def _once(ours: Iterable[Entry], theirs: Iterable[Entry]) -> Iterator[tuple[str, Entry, Entry]]:
    """Entries of one name; a longer run has the orders of more epochs."""
    by_stage = {entry.stage: entry for entry in theirs}
    return ((entry.stage, entry, by_stage[entry.stage]) for entry in ours if entry.stage in by_stage)


def _digests(detail: Detail | None) -> tuple[str, ...]:
    return detail.digests if detail else ()


def _in_step(one: Certificate, step: int, ours: str, theirs: str, details: list[Detail | None]) -> Divergence:
    our_digests, their_digests = (line.split(" ")[2] for line in (ours, theirs))
    for index, stage in enumerate(one.stages):
        digits = slice(STAGE_HEX * index, STAGE_HEX * (index + 1))
        first, second = details
        if our_digests[digits] != their_digests[digits] or (
            first and second and first.digests[index] != second.digests[index]
        ):
            samples = [[detail.samples[index]] if detail else [] for detail in details]
            return _divergence(f"step {step} {stage.name}", stage.dtype, *samples)
    return _divergence(f"step {step}", "float64", [], [])


def _divergence(stage: str, dtype: str, ours: list[str], theirs: list[str]) -> Divergence:
    nothing = {"max_abs": None, "relative_norm": None, "ulps": None}
    if not ours or not theirs:
        return Divergence(stage=stage, num_samples=0, num_different=0, **nothing)
    a, b = unpack(ours[0]), unpack(theirs[0])
    if len(a) != len(b):  # one zoomed in on the step, the other did not
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
    floating, whole = _ULP_TYPES[dtype]
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
    _same_run(one, other)
    theirs = {detail.step: detail for detail in other.details}
    updates = [index for index, stage in enumerate(one.stages) if stage.name.startswith("update ")]
    made = []
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
