"""Define the kinds of records: descriptions of runs and machines, and raw observations.

A record is frozen and flat, and holds raw observations; every statistic is computed later. A class below is the only
place that states a kind: how it is read, written and looked up follows from it. Records point to each other by id: a
Block names its Measurement, a Measurement its Session. `docs/record-format.md` describes the file format.

Uses the standard library only, so that code with PyTorch and code with pandas can both import it. Units are in the
names of fields (`_ns`, `_s`, `_bytes`). A loss is in nats per sample; an accuracy is a fraction.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

from mlpbench.config import Clock, RunConfig
from mlpbench.errors import InputError
from mlpbench.records.environment import Environment
from mlpbench.records.flat_environment import FlatEnvironment, from_flat
from mlpbench.records.ranges import (
    Amount,
    Count,
    Distance,
    Id,
    Instant,
    Positive,
    Rate,
    Ratio,
    Seconds,
    Share,
    one_of,
)


class Record:
    """Describe one observation: the base of every kind of record."""

    __slots__ = ()

    kind: ClassVar[str]
    """The name of the kind in a file."""
    points_to: ClassVar[str | None]
    """The kind of the record that this one belongs to; a field of that name holds its id. None: it stands alone."""
    key: ClassVar[str | None]
    """The field by which `Results` looks a record up. None: records of this kind are a list."""
    # Type checkers need this: every kind is a dataclass, but this base class is not.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


KINDS: dict[str, type[Record]] = {}
"""Every kind by its name in a file, each after the kind that it points to."""

R = TypeVar("R", bound=Record)


def added_in(schema: int, *, before: Any, default: Any = MISSING) -> Any:
    """Declare a field that came with a schema of the file format.

    Args:
        schema: The first schema that has the field.
        before: Its value in a line of an older schema, or a function that computes it from the line's content.
        default: The default of the field; without one, the field must be given.
    """
    return field(default=default, metadata={"since": schema, "before": before})


def changed_in(schema: int, *, before: type, convert: Callable[[Any], Any]) -> Any:
    """Declare a field whose type changed with a schema of the file format.

    Args:
        schema: The first schema that has the present type.
        before: The type of its value in a line of an older schema.
        convert: A function from that type to the present one.
    """
    return field(metadata={"changed": schema, "before": before, "convert": convert})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, added_in, changed_in))
def record(kind: str, *, points_to: str | None = "session", key: str | None = None) -> Callable[[type[R]], type[R]]:
    """Return a decorator that makes a class a kind of record, and enters it in `KINDS`.

    The arguments are the class variables of `Record`. A kind comes after the kind that it points to.
    """
    assert points_to is None or points_to in KINDS, f"define the kind {points_to} before {kind}"

    def register(record_type: type[R]) -> type[R]:
        record_type.kind, record_type.points_to, record_type.key = kind, points_to, key
        # A dataclass with slots is a new class, so this one is registered and returned.
        KINDS[kind] = frozen = dataclass(frozen=True, kw_only=True, slots=True)(record_type)
        return frozen

    return register


@record("session", points_to=None, key="id")
class Session(Record):
    """Describe one process that measured or trained, and the command that started it."""

    id: Id
    run: Id = added_in(2, before=lambda content: content.get("id"))
    """The id that processes of one run share: fresh ones that repeat its rounds, or one that goes on with training."""
    process: Count = added_in(2, before=0)
    """The position among the processes of the run."""
    side: Annotated[str, one_of("", "a", "b")] = added_in(2, before="")
    """a or b if the run compares two sides; else empty."""
    started_at: Instant
    """UTC, ISO 8601."""
    command: str
    preset: str
    environment: Environment = changed_in(3, before=FlatEnvironment, convert=from_flat)


@record("plan", points_to=None, key="id")
class Plan(Record):
    """Describe the measurements that `ab` or `aa` starts: pairs of fresh processes, one of each side."""

    id: Id
    """The `run` of its sessions."""
    started_at: Instant
    """UTC, ISO 8601."""
    command: str
    a: tuple[str, ...]
    """How side A differs: settings, variables, interpreter, commit; a path is a digest."""
    b: tuple[str, ...]
    operations: tuple[str, ...]
    config: RunConfig
    """The config of both sides, before their own settings."""
    pairs: Positive
    """The largest number of pairs."""
    rounds: Positive
    first: Annotated[str, one_of("a", "b")]
    """The side that starts, a or b, chosen at random; from there on the order is A, B, B, A."""
    interleaved: bool
    """True if the two processes of a pair take turns, round by round; else one side runs completely, then the other."""
    margin_ratio: Ratio | None
    """The smallest change that matters, as a ratio. None: no margin was given."""


@record("measurement", key="id")
class Measurement(Record):
    """Describe one timing: the operation, its config and the clock. Its blocks follow in the file, one line each."""

    id: Id
    session: Id
    suite: str
    """The place in tables and figures: the name of the benchmark file, or the verb."""
    group: Id
    """Measurements of one group are interleaved, round by round, so their blocks pair up by round."""
    operation: str
    config: RunConfig
    clock: Annotated[str, one_of(*Clock)]
    """throughput: the device is synchronised at both ends of a block. latency: after every call. device: by events."""
    rounds: Count = added_in(2, before=0)
    """The planned number of rounds; with fewer blocks, the measurement is incomplete. 0: unknown (schema 1)."""
    samples_per_call: Positive
    warm_up_s: Seconds
    settled: bool
    """True if the warm-up ended because two successive blocks agreed; False if it reached its time limit."""


@record("block", points_to="measurement")
class Block(Record):
    """Hold one timed block: `iterations` calls between two readings of the clock."""

    measurement: Id
    round: Count
    order: Count
    """The position among the measurements of the group in this round."""
    iterations: Positive
    wall_ns: Positive
    device_ns: Positive | None = None
    """Time between two events on the device's stream. None: there is no such clock."""
    control_ns: Positive | None = added_in(2, before=None, default=None)
    """Time of the control workload right beside this block. None: it did not run."""
    flags: tuple[str, ...] = ()
    """Disturbances of the machine that can spoil a time; `mlpbench/machine/sentinels.py` defines them."""

    def __post_init__(self) -> None:
        """Check that something was timed."""
        if self.control_ns is not None and self.control_ns < 1:
            raise InputError(f"control_ns must be at least 1, not {self.control_ns}")
        if self.iterations < 1 or self.wall_ns < 1:
            raise InputError(
                "iterations and wall_ns of a block must be at least 1, "
                f"not iterations={self.iterations}, wall_ns={self.wall_ns}"
            )


CURVES = ("train_loss", "train_accuracy", "last_loss", "test_loss", "test_accuracy", "train_s", "evaluate_s")
"""The fields of a TrainResult that have one value for each epoch."""


@record("epoch")
class EpochResult(Record):
    """Hold the results of one epoch of a training run. Its run is finished if it also has a TrainResult."""

    session: Id
    config: RunConfig
    num_train: Positive
    num_test: Positive
    index: Count
    """The number of the epoch, from 0."""
    train_loss: float
    """This value and the next six are those of a TrainResult, of this epoch alone."""
    train_accuracy: Share
    last_loss: float
    test_loss: float
    test_accuracy: Share
    train_s: Seconds
    evaluate_s: Seconds
    digests: tuple[tuple[str, str], ...]
    """Pairs of a name and a digest of the state after the epoch: of the `parameters`, and, where the engine gives it,
    of the whole `state`, from which the next epoch starts."""

    def __post_init__(self) -> None:
        """Check that the run has this epoch."""
        if not 0 <= self.index < self.config.num_epochs:
            raise InputError(f"index must be from 0 to {self.config.num_epochs - 1}, not {self.index}")


@record("train_result")
class TrainResult(Record):
    """Hold the results of a training run; the fields in `CURVES` have one value for each epoch."""

    session: Id
    config: RunConfig
    num_train: Positive
    num_test: Positive
    train_loss: tuple[float, ...]
    """Mean over the samples of the epoch, from the outputs of the training steps."""
    train_accuracy: tuple[Share, ...]
    """From the same outputs: each sample counts before the update that uses it."""
    last_loss: tuple[float, ...]
    """Loss of the last batch of the epoch, as the tutorial prints it."""
    test_loss: tuple[float, ...]
    test_accuracy: tuple[Share, ...]
    train_s: tuple[Seconds, ...]
    """Time of training, without the evaluation."""
    evaluate_s: tuple[Seconds, ...]
    digests: tuple[tuple[str, str], ...]
    """Pairs of `initial` or `final` and the digest of the parameters."""

    def __post_init__(self) -> None:
        """Check that every curve is as long as the run."""
        for name in CURVES:
            if len(getattr(self, name)) != self.config.num_epochs:
                raise InputError(
                    f"{name} must have a value for each of {self.config.num_epochs} epochs, "
                    f"not {len(getattr(self, name))} values"
                )


@record("check")
class Check(Record):
    """Hold a rerun: whether two runs of one config computed the same bits, and the first difference."""

    session: Id
    name: str
    config: RunConfig
    other: RunConfig
    """The config of the second run."""
    num_steps: Count
    num_stages: Count
    """The number of compared tensors."""
    first_difference: str | None
    """The first stage that differs, for example `step 0 gradient linear0.weight`. None: all bits are equal."""
    max_abs_difference: Distance | None
    """The largest difference in that stage."""
    final_abs_difference: Distance | None
    """The largest difference of the parameters after the last step."""


@record("skip")
class Skip(Record):
    """Describe an operation that was asked for, but could not run here."""

    session: Id
    benchmark: str = added_in(3, before="", default="")
    """The benchmark of the suite that asked for it, as `FILE::NAME[PARAMETERS]`; empty if unknown."""
    operation: str
    config: RunConfig
    reason: str


@record("ending", points_to="plan", key="plan")
class Ending(Record):
    """Hold the reason why the measurements of a plan ended."""

    plan: Id
    reason: str


@record("conditions", key="session")
class Conditions(Record):
    """Describe the machine while a process measured, read outside the timed blocks. None: not available here."""

    session: Id
    load: Amount | None
    """Processes that are ready to run, mean of the last minute."""
    steal_share: Share | None
    """Share of the CPUs' time that the host gave to other virtual machines."""
    other_share: Share | None
    """Share of the CPUs' time that other processes used."""
    involuntary_switches: Count | None
    """Involuntary context switches of this process."""
    frequency_hz: Rate | None
    """Frequency of the slowest CPU in use."""
    core_latency_s: Seconds | None
    """Time that a cache line takes from one CPU in use to another and back."""
    gpu_clock_hz: Amount | None
    gpu_throttle: tuple[str, ...]
    """Reasons for a slower GPU clock, with NVML's names."""


@record("peak")
class Peak(Record):
    """Hold the peak rates of the machine: the hardware limit of every time."""

    session: Id
    device: str
    num_threads: Positive
    gemm_flops_per_s: Rate
    """Rate of dense float32 products of large square matrices."""
    copy_bytes_per_s: Rate
    """Bytes read and written, copying an array far larger than the caches."""


@record("memory")
class Memory(Record):
    """Hold the peak memory of an operation, measured in a fresh process that measures nothing else."""

    session: Id
    operation: str
    config: RunConfig
    peak_bytes: Positive
    before_bytes: Count
    """Memory before the first call, with model and data loaded."""
    source: str
    """`resident set` or `CUDA allocator`."""

    def __post_init__(self) -> None:
        """Check that the operation used memory."""
        if self.peak_bytes < 1:
            raise InputError(f"peak_bytes must be at least 1, not {self.peak_bytes}")


@record("noise")
class Noise(Record):
    """Hold the noise of a benchmark on this machine: the result of comparing it with itself."""

    session: Id
    suite: str
    operation: str
    config: RunConfig
    processes: Positive
    """Processes on each side of a comparison."""
    comparisons: Count
    floor_ratio: Ratio
    """95 % of the comparisons had a ratio within this factor of 1; it is at least 1."""
    false_alarms: Count
    """Comparisons whose verdict was slower or faster."""


@record("acceptance")
class Acceptance(Record):
    """Tell that these results were accepted as a baseline by force, though hardly a verdict can follow from them."""

    session: Id
    """The newest session of the results."""
    reasons: tuple[str, ...]
    """The reasons for which they would have been refused."""
