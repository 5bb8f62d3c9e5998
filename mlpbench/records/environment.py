"""Describe a machine and its software: the hardware, the stack, and the source of mlpbench.

These types are the only place that says which facts tell machines apart, which can change a time, and which can change
a bit. Everything that compares two machines or two stacks asks them. A fact that was not recorded is None, and is
shown as `unknown`. A device or library that is known to be absent is `none`.

Uses the standard library only. Descriptions hold no host, user or path names.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from mlpbench.config import format_value
from mlpbench.records.facts import BITS, NOTHING, Decides, is_variable, of_variable
from mlpbench.records.ranges import Count, Positive, Rate

UNKNOWN, NONE, NOT_SET = "unknown", "none", "not set"
"""The texts for a fact that was not recorded, for one that is known to be absent, and for an unset variable."""


def _fact(decides: Decides, tolerance: float = 0.0) -> dict[str, Any]:
    """Return the metadata of a field; values within the tolerance, a ratio, are equal."""
    return {"decides": decides, "tolerance": tolerance}


_CPU = Decides.MACHINE | Decides.CPU
_LIBRARY = BITS | Decides.DETAIL
_MEMORY = _fact(NOTHING, tolerance=0.01)

Texts = Mapping[str, str]
"""Facts as texts, by the names of their fields. A fact that is unknown is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """Describe a machine. Its identity is every field but the sizes of memory, which a restart changes by some pages.

    A number of the processor is that of /proc/cpuinfo. On ARM these are the implementer, the architecture, the part,
    and variant and revision in one byte.
    """

    cpu_model: str | None = field(default=None, metadata=_fact(_CPU | Decides.BITS | Decides.DETAIL))
    """The name that the processor gives itself; several generations may share it."""
    cpu_vendor: str | None = field(default=None, metadata=_fact(_CPU))
    cpu_family: Count | None = field(default=None, metadata=_fact(_CPU))
    cpu_model_number: Count | None = field(default=None, metadata=_fact(_CPU))
    cpu_stepping: Count | None = field(default=None, metadata=_fact(_CPU | Decides.BITS | Decides.DETAIL))
    architecture: str | None = field(default=None, metadata=_fact(Decides.MACHINE | Decides.BITS))
    num_cpus: Positive | None = field(default=None, metadata=_fact(Decides.MACHINE))
    """The CPUs that the machine has in use, whether this process may use them or not."""
    threads_per_core: Positive | None = field(default=None, metadata=_fact(Decides.MACHINE))
    """1 if the CPUs are cores; more with simultaneous multithreading."""
    caches: tuple[tuple[str, Positive], ...] | None = field(
        default=None, metadata=_fact(Decides.MACHINE | Decides.BITS | Decides.DETAIL)
    )
    """Pairs of name and size in bytes, as the first CPU sees them: L1d, L1i, L2, L3."""
    vector_flags: tuple[str, ...] | None = field(
        default=None, metadata=_fact(Decides.MACHINE | Decides.BITS | Decides.DETAIL)
    )
    """The vector instructions that it offers, with the names of /proc/cpuinfo, sorted."""
    cpu_quota: Rate | None = field(default=None, metadata=_fact(Decides.MACHINE))
    """The CPU time per second that the control group allows: `num_cpus` if it sets no limit."""
    hypervisor: str | None = field(default=None, metadata=_fact(Decides.MACHINE))
    gpu_model: str | None = field(default=None, metadata=_fact(Decides.MACHINE | Decides.BITS))
    """The first CUDA device that PyTorch sees."""
    memory_bytes: Count | None = field(default=None, metadata=_MEMORY)
    gpu_memory_bytes: Count | None = field(default=None, metadata=_MEMORY)

    @property
    def cpu(self) -> str:
        """The processor with its generation, for example `AMD EPYC 25/17`: family and model number, if known."""
        numbers = [str(n) for n in (self.cpu_family, self.cpu_model_number) if n is not None]
        return " ".join([self.cpu_model or f"{UNKNOWN} CPU", *(["/".join(numbers)] if numbers else [])])

    @property
    def has_gpu(self) -> bool:
        """True if PyTorch sees a CUDA device."""
        return self.gpu_model not in (None, NONE)

    @property
    def is_emulated(self) -> bool:
        """True if the processor is known to be an emulator."""
        return "QEMU" in (self.cpu_model or "")

    @property
    def is_brand_alone(self) -> bool:
        """True if no more of the identity is known than records before schema 3 have."""
        return all(getattr(self, name) is None for name in MACHINE if name not in _BEFORE_SCHEMA_3)

    @property
    def digest(self) -> str:
        """Six hexadecimal digits of a SHA-256 over the identity."""
        identity = [getattr(self, name) for name in MACHINE]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:6]

    def texts(self) -> dict[str, str]:
        """Return the known facts as texts, by the names of their fields."""
        return dict(_texts(self))

    def compare(self, other: "Hardware", names: Iterable[str] | None = None) -> "Likeness":
        """Compare with another machine, by its identity or by some of its fields."""
        return compare(self.texts(), other.texts(), MACHINE if names is None else names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Describe the software, its settings, and the share of the machine that a process may use."""

    os: str = field(metadata=_fact(Decides.TIMES))
    python: str = field(metadata=_fact(Decides.TIMES))
    cpu_capability: str = field(metadata=_fact(BITS))
    """The vector level that PyTorch chose its kernels for."""
    torch: str = field(metadata=_fact(BITS))
    torchvision: str = field(metadata=_fact(Decides.TIMES))
    numpy: str = field(metadata=_fact(Decides.TIMES))
    # The version of PyTorch decides the bits of these two.
    cuda: str = field(metadata=_fact(Decides.TIMES))
    cudnn: str = field(metadata=_fact(Decides.TIMES))
    mkl: str | None = field(default=None, metadata=_fact(_LIBRARY))
    onednn: str | None = field(default=None, metadata=_fact(_LIBRARY))
    blas: str | None = field(default=None, metadata=_fact(_LIBRARY))
    """The library that PyTorch was built with for matrix products."""
    glibc: str | None = field(default=None, metadata=_fact(_LIBRARY))
    compiler: str | None = field(default=None, metadata=_fact(_LIBRARY))
    """The compiler of the engines that are built here: its name, and the beginning of its SHA-256."""
    transparent_huge_pages: str | None = field(default=None, metadata=_fact(Decides.TIMES))
    num_allowed_cpus: Positive = field(metadata=_fact(Decides.TIMES))
    """CPUs that this process may use."""
    # A certificate names the thread count of its run.
    num_threads: Positive = field(metadata=_fact(Decides.TIMES))
    """Intra-op threads, as PyTorch chose them."""
    matmul_precision: str = field(metadata=_fact(BITS))
    """The precision of float32 products."""
    deterministic_algorithms: bool = field(metadata=_fact(BITS))
    variables: tuple[tuple[str, str], ...] = field(metadata=_fact(NOTHING))
    """Environment variables that are set and can change times or bits, as pairs of name and value."""

    def texts(self) -> dict[str, str]:
        """Return the known facts as texts; variables have their own names."""
        texts = {name: text for name, text in _texts(self).items() if name != "variables"}
        return texts | {name: value for name, value in self.variables if is_variable(name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Describe all that can change a time or a bit: the machine, its software, and the source of mlpbench."""

    hardware: Hardware
    stack: Stack
    mlpbench: str
    """The version of mlpbench."""
    commit: str
    """The commit of the source, or `source-` and a digest of it where there is no commit."""
    dirty: bool
    """True if the source differs from that commit."""
    source_digest: str | None = None
    """The beginning of a SHA-256 over the changed source. None: it is not changed, or cannot be read."""

    @property
    def is_source_known(self) -> bool:
        """True if equal names of sources are equal sources."""
        return not self.dirty or self.source_digest is not None

    @property
    def machine(self) -> str:
        """The name of the machine: `amd-epyc-25-17-1-2cpu-3f2a91`.

        It has model, family, model number, stepping, CPUs, GPU, and a digest of the whole identity. So equal names are
        equal identities. Records before schema 3 do not tell generations apart: their name is `amd-epyc-2cpu`.
        """
        return _machine(self.hardware, self.stack.num_allowed_cpus)

    @property
    def source(self) -> str:
        """The commit, with `-dirty` for changed source."""
        return f"{self.commit}-dirty" if self.dirty else self.commit

    def texts(self) -> dict[str, str]:
        """Return every known fact about machine and stack as text, by the names of fields and variables."""
        return self.hardware.texts() | self.stack.texts()

    def source_of(self, run: str) -> str:
        """Return a name that equal sources share: with the run, if it is not known what the source was."""
        return " ".join(filter(None, (self.source, self.source_digest, "" if self.is_source_known else run)))

    def measuring_facts(self) -> dict[str, str]:
        """Return what must be equal for two processes to be evidence of the same: machine, stack and source.

        An unknown fact is left out on both sides, so that the processes of older records belong together.
        """
        return dict(_measuring_facts(self))


# --- comparing --------------------------------------------------------------------------------------------------------

_ROLES: dict[str, Decides] = {f.name: f.metadata["decides"] for kind in (Hardware, Stack) for f in fields(kind)}
_TOLERANCES: dict[str, float] = {f.name: f.metadata["tolerance"] for f in fields(Hardware)}

# As py-cpuinfo counts them: not comparable with `caches`, but among files of pytest-benchmark.
_ROLES |= dict.fromkeys(("cpuinfo_l2_cache", "cpuinfo_l3_cache"), Decides.MACHINE)


def decides(name: str) -> Decides:
    """Return what a field or an environment variable decides."""
    return _ROLES[name] if name in _ROLES else of_variable(name)


MACHINE = tuple(f.name for f in fields(Hardware) if Decides.MACHINE in _ROLES[f.name])
"""The fields of the identity of a machine."""
CPU = tuple(name for name in MACHINE if Decides.CPU in _ROLES[name])
"""The fields of the identity of a processor."""
_BEFORE_SCHEMA_3 = ("cpu_model", "architecture", "gpu_model")


class Sameness(StrEnum):
    """Name the answers to the question whether two descriptions are of one thing."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = UNKNOWN


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """Hold the result of comparing two descriptions."""

    differing: Mapping[str, tuple[str, str]]
    """The fields that are known to differ, with both values."""
    unknown: tuple[str, ...]
    """The fields that were not recorded on a side."""
    one_sided: tuple[str, ...]
    """Those of them that were recorded on the other side."""

    @property
    def sameness(self) -> Sameness:
        """Same only if every field is known and equal; different if one is known to differ; otherwise unknown."""
        if self.differing:
            return Sameness.DIFFERENT
        return Sameness.UNKNOWN if self.unknown else Sameness.SAME


def compare(one: Texts, other: Texts, names: Iterable[str] = MACHINE) -> Likeness:
    """Compare two descriptions field by field."""
    names = list(names)
    unknown = tuple(name for name in names if not is_variable(name) and not (name in one and name in other))
    pairs = {name: (one.get(name, NOT_SET), other.get(name, NOT_SET)) for name in names if name not in unknown}
    return Likeness(
        differing={name: pair for name, pair in pairs.items() if not _is_equal(name, *pair)},
        unknown=unknown,
        one_sided=tuple(name for name in unknown if name in one or name in other),
    )


def compare_machines(one: Texts, other: Texts) -> Likeness:
    """Compare the identities of two machines, as far as the texts have them."""
    others = [name for name in (*one, *other) if name not in MACHINE and Decides.MACHINE in decides(name)]
    likeness = compare(one, other, MACHINE)
    # Facts that only files of other tools have can tell machines apart, but are no part of what must be known.
    return Likeness(
        differing={**likeness.differing, **compare(one, other, dict.fromkeys(others)).differing},
        unknown=likeness.unknown,
        one_sided=likeness.one_sided,
    )


def _is_equal(name: str, one: str, other: str) -> bool:
    tolerance = _TOLERANCES.get(name)
    if one == other or not tolerance:
        return one == other
    sizes = sorted((float(one), float(other)))
    return sizes[1] <= sizes[0] * (1 + tolerance)


def in_words(differing: Mapping[str, tuple[str, str]]) -> str:
    """Return the fields that differ in a line, each with both values.

    >>> in_words({"torch": ("2.11.0", "2.15.0")})
    'torch 2.11.0 → 2.15.0'
    """
    return "; ".join(f"{name} {one} → {other}" for name, (one, other) in differing.items())


# A report compares every two certificates.
@functools.lru_cache
def _texts(description: Hardware | Stack) -> Texts:
    values = {f.name: getattr(description, f.name) for f in fields(description)}
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(item if isinstance(item, str) else f"{item[0]} {item[1]}" for item in value) or NONE
    return format_value(value)


# A history asks for it once for each process of each benchmark.
@functools.lru_cache
def _measuring_facts(environment: Environment) -> Texts:
    roles = Decides.MACHINE | Decides.TIMES
    texts = environment.texts()
    facts = {name: text for name, text in texts.items() if is_variable(name) or decides(name) & roles}
    return facts | {"source": " ".join(filter(None, (environment.source, environment.source_digest)))}


# A report asks for it once for each block.
@functools.lru_cache
def _machine(hardware: Hardware, num_allowed_cpus: Positive) -> str:
    gpu_model = hardware.gpu_model if hardware.has_gpu else None
    if hardware.is_brand_alone:
        return _slug(hardware.cpu_model, f"{num_allowed_cpus}cpu", gpu_model)
    numbers = (hardware.cpu_family, hardware.cpu_model_number, hardware.cpu_stepping)
    num_cpus = "" if hardware.num_cpus is None else f"{hardware.num_cpus}cpu"
    return _slug(hardware.cpu_model, *numbers, num_cpus, gpu_model, hardware.digest)


def _slug(*parts: object) -> str:
    """Return the parts as lower-case words of ASCII letters and digits, joined by hyphens."""
    text = " ".join(str(part) for part in parts if part is not None).lower()
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())
