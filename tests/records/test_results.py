"""Results hold records by kind, and refuse a record that points to a missing one."""

from dataclasses import replace

import pytest

from mlpbench.records import store
from mlpbench.records.kinds import KINDS, Acceptance, Block, Measurement, Session
from mlpbench.records.results import Results
from tests import strategies
from tests.records.history import HISTORY, as_bytes, loaded_records
from tests.strategies import results, session


@pytest.mark.parametrize(
    "record", [record for record in HISTORY if record.points_to], ids=lambda record: type(record).__name__
)
def test_record_that_points_to_a_missing_one_is_refused(record):
    empty = Results()
    with pytest.raises(ValueError, match=r"'[smp]' is missing"):
        empty.add(record)
    assert loaded_records(empty) == []


def test_block_without_its_measurement_is_a_problem_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_bytes([record for record in HISTORY if not isinstance(record, Measurement)]))
    loaded = store.load([path])
    assert loaded.blocks == []
    assert len(loaded.train_results) == 1
    (problem,) = loaded.problems
    assert str(path) in problem
    assert "measurement 'm' is missing" in problem
    assert "and 1 more" in problem


def test_results_hold_the_records_of_each_kind_in_the_order_of_reading():
    loaded = results(*HISTORY)
    for kind in KINDS.values():
        assert loaded.of(kind) == [record for record in HISTORY if type(record) is kind]
    assert loaded.sessions == loaded.by_key(Session) == {"s": HISTORY[0], "t": HISTORY[-1]}
    assert loaded.blocks == loaded.of(Block) == HISTORY[2:4]


def test_properties_give_every_kind_its_name():
    loaded = results(*HISTORY)
    dicts = (loaded.sessions, loaded.plans, loaded.measurements, loaded.endings, loaded.conditions)
    lists = (
        loaded.blocks, loaded.epochs, loaded.train_results, loaded.checks, loaded.skips, loaded.peaks, loaded.memories,
        loaded.noises, loaded.of(Acceptance),
    )  # fmt: skip
    values = [*(record for each in dicts for record in each.values()), *(record for each in lists for record in each)]
    assert sorted(map(repr, values)) == sorted(map(repr, HISTORY))
    assert {type(next(iter(each.values()))).key for each in dicts} == {"id", "plan", "session"}


def test_records_come_after_those_that_they_point_to():
    loaded = results(*HISTORY)
    again = results(*loaded.records())
    assert again == loaded
    assert len(list(loaded.records())) == len(HISTORY)
    assert [type(record) for record in loaded.records()][:4] == [Session, Session, type(HISTORY[7]), Measurement]


def test_results_are_equal_if_their_records_and_problems_are():
    assert Results() == Results()
    assert results(*HISTORY) == results(*HISTORY)
    assert results(*HISTORY) != results(*HISTORY[:-1])
    assert results(*HISTORY) != results(*HISTORY[:2], replace(HISTORY[2], wall_ns=1), *HISTORY[3:])
    assert Results(problems=["a.jsonl: line 1 is damaged"]) != Results()


def test_other_record_with_the_key_of_an_earlier_one_is_refused():
    loaded = results(strategies.session("s"), strategies.session("t"))
    with pytest.raises(ValueError, match="another session has its id 's'"):
        loaded.add(strategies.session("s", preset="full"))
    assert [(s.id, s.preset) for s in loaded.sessions.values()] == [("s", "quick"), ("t", "quick")]


def test_round_of_a_measurement_is_timed_once():
    one, other = strategies.blocks("m", [1.0, 2.0])
    loaded = results(strategies.session("s"), strategies.measurement("m"), one)
    with pytest.raises(ValueError, match="another block has its measurement and its round 0"):
        loaded.add(replace(other, round=0))
    assert loaded.blocks == [one]


def test_newest_session_is_the_one_that_started_last():
    dates = {"a": "2026-01-02", "b": "2026-03-01", "c": "2026-02-01"}
    loaded = results(*(strategies.session(name, started_at=date) for name, date in dates.items()))
    assert loaded.newest_session.id == "b"


def test_incomplete_measurements_are_not_whole():
    loaded = results(
        strategies.session(),
        strategies.timed("planned", [1.0, 2.0], rounds=2),
        strategies.timed("cut", [1.0], rounds=2),
        strategies.timed("unknown", [1.0], rounds=0),
    )
    assert {name: len(blocks) for name, blocks in loaded.whole().items()} == {"planned": 2, "unknown": 1}


# --- runs that were interrupted


def test_run_is_finished_by_its_result_and_by_nothing_else():
    epochs = [strategies.epoch(index) for index in range(2)]
    other = strategies.epoch(0, seed=1)
    loaded = results(session("s"), [*epochs, other], strategies.trained((0.5,) * 6))
    assert loaded.unfinished() == {("s", other.config): [other]}


def test_repeated_epoch_counts_once_as_it_was_at_last():
    first, again = strategies.epoch(1), strategies.epoch(1, 0.75, session="t")
    loaded = results(
        session("s"), session("t", run="s", process=1), [strategies.epoch(0), first, again], strategies.session("u")
    )
    assert loaded.unfinished() == {("s", first.config): [strategies.epoch(0), again]}


def test_run_that_went_on_in_another_session_is_one_run():
    records = [session("s"), strategies.epoch(0), session("t", run="s", process=1), strategies.epoch(1, session="t")]
    assert [len(epochs) for epochs in results(*records).unfinished().values()] == [2]
    records.append(strategies.trained((0.5,) * 6, session="t"))
    assert results(*records).unfinished() == {}


def test_last_unfinished_run_is_the_one_that_went_on_last():
    one, other = strategies.epoch(0), strategies.epoch(0, seed=1)
    loaded = results(session("s"), [one, other, strategies.epoch(1)])
    assert [config.seed for _, config in loaded.unfinished()] == [1, 0]
