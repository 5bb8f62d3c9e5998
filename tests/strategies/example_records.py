"""Make records by hand, with defaults for the fields that a test does not care about."""

from dataclasses import fields, replace

from mlpbench.config import RunConfig
from mlpbench.records.environment import NONE, Environment, Hardware, Stack
from mlpbench.records.kinds import (
    Block,
    Check,
    EpochResult,
    Measurement,
    Memory,
    Noise,
    Plan,
    Record,
    Session,
    Skip,
    TrainResult,
)
from mlpbench.records.results import Results

ENVIRONMENT = Environment(
    hardware=Hardware(
        cpu_model="Example CPU",
        cpu_vendor="ExampleVendor",
        cpu_family=25,
        cpu_model_number=17,
        cpu_stepping=1,
        architecture="x86_64",
        num_cpus=2,
        threads_per_core=1,
        caches=(("L1d", 2**15), ("L1i", 2**15), ("L2", 2**20), ("L3", 2**25)),
        vector_flags=("avx", "avx2", "fma"),
        cpu_quota=2.0,
        hypervisor="KVM",
        gpu_model=NONE,
        memory_bytes=8 * 2**30,
    ),
    stack=Stack(
        os="Linux 6.1",
        python="3.12.4",
        torch="2.11.0",
        torchvision="0.26.0",
        numpy="2.1.0",
        cuda=NONE,
        cudnn=NONE,
        mkl="2024.2-Product Build 20240605",
        onednn="v3.7.1",
        blas="mkl",
        glibc="2.36",
        compiler="g++-12 0123abcd",
        transparent_huge_pages="madvise",
        num_allowed_cpus=2,
        cpu_capability="AVX2",
        num_threads=2,
        matmul_precision="highest",
        deterministic_algorithms=False,
        variables=(("OMP_NUM_THREADS", "2"),),
    ),
    mlpbench="0.1.0",
    commit="0123abc",
    dirty=False,
)


def changed(environment: Environment, **changes) -> Environment:
    """Return the environment with other values of fields of its hardware, its stack or itself."""
    parts = {
        name: replace(part, **{f.name: changes.pop(f.name) for f in fields(part) if f.name in changes})
        for name, part in (("hardware", environment.hardware), ("stack", environment.stack))
    }
    return replace(environment, **parts, **changes)


OTHER_ENVIRONMENT = changed(ENVIRONMENT, cpu_model="Example GPU host", gpu_model="Example GPU", cuda="13.0")
# Two generations of one brand, as two machines described them; everything else is equal.
FAMILY_25 = changed(
    ENVIRONMENT, cpu_model="AMD EPYC", cpu_vendor="AuthenticAMD", cpu_family=25, cpu_model_number=17, cpu_stepping=1
)
FAMILY_26 = changed(FAMILY_25, cpu_family=26, cpu_model_number=2)


def as_before_schema_3(environment: Environment) -> Environment:
    """Return the environment as a record of schema 2 would hold it: without the facts that came later."""
    named, stack = environment.hardware, environment.stack
    later = ("mkl", "onednn", "blas", "glibc", "compiler", "transparent_huge_pages")
    return replace(
        environment,
        hardware=Hardware(
            cpu_model=named.cpu_model,
            architecture=named.architecture,
            gpu_model=named.gpu_model,
            memory_bytes=named.memory_bytes,
            gpu_memory_bytes=named.gpu_memory_bytes,
        ),
        stack=replace(stack, **dict.fromkeys(later)),
    )


def session(name: str = "s", *, started_at: str = "2026-01-01T00:00:00+00:00", **changes) -> Session:
    defaults = {
        "run": name,
        "process": 0,
        "side": "",
        "command": "pytest bench/ --preset quick",
        "preset": "quick",
        "environment": ENVIRONMENT,
    }
    return Session(id=name, started_at=started_at, **defaults | changes)


def measurement(name: str = "m", *, config: RunConfig | None = None, **changes) -> Measurement:
    defaults = {
        "session": "s",
        "suite": "operations",
        "group": name,
        "operation": "train_step",
        "clock": "throughput",
        "rounds": 0,
        "samples_per_call": 100,
        "warm_up_s": 0.125,
        "settled": True,
    }
    return Measurement(id=name, config=config or RunConfig(), **defaults | changes)


def blocks(name: str, milliseconds: dict[int, float] | list[float], *, iterations: int = 10, **changes) -> list[Block]:
    """Return a block for each round, with the given time per call."""
    by_round = milliseconds if isinstance(milliseconds, dict) else dict(enumerate(milliseconds))
    return [
        Block(
            measurement=name,
            round=number,
            order=0,
            iterations=iterations,
            wall_ns=round(value * 1e6 * iterations),
            **changes,
        )
        for number, value in by_round.items()
    ]


def timed(name: str, milliseconds: list[float], **changes) -> list[Record]:
    """Return a measurement and its blocks."""
    return [measurement(name, **changes), *blocks(name, milliseconds)]


def replicated(
    milliseconds: list[list[float]],
    *,
    run: str = "r",
    side: str = "",
    control_ms: list[float] | None = None,
    started_at: str = "2026-01-01T00:00:00+00:00",
    environment: Environment = ENVIRONMENT,
    flags: tuple[str, ...] = (),
    **changes,
) -> list[Record]:
    """Return the records of fresh processes: for each, the times of its blocks, and the time of its control."""
    records: list[Record] = []
    for process, times in enumerate(milliseconds):
        name = f"{run}{side}{process}"
        control_ns = None if control_ms is None else round(control_ms[process] * 1e6)
        position = {"a": 2 * process, "b": 2 * process + 1}.get(side, process)
        records += [
            session(name, run=run, process=position, side=side, started_at=started_at, environment=environment),
            measurement(f"m{name}", session=name, **{"rounds": len(times)} | changes),
            *blocks(f"m{name}", times, control_ns=control_ns, flags=flags),
        ]
    return records


def plan(**changes) -> Plan:
    defaults = {
        "id": "r",
        "started_at": "2026-01-01T00:00:00+00:00",
        "command": "mlpbench ab --b optimizer=adam",
        "a": (),
        "b": ("optimizer=adam",),
        "operations": ("train_step",),
        "config": RunConfig(),
        "pairs": 3,
        "rounds": 2,
        "first": "a",
        "interleaved": True,
        "margin_ratio": None,
    }
    return Plan(**defaults | changes)


def memory(peak_bytes: int, *, session: str = "s", **changes) -> Memory:
    defaults = {"operation": "train_step", "config": RunConfig(), "before_bytes": 1000, "source": "resident set"}
    return Memory(session=session, peak_bytes=peak_bytes, **defaults | changes)


def noise(floor_ratio: float, *, session: str = "s", **changes) -> Noise:
    defaults = {"suite": "ab", "operation": "train_step", "config": RunConfig(), "processes": 5, "comparisons": 66,
                "false_alarms": 0}  # fmt: skip
    return Noise(session=session, floor_ratio=floor_ratio, **defaults | changes)


def trained(
    test_accuracy: tuple[float, ...], *, session: str = "s", epoch_s: float = 2.0, diverged: bool = False, **settings
) -> TrainResult:
    """Return the result of a training run that has an epoch for each accuracy."""
    num_epochs = len(test_accuracy)
    losses = tuple(float("nan") if diverged else 1 / (epoch + 1) for epoch in range(num_epochs))
    return TrainResult(
        session=session,
        config=RunConfig(num_epochs=num_epochs, **settings),
        num_train=60_000,
        num_test=10_000,
        train_loss=losses,
        train_accuracy=tuple(max(accuracy - 0.01, 0.0) for accuracy in test_accuracy),
        last_loss=losses,
        test_loss=losses,
        test_accuracy=test_accuracy,
        train_s=(epoch_s,) * num_epochs,
        evaluate_s=(0.25,) * num_epochs,
        digests=(("initial", "sha256:00"), ("final", "sha256:01")),
    )


def epoch(index: int, test_accuracy: float = 0.5, *, session: str = "s", **settings) -> EpochResult:
    """Return an epoch of a training run, by default one of 6."""
    return EpochResult(
        session=session,
        config=RunConfig(**{"num_epochs": 6} | settings),
        num_train=60_000,
        num_test=10_000,
        index=index,
        train_loss=1 / (index + 1),
        train_accuracy=test_accuracy,
        last_loss=1 / (index + 2),
        test_loss=1 / (index + 3),
        test_accuracy=test_accuracy,
        train_s=2.0,
        evaluate_s=0.25,
        digests=(("parameters", f"sha256-1:{index:02}"), ("state", f"sha256-1:{index:03}")),
    )


def check(name: str = "repeat", *, first_difference: str | None = None, session: str = "s", **settings) -> Check:
    config = RunConfig(**settings)
    return Check(
        session=session,
        name=name,
        config=config,
        other=replace(config, num_threads=1),
        num_steps=10,
        num_stages=170,
        first_difference=first_difference,
        max_abs_difference=None if first_difference is None else 1.5e-8,
        final_abs_difference=None if first_difference is None else 2.5e-7,
    )


def skip(reason: str, *, operation: str = "train_step", session: str = "s", benchmark: str = "", **settings) -> Skip:
    config = RunConfig(**settings)
    return Skip(session=session, benchmark=benchmark, operation=operation, config=config, reason=reason)


def results(*records: Record | list[Record]) -> Results:
    """Return results with these records, added in this order."""
    loaded = Results()
    for item in records:
        for record in item if isinstance(item, list) else [item]:
            loaded.add(record)
    return loaded
