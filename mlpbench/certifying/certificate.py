"""Define certificates: digests of everything that a run computed, in a file small enough to send.

Another machine repeats the run, makes its own certificate, and compares the two. `docs/certificate-format.md` has the
file format. A certificate is always compared with another certificate, never with a run.
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
from mlpbench.records import files
from mlpbench.records.codec import DamageError, plain, typed
from mlpbench.records.environment import Environment
from mlpbench.records.flat_environment import FlatEnvironment, from_flat

FORMAT = 2
"""The format that `write` writes; `read` also reads format 1, whose environment is flat."""
RECIPE = "sha256-1"
"""The recipe of the digests; `workload/digest.py` has it."""
NUM_STEPS = 600
"""The default number of steps: an epoch of the tutorial's workload."""
FOLDER = "certificates"
"""The name of the folder beside a machine's results."""
# The number of sampled values of a stage; the second one is for the step of `--zoom`.
NUM_SAMPLES, NUM_ZOOMED = 8, 64
# The number of hexadecimal digits that are stored of the digest of an entry, of a step, and of a stage of a step.
ENTRY_HEX, STEP_HEX, STAGE_HEX = 32, 12, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Describe a tensor that every step computes."""

    name: str
    dtype: str
    """float32 or float64."""
    num_values: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Hold the digest of a tensor that exists once, before the first step or after the last."""

    stage: str
    dtype: str
    num_values: int
    digest: str
    samples: str
    """The sampled values, at `positions`, as little-endian float64 in hexadecimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """Hold the digests and the sampled values of every stage of one step."""

    step: int
    digests: tuple[str, ...]
    samples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Hold the digests of everything that a run computed."""

    format: int
    recipe: str
    created_at: str
    """UTC, ISO 8601."""
    arithmetic: str
    """portable/1, PyTorch, or the name of an engine that rounds in its own way."""
    bits: int | None
    """The number of bits of the operands of products; None where the arithmetic has no such number."""
    config: RunConfig
    environment: Environment
    num_steps: int
    zoom: int | None
    """The step of which more values are sampled."""
    before: tuple[Entry, ...]
    """Tables, data, initial parameters, and the orders of the epochs."""
    stages: tuple[Stage, ...]
    """The stages of a step, in the order of computing."""
    steps: tuple[str, ...]
    """For each step the loss, and digits of the digests of the step and of its stages (docs/certificate-format.md)."""
    details: tuple[Detail, ...]
    after: tuple[Entry, ...]
    """The logits of the test set."""
    test_accuracy: float

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            InputError: if they do not.
        """
        if self.format != FORMAT or self.recipe != RECIPE:
            raise InputError(f"its digests are {self.recipe!r:.20}; this mlpbench reads {RECIPE}")
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
            raise InputError("it has no stages, or one stage twice")
        tensors: list[Entry | Stage] = [*self.before, *self.after, *self.stages]
        if any(tensor.dtype not in ULP_TYPES or tensor.num_values < 1 for tensor in tensors):
            raise InputError(f"a stage has no values, or its dtype is none of {', '.join(ULP_TYPES)}")
        sizes = {entry.stage: entry.num_values for entry in self.before}
        for layer, size in enumerate(self.config.hidden_sizes):
            if sizes.get(f"initial linear{layer}.bias", size) != size:
                raise InputError(f"layer {layer} does not have the size that hidden_sizes gives")

    def _check_steps(self) -> None:
        digits = [16, STEP_HEX, STAGE_HEX * len(self.stages)]
        if not 1 <= self.num_steps == len(self.steps):
            raise InputError(f"it has {len(self.steps)} steps, but num_steps is {self.num_steps}")
        is_hex = set("".join(self.steps)) <= set("0123456789abcdef ")
        if not is_hex or any(list(map(len, step.split(" "))) != digits for step in self.steps):
            raise InputError("a step is not a loss, a digest and the digests of the stages")
        if any({len(d.digests), len(d.samples)} != {len(self.stages)} for d in self.details):
            raise InputError("the details of a step do not match its stages")
        if not all(0 <= detail.step < self.num_steps for detail in self.details):
            raise InputError("a detail belongs to no step of the run")

    @property
    def num_threads(self) -> int:
        """Return the number of intra-op threads that computed it."""
        return self.config.num_threads or self.environment.stack.num_threads

    @property
    def num_entries(self) -> int:
        """Return the number of digests that can be compared."""
        per_step = len(self.stages) + 1
        return len(self.before) + len(self.after) + per_step * self.num_steps + len(self.stages) * len(self.details)


def _check_values(stage: str, digest: str, samples: str, num_samples: int) -> None:
    if len(digest) != ENTRY_HEX or len(samples) != 16 * num_samples or len(unpack(samples)) != num_samples:
        raise InputError(f"{stage!r:.40} has a digest or sampled values of the wrong length")


# --- values -----------------------------------------------------------------------------------------------------------

ULP_TYPES = {"float32": ("<f4", "<i4"), "float64": ("<f8", "<i8"), "int64": ("<f8", "<i8")}


def positions(num_values: int, num_samples: int) -> NDArray[np.int64]:
    """Return the row-major indices of a tensor's sampled values.

    A small tensor is sampled everywhere, a larger one evenly from the first value to the last.

    >>> positions(3, 8).tolist(), positions(1000, 4).tolist()
    ([0, 1, 2], [0, 333, 666, 999])
    """
    if num_values <= num_samples:
        return np.arange(num_values)
    return np.arange(num_samples) * (num_values - 1) // (num_samples - 1)


def pack(values: NDArray[np.float64]) -> str:
    """Encode sampled values as a certificate stores them; minus zero becomes zero."""
    return (values + 0.0).astype("<f8").tobytes().hex()


def unpack(samples: str) -> NDArray[np.float64]:
    """Decode sampled values; incomplete bytes at the end are an error.

    Raises:
        InputError: if the text is not hexadecimal float64 numbers.
    """
    try:
        content = bytes.fromhex(samples)
        return np.frombuffer(content, "<f8")
    except ValueError:
        raise InputError("sampled values are not hexadecimal float64 numbers") from None


# --- files ------------------------------------------------------------------------------------------------------------


def write(path: Path, certificate: Certificate) -> None:
    """Write a certificate, sealed with the SHA-256 of its content.

    Raises:
        InputError: if it cannot be written.
    """
    content = plain(certificate)
    files.write(path, _text({"mlpbench_certificate": FORMAT, **content, "sha256": _seal(content)}) + "\n")


def read(path: Path) -> Certificate:
    """Read the certificate in a file; one of an older format becomes one of the present format.

    Raises:
        InputError: if the file cannot be read, is not a certificate, or was changed after it was written.
    """
    version, content, is_intact = _unsealed(path)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise InputError(f"{path} is a certificate of format {version!r:.20}; this mlpbench reads 1 to {FORMAT}")
    if not is_intact or content.get("format") != version:
        raise InputError(f"{path} is damaged: its content does not match its seal; make or send it again")
    try:
        if version == 1:
            flat = typed(FlatEnvironment, content.get("environment"), "environment")
            content |= {"format": FORMAT, "environment": from_flat(flat)}
        certificate: Certificate = typed(Certificate, content, "certificate")
    except DamageError as error:
        raise InputError(f"{path} is not a complete certificate: {error}") from None
    return certificate


def _unsealed(path: Path) -> tuple[Any, dict[str, Any], bool]:
    """Return the format version and the content of a certificate file, and True if its seal matches the content."""
    try:
        content = json.loads(path.read_bytes())
        is_printable = all(text.isprintable() for text in _texts(content))
        seal = content.pop("sha256", None) if isinstance(content, dict) else None
        version = content.pop("mlpbench_certificate", None) if isinstance(content, dict) else None
        is_intact = seal == _seal(content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    # json also raises ValueError for a number of too many digits, and for text that is not UTF-8.
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a certificate: not JSON; `mlpbench certify` makes one") from None
    if version is None:
        raise InputError(f"{path} is not a certificate; `mlpbench certify` makes one")
    if not is_printable:
        raise InputError(f"{path} is not a certificate: it has characters that cannot be printed")
    return version, content, is_intact


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a JSON value, names included."""
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
    """Return the path of a certificate among results, in its machine's folder, named after the run and the time."""
    config, time = certificate.config, "".join(c for c in certificate.created_at[:19] if c.isalnum())
    name = f"{config.engine}-{config.dataset}-{config.optimizer}-{certificate.num_steps}-{time}"
    safe = "".join(c if c.isalnum() else "-" for c in name)
    return root / certificate.environment.machine / FOLDER / f"{safe}-{_seal(plain(certificate))[:8]}.json"


def find(roots: Iterable[Path]) -> tuple[dict[Path, Certificate], list[str]]:
    """Find the certificates under folders; a copy of a certificate does not count.

    Returns:
        The certificates by path, and a line for each file that cannot be read as one.
    """
    certificates: dict[Path, Certificate] = {}
    problems = []
    for path in sorted({path.resolve() for root in roots for path in root.rglob(f"{FOLDER}/*.json")}):
        try:
            certificate = read(path)
            if certificate not in certificates.values():
                certificates[path] = certificate
        except InputError as error:
            problems.append(str(error))
    return certificates, problems
