"""Certificates: what a run computed, small enough to send, for another machine to compute again and compare.

`docs/certificate-format.md` has the file format. A certificate is compared with another one, never with a run: to
verify is to make this machine's own certificate of the same run, and to compare the two.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records.codec import DamageError, plain, typed
from mlpbench.records.kinds import Environment

FORMAT = 1
RECIPE = "sha256-1"  # of digests: see determinism.digest
NUM_STEPS = 600  # unless said otherwise: an epoch of the tutorial's workload
FOLDER = "certificates"  # beside a machine's results
NUM_SAMPLES, NUM_ZOOMED = 8, 64  # values kept of a stage
ENTRY_HEX, STEP_HEX, STAGE_HEX = 32, 12, 4  # digits kept of the digests of an entry, a step, and a stage of a step


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
        if self.format != FORMAT or self.recipe != RECIPE:
            raise InputError(f"digests are {self.recipe!r:.20}; this mlpbench reads {RECIPE}")
        self._check_stages()
        self._check_steps()
        for entry in (*self.before, *self.after):
            _check_values(entry.stage, entry.digest, entry.samples, min(entry.num_values, NUM_SAMPLES))
        for detail in self.details:
            most = NUM_ZOOMED if detail.step == self.zoom else NUM_SAMPLES
            for stage, digest, samples in zip(self.stages, detail.digests, detail.samples, strict=True):
                _check_values(stage.name, digest, samples, min(stage.num_values, most))

    def _check_stages(self) -> None:
        names = [*(e.stage for e in self.before), *(s.name for s in self.stages), *(e.stage for e in self.after)]
        if not self.stages or len(set(names)) < len(names):
            raise InputError("a stage is there twice, or none")
        every: list[Entry | Stage] = [*self.before, *self.after, *self.stages]
        if any(e.dtype not in ULP_TYPES or e.num_values < 1 for e in every):
            raise InputError("a stage has no values of a known type")
        sizes = {entry.stage: entry.num_values for entry in self.before}
        for layer, size in enumerate(self.config.hidden_sizes):
            if sizes.get(f"initial linear{layer}.bias", size) != size:
                raise InputError(f"layer {layer} is not as wide as the config says")

    def _check_steps(self) -> None:
        digits = [16, STEP_HEX, STAGE_HEX * len(self.stages)]
        if not 1 <= self.num_steps == len(self.steps):
            raise InputError(f"{len(self.steps)} steps, not {self.num_steps}")
        is_hex = set("".join(self.steps)) <= set("0123456789abcdef ")
        if not is_hex or any(list(map(len, step.split(" "))) != digits for step in self.steps):
            raise InputError("a step is not loss, digest and digests of stages")
        if any({len(d.digests), len(d.samples)} != {len(self.stages)} for d in self.details):
            raise InputError("a step's details are not one for each stage")
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


def _check_values(stage: str, digest: str, samples: str, num_samples: int) -> None:
    if len(digest) != ENTRY_HEX or len(samples) != 16 * num_samples or len(unpack(samples)) != num_samples:
        raise InputError(f"{stage!r:.40} has not the digest and the values that it should have")


# --- values -----------------------------------------------------------------------------------------------------------

ULP_TYPES = {"float32": ("<f4", "<i4"), "float64": ("<f8", "<i8"), "int64": ("<f8", "<i8")}


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
    version, content, is_whole = _unsealed(path)
    if version != FORMAT:
        raise InputError(f"{path} is a certificate of format {version!r:.20}; this mlpbench reads {FORMAT}")
    if not is_whole:
        raise InputError(f"{path} is damaged: its content is not what was sealed; have it made or sent again")
    try:
        made: Certificate = typed(Certificate, content, "certificate")
    except DamageError as error:
        raise InputError(f"{path} is not a whole certificate: {error}") from None
    return made


def _unsealed(path: Path) -> tuple[Any, dict[str, Any], bool]:
    """The version and the content of a file that claims to be a certificate, and whether its seal is whole."""
    try:
        content = json.loads(path.read_bytes())
        is_printable = all(text.isprintable() for text in _texts(content))
        seal = content.pop("sha256", None) if isinstance(content, dict) else None
        version = content.pop("mlpbench_certificate", None) if isinstance(content, dict) else None
        is_whole = seal == _seal(content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):  # ValueError also for a number of too many digits, or not UTF-8
        raise InputError(f"{path} is not a certificate: not JSON; `mlpbench certify` makes one") from None
    if version is None:
        raise InputError(f"{path} is not a certificate; `mlpbench certify` makes one")
    if not is_printable:
        raise InputError(f"{path} is not a certificate: it has characters that cannot be printed")
    return version, content, is_whole


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(item)


def _text(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def _seal(content: Any) -> str:
    return hashlib.sha256(_text(content).encode("utf-8", "surrogatepass")).hexdigest()


def place(root: Path, certificate: Certificate) -> Path:
    """Where a certificate goes among results: by its machine, named by what was run and when."""
    config, when = certificate.config, "".join(c for c in certificate.created_at[:19] if c.isalnum())
    name = f"{config.engine}-{config.dataset}-{config.optimizer}-{certificate.num_steps}-{when}"
    safe = "".join(c if c.isalnum() else "-" for c in name)
    return root / certificate.environment.machine / FOLDER / f"{safe}-{_seal(plain(certificate))[:8]}.json"


def find(roots: Iterable[Path]) -> tuple[dict[Path, Certificate], list[str]]:
    """Every certificate under folders, a copy of one not counted, and a line for each file among them that is none."""
    found: dict[Path, Certificate] = {}
    problems = []
    for path in sorted({path.resolve() for root in roots for path in root.rglob(f"{FOLDER}/*.json")}):
        try:
            made = read(path)
            if made not in found.values():
                found[path] = made
        except InputError as error:
            problems.append(str(error))
    return found, problems
