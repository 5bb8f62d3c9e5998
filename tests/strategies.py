"""Records to test with: hand-made ones, and hypothesis strategies for any."""

import struct
from dataclasses import fields, replace

import numpy as np
from hypothesis import strategies as st

from mlpbench.certifying.certificate import Certificate, Detail, Entry, Stage, pack
from mlpbench.config import RunConfig, grid
from mlpbench.records.codec import encode
from mlpbench.records.kinds import (
    Block,
    Check,
    Conditions,
    Ending,
    Environment,
    Measurement,
    Memory,
    Noise,
    Peak,
    Plan,
    Record,
    Session,
    Skip,
    TrainResult,
)
from mlpbench.records.results import Results

# --- hand-made --------------------------------------------------------------------------------------------------------

ENVIRONMENT = Environment(
    cpu_model="Example CPU",
    architecture="x86_64",
    num_cpus=2,
    cpu_capability="AVX2",
    memory_bytes=8 * 2**30,
    gpu_model=None,
    gpu_memory_bytes=None,
    os="Linux 6.1",
    python="3.12.4",
    torch="2.11.0",
    torchvision="0.26.0",
    numpy="2.1.0",
    cuda=None,
    cudnn=None,
    num_threads=2,
    matmul_precision="highest",
    deterministic_algorithms=False,
    variables=(("OMP_NUM_THREADS", "2"),),
    mlpbench="0.1.0",
    commit="0123abc",
    dirty=False,
)
OTHER_ENVIRONMENT = replace(ENVIRONMENT, cpu_model="Example GPU host", gpu_model="Example GPU", cuda="13.0")


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
    """A block for each round, with the time per call that is given for it."""
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
    """A measurement with its blocks."""
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
    """Fresh processes that measured the same thing: a list of blocks' times for each, and each one's control."""
    made: list[Record] = []
    for process, times in enumerate(milliseconds):
        name = f"{run}{side}{process}"
        control_ns = None if control_ms is None else round(control_ms[process] * 1e6)
        place = {"a": 2 * process, "b": 2 * process + 1}.get(side, process)
        made += [
            session(name, run=run, process=place, side=side, started_at=started_at, environment=environment),
            measurement(f"m{name}", session=name, **{"rounds": len(times)} | changes),
            *blocks(f"m{name}", times, control_ns=control_ns, flags=flags),
        ]
    return made


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
    """A training run of as many epochs as accuracies are given."""
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


def skip(reason: str, *, operation: str = "train_step", session: str = "s", **settings) -> Skip:
    return Skip(session=session, operation=operation, config=RunConfig(**settings), reason=reason)


def results(*records: Record | list[Record]) -> Results:
    """Results with these records, added in this order."""
    made = Results()
    for item in records:
        for record in item if isinstance(item, list) else [item]:
            made.add(record)
    return made


HOSTILE_REASON = 'device cuda: <b>none</b> & "no driver" | try cpu'


def example() -> Results:
    """Results that fill every section of the report."""
    operations = {
        "forward": 0.085,
        "backward": 0.4,
        "forward_backward": 0.5,
        "optimizer_step": 0.04,
        "train_step": 0.9,
        "evaluate": 25.0,
    }
    suites = [
        *(("epochs", "epoch", 600.0 * (i + 1), {"loader": x}) for i, x in enumerate(["memory", "dataloader"])),
        *(("activations", "train_step", 1.0, {"activations": (name,)}) for name in ["relu", "gelu"]),
        *(("optimizers", "train_step", 1.0, {"optimizer": name}) for name in ["sgd", "adam"]),
        *(("batch_sizes", "train_step", 0.4 + size / 500, {"batch_size": size}) for size in [1, 100, 10_000]),
        *(("widths", "train_step", 0.4 + size / 500, {"hidden_sizes": (size,) * 3}) for size in [16, 150, 1024]),
    ]
    spread = (1.0, 1.1, 0.95, 1.02, 0.98)
    records: list[Record | list[Record]] = [
        session("s"),
        session("t", started_at="2026-01-02T00:00:00+00:00", command="mlpbench study --preset quick"),
        *(
            timed(operation, [value * factor for factor in spread], operation=operation)
            for operation, value in operations.items()
        ),
        *(
            timed(
                f"{suite}{number}",
                [value * factor for factor in spread],
                suite=suite,
                operation=operation,
                config=RunConfig(**settings),
            )
            for number, (suite, operation, value, settings) in enumerate(suites)
        ),
        *(
            timed(f"time{threads}", [3 / threads] * 3, suite="time", group="g", config=RunConfig(num_threads=threads))
            for threads in [1, 2]
        ),
    ]
    for config in grid(RunConfig(), activations=[("relu", "tanh", "elu"), ("relu",)], seed=range(3)):
        best = 0.95 - 0.03 * config.seed
        settings = {"activations": config.activations, "seed": config.seed}
        records.append(trained((0.5, 0.8, best), session="t", **settings))
        records.append(trained((0.81, 0.88, best), session="t", dataset="mnist", **settings))
    records += [
        check("repeat"),
        check("threads", first_difference="step 0 gradient layers.0.weight"),
        skip(HOSTILE_REASON, device="cuda"),
    ]
    return results(*records)


def certificate(
    *,
    parted: str | None = None,
    by: float = 1e-8,
    created_at: str = "2026-01-01T00:00:00+00:00",
    variables=(),
    **changes,
) -> Certificate:
    """A certificate of two stages and two steps; from the stage `parted` on its bits are its own."""
    config_fields = {f.name for f in fields(RunConfig)}
    config = RunConfig(
        **{"engine": "portable", "num_threads": 2} | {k: v for k, v in changes.items() if k in config_fields}
    )
    environment = replace(
        ENVIRONMENT, variables=variables, **{k: v for k, v in changes.items() if k not in config_fields}
    )
    names = [
        "initial linear0.weight",
        "step 0 loss",
        "step 0 update linear0.weight",
        "step 1 loss",
        "step 1 update linear0.weight",
        "test logits",
    ]
    is_own = [parted is not None and names.index(parted) <= index for index in range(len(names))]
    digests = [("f" if own else "0") * 32 for own in is_own]
    samples = [pack(np.array([1.0 + by * own, 2.0])) for own in is_own]

    def entry(index):
        return Entry(stage=names[index], dtype="float32", num_values=2, digest=digests[index], samples=samples[index])

    def step(index):
        return f"{struct.pack('>d', 1.0 + by * is_own[index]).hex()} {digests[index + 1][:12]} " + "".join(
            digest[:4] for digest in digests[index : index + 2]
        )

    return Certificate(
        format=1,
        recipe="sha256-1",
        created_at=created_at,
        config=config,
        environment=environment,
        num_steps=2,
        zoom=None,
        arithmetic="portable/1" if config.engine == "portable" else "PyTorch",
        bits=21 if config.engine == "portable" else None,
        before=(entry(0),),
        stages=tuple(Stage(name=n, dtype="float32", num_values=2) for n in ("loss", "update linear0.weight")),
        steps=(step(1), step(3)),
        after=(entry(5),),
        test_accuracy=0.5 + by,
        details=tuple(
            Detail(step=s, digests=tuple(digests[i : i + 2]), samples=tuple(samples[i : i + 2]))
            for s, i in enumerate((1, 3))
        ),
    )


# --- any --------------------------------------------------------------------------------------------------------------

_EXTREMES = [0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1 + 0.2]
finite_floats = st.sampled_from(_EXTREMES) | st.floats(allow_nan=False, allow_infinity=False)
any_floats = finite_floats | st.floats()
counts = st.integers(min_value=0, max_value=2**63)
st.register_type_strategy(int, st.integers(-(2**63), 2**63))  # the format's whole numbers, where nothing is said
names = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)


@st.composite
def configs(draw, words: st.SearchStrategy[str] = names) -> RunConfig:
    hidden_sizes = draw(st.lists(st.integers(1, 2**16), min_size=1, max_size=4).map(tuple))
    several = st.lists(words, min_size=len(hidden_sizes), max_size=len(hidden_sizes))
    optimizer = draw(words)
    return RunConfig(
        model=draw(words),
        hidden_sizes=hidden_sizes,
        activations=tuple(draw(several | st.lists(words, min_size=1, max_size=1))),
        dataset=draw(words),
        loader=draw(words),
        batch_size=draw(st.integers(1, 2**24)),
        num_epochs=draw(st.integers(1, 10**6)),
        optimizer=optimizer,
        lr=draw(st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
        momentum=draw(st.floats(min_value=0, max_value=1, exclude_min=optimizer == "nesterov", exclude_max=True)),
        weight_decay=draw(st.floats(min_value=0, allow_infinity=False)),
        engine=draw(words),
        device=draw(words),
        num_threads=draw(st.none() | st.integers(1, 2**9)),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


# What a field holds, where its annotation says too little or too much.
_CURVES = [f.name for f in fields(TrainResult) if "float" in str(f.type)]
_PAIRS = st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple)
_CONFIG = configs(st.text(max_size=8))

environments = st.builds(
    Environment, variables=_PAIRS, num_cpus=counts, memory_bytes=counts, gpu_memory_bytes=st.none() | counts
)
sessions = st.builds(Session, environment=environments)
measurements = st.builds(Measurement, config=_CONFIG, warm_up_s=finite_floats, samples_per_call=counts)
timed_blocks = st.builds(
    Block,
    iterations=st.integers(1, 2**40),
    wall_ns=st.integers(1, 2**62),
    device_ns=st.none() | counts,
    control_ns=st.none() | st.integers(1, 2**62),
    flags=st.lists(st.text(), max_size=3).map(tuple),
)


@st.composite
def _train_results(draw) -> TrainResult:
    num_epochs = draw(st.integers(1, 4))
    curve = st.lists(any_floats, min_size=num_epochs, max_size=num_epochs).map(tuple)
    config = replace(draw(_CONFIG), num_epochs=num_epochs)
    return draw(st.builds(TrainResult, config=st.just(config), digests=_PAIRS, **dict.fromkeys(_CURVES, curve)))


train_results = _train_results()
checks = st.builds(
    Check,
    config=_CONFIG,
    other=_CONFIG,
    max_abs_difference=st.none() | any_floats,
    final_abs_difference=st.none() | any_floats,
)
skips = st.builds(Skip, config=_CONFIG)
_MAYBE = st.none() | finite_floats
plans = st.builds(Plan, config=_CONFIG, pairs=counts, rounds=counts, margin_ratio=st.none() | finite_floats)
endings = st.builds(Ending)
conditions = st.builds(
    Conditions,
    **dict.fromkeys(("load", "steal_share", "other_share", "frequency_hz", "core_latency_s", "gpu_clock_hz"), _MAYBE),
    involuntary_switches=st.none() | counts,
)
peaks = st.builds(Peak, num_threads=counts, gemm_flops_per_s=finite_floats, copy_bytes_per_s=finite_floats)
memories = st.builds(Memory, config=_CONFIG, peak_bytes=st.integers(1, 2**62), before_bytes=counts)
noises = st.builds(
    Noise, config=_CONFIG, processes=counts, comparisons=counts, floor_ratio=any_floats, false_alarms=counts
)
of_a_session = st.one_of(measurements, train_results, checks, skips, conditions, peaks, memories, noises)
records = st.one_of(sessions, timed_blocks, plans, endings, of_a_session)


@st.composite
def histories(draw) -> list[Record]:
    """What a file may hold: sessions, each followed by what it did, a record once and after the one it points to."""
    history: list[Record] = []
    ids = draw(st.lists(st.text(), min_size=1, max_size=2, unique=True))
    for name in ids:
        history.append(replace(draw(sessions), id=name))
        for item in draw(st.lists(of_a_session, max_size=3)):
            history.append(replace(item, session=name))
            if isinstance(item, Measurement):
                history += [replace(b, measurement=item.id) for b in draw(st.lists(timed_blocks, max_size=2))]
    return list({encode(record): record for record in history}.values())


def any_place(content, data) -> tuple[dict | list, str | int]:
    """Somewhere in a JSON document: what holds it, and its key or index there."""
    place = content
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            return place, key
        place = place[key]
