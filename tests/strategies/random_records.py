"""Generate any valid records with hypothesis."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args, get_type_hints

from hypothesis import strategies as st

from mlpbench.config import Clock, RunConfig
from mlpbench.records import ranges
from mlpbench.records.codec import encode
from mlpbench.records.environment import Environment, Hardware, Stack
from mlpbench.records.kinds import (
    CURVES,
    Acceptance,
    Block,
    Check,
    Conditions,
    Ending,
    EpochResult,
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
positives = st.integers(min_value=1, max_value=2**63)
texts = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" \n"))
# The format limits whole numbers and texts, and hypothesis does not: this is for fields without a strategy below.
st.register_type_strategy(int, counts)
st.register_type_strategy(str, texts)
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
_PAIRS = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
_CONFIG = configs(texts.map(lambda text: text[:8]))
_SIDES = st.sampled_from(["", "a", "b"])

# A strategy for each type of `ranges`.
_RANGES: dict[object, st.SearchStrategy] = {
    ranges.Id: st.from_regex(r"[a-zA-Z0-9_.-]{1,12}", fullmatch=True),
    ranges.Instant: st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    ranges.Count: counts,
    ranges.Positive: positives,
    ranges.Seconds: st.floats(0, 1e12),
    ranges.Rate: st.floats(1e-6, 1e24),
    ranges.Amount: st.floats(0, 1e24),
    ranges.Share: st.floats(0, 1),
    ranges.Ratio: st.floats(1, 1e6),
    ranges.Distance: st.floats(min_value=0) | st.sampled_from([math.nan, math.inf]),
}


def built(kind: type, **others: st.SearchStrategy) -> st.SearchStrategy:
    """Generate records of a kind: fields with a type of `ranges` in their range, and others as given."""
    hints = get_type_hints(kind, include_extras=True)
    ranged = {name: _RANGES[hint] for name, hint in hints.items() if hint in _RANGES}
    for name, hint in hints.items():
        options = [option for option in get_args(hint) if option in _RANGES]
        if options:
            ranged[name] = st.none() | _RANGES[options[0]]
    return st.builds(kind, **ranged | others)


_OPTIONAL_TEXT = st.none() | texts
hardware = built(
    Hardware,
    **dict.fromkeys(("cpu_model", "cpu_vendor", "architecture", "hypervisor", "gpu_model"), _OPTIONAL_TEXT),
    caches=st.none() | st.lists(st.tuples(texts, positives), max_size=3).map(tuple),
    vector_flags=st.none() | st.lists(texts, max_size=3).map(tuple),
)
libraries = ("mkl", "onednn", "blas", "glibc", "compiler", "transparent_huge_pages")
stacks = built(Stack, **dict.fromkeys(libraries, _OPTIONAL_TEXT), variables=_PAIRS)
environments = built(Environment, hardware=hardware, stack=stacks, source_digest=_OPTIONAL_TEXT)
sessions = built(Session, environment=environments, side=_SIDES)
measurements = built(Measurement, config=_CONFIG, clock=st.sampled_from(Clock).map(str))
timed_blocks = built(Block, flags=st.lists(texts, max_size=3).map(tuple))


@st.composite
def _train_results(draw) -> TrainResult:
    num_epochs = draw(st.integers(1, 4))
    config = replace(draw(_CONFIG), num_epochs=num_epochs)
    hints = get_type_hints(TrainResult, include_extras=True)
    values = {name: _RANGES.get(get_args(hints[name])[0], any_floats) for name in CURVES}
    curves = {name: st.lists(v, min_size=num_epochs, max_size=num_epochs).map(tuple) for name, v in values.items()}
    return draw(built(TrainResult, config=st.just(config), digests=_PAIRS, **curves))


@st.composite
def _epochs(draw) -> EpochResult:
    config = draw(_CONFIG)
    return draw(
        built(
            EpochResult,
            config=st.just(config),
            index=st.integers(0, config.num_epochs - 1),
            digests=_PAIRS,
            **dict.fromkeys(("train_loss", "last_loss", "test_loss"), any_floats),
        )
    )


epochs = _epochs()
train_results = _train_results()
checks = built(Check, config=_CONFIG, other=_CONFIG)
skips = built(Skip, config=_CONFIG)
plans = built(Plan, config=_CONFIG, first=st.sampled_from("ab"))
endings = built(Ending)
conditions = built(Conditions)
peaks = built(Peak)
memories = built(Memory, config=_CONFIG)
noises = built(Noise, config=_CONFIG)
acceptances = built(Acceptance)
of_a_session = st.one_of(
    measurements, epochs, train_results, checks, skips, conditions, peaks, memories, noises, acceptances
)
records = st.one_of(sessions, timed_blocks, plans, endings, of_a_session)


@st.composite
def histories(draw) -> list[Record]:
    """Generate the records of a file: sessions, each followed by its records; no record twice."""
    history: list[Record] = []
    ids = draw(st.lists(_RANGES[ranges.Id], min_size=1, max_size=2, unique=True))
    for name in ids:
        history.append(replace(draw(sessions), id=name))
        kinds_with_a_key = set()
        for number, item in enumerate(draw(st.lists(of_a_session, max_size=3))):
            if isinstance(item, Measurement):
                history.append(replace(item, session=name, id=f"{name}{number}"))
                parts = draw(st.lists(timed_blocks, max_size=2))
                history += [replace(b, measurement=f"{name}{number}", round=r) for r, b in enumerate(parts)]
            elif type(item).key is None or type(item) not in kinds_with_a_key:
                kinds_with_a_key.add(type(item))
                history.append(replace(item, session=name))
    return list({encode(record): record for record in history}.values())


def any_place(content, data) -> tuple[dict | list, str | int]:
    """Draw a place in a JSON document: an object or a list in it, and a key or index there."""
    place = content
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            return place, key
        place = place[key]
