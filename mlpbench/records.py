"""The records: what is asked, where it ran, what was observed.

Standard library only, so that the side that computes (torch) and the side that reads (pandas) can both use them.
A record is frozen and flat, and holds raw observations; every statistic is computed later. Records point to
each other by id: a Block names its Measurement, a Measurement its Session. `docs/record-format.md` has the file format.

Units are in the field names (`_ns`, `_s`, `_bytes`). Loss is in nats per sample, accuracy is a fraction.
"""

import itertools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")

DEFAULT_TARGET = 0.9  # test accuracy for time-to-accuracy


class InputError(ValueError):
    """The user asked for something that is not there: one clear line (what, where, what to do), exit code 2."""


def choose(registry: Mapping[str, T], name: str, what: str) -> T:
    """The entry called `name`.

    Raises:
        InputError: if there is none; the message lists the known names.
    """
    if name not in registry:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(registry)}")
    return registry[name]


# Far beyond use; a slip of the keyboard should be told, not tried.
_MOST = {"hidden_sizes": 2**16, "batch_size": 2**24, "num_epochs": 10**6, "num_threads": 2**9}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What to run. With no arguments: the 2020 tutorial's workload, on the embedded data set.

    A name in `activations` stands for every hidden layer if it is the only one. Whether a name exists is checked
    where it is looked up; only ranges are checked here.
    """

    model: str = "mlp"
    hidden_sizes: tuple[int, ...] = (150, 150, 150)
    activations: tuple[str, ...] = ("relu", "tanh", "elu")
    dataset: str = "digits"
    loader: str = "memory"  # memory | dataloader (the tutorial's per-sample loop)
    batch_size: int = 100
    num_epochs: int = 133
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9  # read by the optimizers `momentum` and `nesterov` only
    weight_decay: float = 0.0
    engine: str = "eager"
    device: str = "cpu"  # cpu | cuda | auto
    num_threads: int | None = None  # intra-op threads; None leaves the choice to PyTorch
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges, and repeat a single activation for every hidden layer."""
        if not self.hidden_sizes:
            raise InputError("hidden_sizes must name at least one layer")
        if len(self.activations) == 1:
            object.__setattr__(self, "activations", self.activations * len(self.hidden_sizes))
        if len(self.activations) != len(self.hidden_sizes):
            raise InputError(
                f"activations has {len(self.activations)} names for {len(self.hidden_sizes)} hidden layers; "
                "give one for each hidden layer, or a single one for all"
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else () if value is None else (value,):
                if not 1 <= number <= most:
                    raise InputError(f"{name} must be from 1 to {most:,}, not {format_value(value)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be from 0 to 2**63 - 1, not {self.seed}")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.momentum < 1):
            raise InputError(
                f"lr must be above 0, weight_decay at least 0 (both finite) and momentum in [0, 1); not lr={self.lr}, "
                f"weight_decay={self.weight_decay}, momentum={self.momentum}"
            )

        if self.optimizer == "nesterov" and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0; without one, use optimizer sgd")

    def __str__(self) -> str:
        """The fields that differ from the defaults, as `--set` takes them; `default` if none does.

        >>> str(RunConfig(batch_size=10, hidden_sizes=(64,), activations=("relu",)))
        'hidden_sizes=64 activations=relu batch_size=10'
        >>> str(RunConfig())
        'default'
        """
        default = RunConfig()
        settings = [
            f"{f.name}={format_value(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(default, f.name)
        ]
        return " ".join(settings) or "default"


def format_value(value: object) -> str:
    """A field's value as `--set` takes it.

    >>> format_value((150, 150)), format_value(None)
    ('150,150', 'none')
    """
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def without_paths(value: str) -> str:
    """The value, or only that it is a path, which no record may hold."""
    return "(a path)" if "/" in value or "\\" in value else value


def override(config: RunConfig, settings: Iterable[str]) -> RunConfig:
    """The config with `field=value` settings applied, all at once.

    >>> override(RunConfig(), ["batch_size=10", "hidden_sizes=64,32", "activations=gelu"]).hidden_sizes
    (64, 32)

    Raises:
        InputError: for an unknown field, or a value that is not of the field's type.
    """
    hints = typing.get_type_hints(RunConfig)
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"a setting is field=value, not {setting!r}")
        changes[name] = _parse(choose(hints, name, "field"), text, name)
    if "hidden_sizes" in changes and "activations" not in changes and len(set(config.activations)) == 1:
        changes["activations"] = config.activations[:1]
    return replace(config, **changes)


def _parse(hint: Any, text: str, name: str) -> Any:
    try:
        match hint:
            case type() if hint in (int, float, str):
                return hint(text)
            case types.UnionType():
                return None if text.lower() == "none" else int(text)
            case _:
                (item_type, _) = typing.get_args(hint)
                return tuple(item_type(item) for item in text.split(","))
    except ValueError:
        wanted = "whole numbers" if "int" in str(hint) else "a number"
        raise InputError(f"{name} takes {wanted}, not {text!r}") from None


def grid(base: RunConfig, **axes: Iterable[Any]) -> list[RunConfig]:
    """Every combination of the axes' values on top of `base`; the last axis varies fastest.

    >>> [(c.optimizer, c.seed) for c in grid(RunConfig(), optimizer=["sgd", "adam"], seed=range(2))]
    [('sgd', 0), ('sgd', 1), ('adam', 0), ('adam', 1)]
    """
    return [replace(base, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Machine and stack: what can change a time or a bit. No host, user or path names."""

    cpu_model: str
    architecture: str
    num_cpus: int  # that this process may use
    cpu_capability: str  # the vector level that PyTorch's kernels were chosen for
    memory_bytes: int
    gpu_model: str | None
    gpu_memory_bytes: int | None
    os: str
    python: str
    torch: str
    torchvision: str
    numpy: str
    cuda: str | None
    cudnn: str | None
    num_threads: int  # intra-op, as PyTorch chose it
    matmul_precision: str  # of float32 products
    deterministic_algorithms: bool
    variables: tuple[tuple[str, str], ...]  # set environment variables that change times or bits
    mlpbench: str
    commit: str  # of the mlpbench source, or its version where it was installed without one
    dirty: bool  # the source differs from that commit

    @property
    def machine(self) -> str:
        """A readable name made of hardware alone, for example `amd-epyc-9b14-2cpu`."""
        words = f"{self.cpu_model} {self.num_cpus}cpu {self.gpu_model or ''}"
        kept = "".join(c if c.isascii() and c.isalnum() else " " for c in words.lower())
        return "-".join(kept.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One process that measured or trained, and the command that started it."""

    id: str
    run: str  # fresh processes that belong together share it: the rounds of one are replicated by the next
    process: int  # position among the run's processes
    side: str  # a | b where the run compares two; else empty
    started_at: str  # UTC, ISO 8601
    command: str
    preset: str
    environment: Environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What is timed, and how. Its blocks follow in the file, one line each."""

    id: str
    session: str
    suite: str  # what it belongs with in a table or figure: the bench file, or the verb
    group: str  # measurements of one group ran in turns, round by round: their blocks pair up by round
    operation: str
    config: RunConfig
    clock: (
        str  # throughput: the device is synchronised at both ends of a block; latency: after every call; device: events
    )
    rounds: int  # planned; a measurement with fewer blocks was cut short. 0: not known (schema 1)
    samples_per_call: int
    warm_up_s: float
    settled: bool  # the warm-up ended because two successive blocks agreed, not at its time limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One timed block: `iterations` calls between two readings of the clock."""

    measurement: str
    round: int
    order: int  # position among the group's measurements in this round
    iterations: int
    wall_ns: int
    device_ns: int | None = None  # between two events on the device's stream; None: no such clock
    control_ns: int | None = None  # of the control workload, right beside this block; None: it did not run
    flags: tuple[str, ...] = ()  # what the machine did meanwhile that can spoil a time: see sentinels.py

    def __post_init__(self) -> None:
        """Refuse a block in which nothing was timed."""
        if self.control_ns is not None and self.control_ns < 1:
            raise InputError(f"a control workload takes time, not {self.control_ns} ns")
        if self.iterations < 1 or self.wall_ns < 1:
            raise InputError(f"a block has calls and takes time, not {self.iterations} calls in {self.wall_ns} ns")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a training run computed; one entry an epoch in every tuple."""

    session: str
    config: RunConfig
    num_train: int
    num_test: int
    train_loss: tuple[float, ...]  # mean over the epoch's samples, from the steps' own outputs
    train_accuracy: tuple[float, ...]  # likewise: each sample counted before the update that used it
    last_loss: tuple[float, ...]  # of the epoch's last batch, as the tutorial prints it
    test_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    train_s: tuple[float, ...]  # the clock is stopped while evaluating
    evaluate_s: tuple[float, ...]
    digests: tuple[tuple[str, str], ...]  # ("initial" | "final", digest of the parameters)

    def __post_init__(self) -> None:
        """Refuse curves that are shorter or longer than the run."""
        for name in (
            "train_loss",
            "train_accuracy",
            "last_loss",
            "test_loss",
            "test_accuracy",
            "train_s",
            "evaluate_s",
        ):
            if len(getattr(self, name)) != self.config.num_epochs:
                raise InputError(f"{name} has {len(getattr(self, name))} entries for {self.config.num_epochs} epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Whether two runs of one config computed the same bits, and where they first part."""

    session: str
    name: str
    config: RunConfig
    other: RunConfig  # what the second run was asked for
    num_steps: int
    num_stages: int  # tensors compared
    first_difference: str | None  # the stage, for example "step 0 gradient linear0.weight"; None: all bits equal
    max_abs_difference: float | None  # over that stage
    final_abs_difference: float | None  # over the parameters after the last step


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """Something that was asked for and could not run here."""

    session: str
    operation: str
    config: RunConfig
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `ab` or `aa` is about to measure: pairs of fresh processes, one of each side."""

    id: str  # the `run` of its sessions
    started_at: str  # UTC, ISO 8601
    command: str
    a: tuple[str, ...]  # what the side is: settings, variables, interpreter, commit; paths left out
    b: tuple[str, ...]
    operations: tuple[str, ...]
    config: RunConfig  # of both sides, before their own settings
    pairs: int  # at most
    rounds: int
    first: str  # a | b: drawn; the order is that of ABBA from there on
    interleaved: bool  # the two processes of a pair take turns, round by round; else one side comes first, whole
    margin_ratio: float | None  # the change that was said to matter, as a ratio; None: nothing was said


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Why a plan's measuring stopped."""

    plan: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The machine while a process measured, read outside the timed regions; None: cannot be read here."""

    session: str
    load: float | None  # processes that want to run, mean of the last minute
    steal_share: float | None  # of the CPUs' time, given to other virtual machines
    other_share: float | None  # of the CPUs' time, used by other processes
    involuntary_switches: int | None  # of this process
    frequency_hz: float | None  # of the slowest CPU in use
    core_latency_s: float | None  # a cache line's way from one CPU in use to another and back
    gpu_clock_hz: float | None
    gpu_throttle: tuple[str, ...]  # reasons, as NVML names them


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """What the machine can do at best: the roof over every time."""

    session: str
    device: str
    num_threads: int
    gemm_flops_per_s: float  # dense float32 product of large square matrices
    copy_bytes_per_s: float  # read and written, of an array far larger than the caches


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The most memory that an operation held, from a pass of its own in a fresh process."""

    session: str
    operation: str
    config: RunConfig
    peak_bytes: int
    before_bytes: int  # held before its first call, model and data in memory
    source: str  # resident set | CUDA allocator

    def __post_init__(self) -> None:
        """Refuse an operation that held nothing."""
        if self.peak_bytes < 1:
            raise InputError(f"an operation holds memory, not {self.peak_bytes} bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What comparing a benchmark with itself gave on this machine."""

    session: str
    suite: str
    operation: str
    config: RunConfig
    processes: int  # of each side in a comparison
    comparisons: int
    floor_ratio: float  # 95 % of the comparisons lay within this of 1 (never below 1)
    false_alarms: int  # comparisons that ended with slower or faster


Record = Session | Measurement | Block | TrainResult | Check | Skip | Plan | Ending | Conditions | Peak | Memory | Noise
