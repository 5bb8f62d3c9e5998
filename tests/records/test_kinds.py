"""Test the kinds of records: how they are declared, and the name of a machine."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from mlpbench.records.codec import decode, encode
from mlpbench.records.kinds import KINDS, Record, record
from mlpbench.records.results import Results
from tests.records.history import HISTORY
from tests.strategies import ENVIRONMENT, session


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


@pytest.mark.parametrize(
    ("cpu", "gpu", "name"),
    [
        ("Example CPU", None, "example-cpu-2cpu"),
        ("Example(R) CPU @ 2.20GHz", None, "example-r-cpu-2-20ghz-2cpu"),
        ("Example CPU", "Example GPU 80GB", "example-cpu-2cpu-example-gpu-80gb"),
        ("Prozessor/Größe ../..", None, "prozessor-gr-e-2cpu"),
    ],
)
def test_machine_names_the_hardware_and_can_name_a_folder(cpu, gpu, name):
    assert replace(ENVIRONMENT, cpu_model=cpu, gpu_model=gpu).machine == name


def test_machine_does_not_depend_on_the_software():
    assert replace(ENVIRONMENT, torch="9.9", python="4.0", commit="f", dirty=True).machine == ENVIRONMENT.machine
