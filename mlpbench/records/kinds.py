"""The records: what is asked, where it ran, what was observed.

Standard library only, so that the side that computes (torch) and the side that reads (pandas) can both use them.
A record is frozen and flat, and holds raw observations; every statistic is computed later. Records point to
each other by id: a Block names its Measurement, a Measurement its Session. `docs/record-format.md` has the file format.

Units are in the field names (`_ns`, `_s`, `_bytes`). Loss is in nats per sample, accuracy is a fraction.
"""

from dataclasses import dataclass

from mlpbench.config import RunConfig
from mlpbench.errors import InputError


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
