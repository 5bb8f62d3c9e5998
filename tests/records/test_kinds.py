"""Test the kinds of records: how they are declared."""

from dataclasses import FrozenInstanceError, fields

import pytest

from mlpbench.errors import InputError
from mlpbench.records.codec import decode, encode
from mlpbench.records.kinds import KINDS, Record, record
from mlpbench.records.results import Results
from tests.records.history import HISTORY
from tests.strategies import ENVIRONMENT, epoch, session


@pytest.mark.parametrize("record", [ENVIRONMENT, *HISTORY], ids=lambda record: type(record).__name__)
def test_records_are_frozen(record):
    name = fields(record)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(record, name, getattr(record, name))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_kind_declares_fields_of_its_own_as_pointer_and_key(kind):
    names = {f.name for f in fields(kind)}
    assert {kind.points_to, kind.key} <= {None, *names}
    assert KINDS[kind.kind] is kind
    assert kind.__doc__


def test_kind_comes_after_the_one_that_it_points_to():
    order = list(KINDS)
    pointers = [(kind.kind, kind.points_to) for kind in KINDS.values() if kind.points_to]
    assert all(order.index(target) < order.index(name) for name, target in pointers)
    assert all(KINDS[target].key for _, target in pointers)
    with pytest.raises(AssertionError, match="define the kind nothing before late"):
        record("late", points_to="nothing")


@pytest.mark.parametrize("key", [None, "name"])
def test_new_kind_needs_no_more_than_its_class(monkeypatch, key):
    # The class enters itself; this only takes it out again.
    monkeypatch.setitem(KINDS, "tally", Record)

    @record("tally", key=key)
    class Tally(Record):
        session: str
        name: str
        counts: tuple[int, ...] = ()

    tally = Tally(session="s", name="a", counts=(1, 2))
    results = Results()
    results.add(session("s"))
    results.add(decode(encode(tally)))
    assert list(results.records()) == [session("s"), tally]
    assert results.of(Tally) == [tally]
    assert not key or results.by_key(Tally) == {"a": tally}


def test_epoch_that_the_run_does_not_have_is_refused():
    with pytest.raises(InputError, match="index must be from 0 to 5, not 6"):
        epoch(6)
