"""Generate any valid records with hypothesis."""

from dataclasses import replace

from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.records.codec import encode
from mlpbench.records.kinds import (
    CURVES,
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

_EXTREMES = [0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1 + 0.2]
finite_floats = st.sampled_from(_EXTREMES) | st.floats(allow_nan=False, allow_infinity=False)
any_floats = finite_floats | st.floats()
counts = st.integers(min_value=0, max_value=2**63)
# The format limits whole numbers, and hypothesis does not: this is for fields without a strategy below.
st.register_type_strategy(int, st.integers(-(2**63), 2**63))
names = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)


@st.composite
def configs(draw, words: st.SearchStrategy[str] = names) -> RunConfig:
    hidden_sizes = draw(st.lists(st.integers(1, 2**16), min_size=1, max_size=4).map(tuple))
    one_per_layer = st.lists(words, min_size=len(hidden_sizes), max_size=len(hidden_sizes))
    optimizer = draw(words)
    return RunConfig(
        model=draw(words),
        hidden_sizes=hidden_sizes,
        activations=tuple(draw(one_per_layer | st.lists(words, min_size=1, max_size=1))),
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


# Strategies for fields whose annotation allows more than the record does, or less than hypothesis needs.
_PAIRS = st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple)
_CONFIG = configs(st.text(max_size=8))
_OPTIONAL_FLOAT = st.none() | finite_floats

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
    return draw(st.builds(TrainResult, config=st.just(config), digests=_PAIRS, **dict.fromkeys(CURVES, curve)))


train_results = _train_results()
checks = st.builds(
    Check,
    config=_CONFIG,
    other=_CONFIG,
    max_abs_difference=st.none() | any_floats,
    final_abs_difference=st.none() | any_floats,
)
skips = st.builds(Skip, config=_CONFIG)
plans = st.builds(Plan, config=_CONFIG, pairs=counts, rounds=counts, margin_ratio=_OPTIONAL_FLOAT)
endings = st.builds(Ending)
conditions = st.builds(
    Conditions,
    **dict.fromkeys(
        ("load", "steal_share", "other_share", "frequency_hz", "core_latency_s", "gpu_clock_hz"), _OPTIONAL_FLOAT
    ),
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
    """Generate the records of a file: sessions, each followed by its records; no record twice."""
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
    """Draw a place in a JSON document: an object or a list in it, and a key or index there."""
    place = content
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            return place, key
        place = place[key]
