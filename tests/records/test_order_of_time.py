"""Check that the newest run is the one that started last, whatever clocks, time zones and file names say."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.records import store
from mlpbench.records.codec import DamageError
from mlpbench.records.kinds import Plan, Session
from tests import strategies
from tests.strategies import results, session


def written(folder: Path, files: dict[str, list[str]]):
    """Write a file of sessions for each name, and load them all; the id of a session is its file and its position."""
    for name, times in files.items():
        for position, started_at in enumerate(times):
            store.append(folder / f"{name}.jsonl", session(f"{name}{position}", started_at=started_at))
    return store.load([folder])


def order(loaded) -> list[str]:
    return [s.id for s in loaded.in_order(Session)]


def test_within_a_file_the_order_of_appending_counts(tmp_path):
    loaded = written(tmp_path, {"a": ["2026-01-02T12:00:00+00:00", "2026-01-02T11:00:00+00:00", "2025-01-01"]})
    assert order(loaded) == ["a0", "a1", "a2"]
    assert loaded.newest_session.id == "a2"


def test_between_files_the_instants_count_and_not_their_texts(tmp_path):
    files = {
        "a": ["2026-01-02T01:00:00+05:00"],
        "b": ["2026-01-01T23:30:00-05:00"],
        "c": ["2026-01-01T22:00:00Z"],
        "d": ["2026-01-01T23:00:00"],
    }
    assert order(written(tmp_path, files)) == ["a0", "c0", "d0", "b0"]


def test_equal_instants_keep_the_order_of_files(tmp_path):
    loaded = written(tmp_path, {"b": ["2026-01-01T00:00:00Z"], "a": ["2026-01-01T01:00:00+01:00"]})
    assert order(loaded) == ["a0", "b0"]


def test_clock_that_was_set_back_in_one_file_does_not_hide_another_file(tmp_path):
    files = {"a": ["2026-01-05", "1970-01-01"], "b": ["2026-01-06"], "c": ["2026-01-04"]}
    assert order(written(tmp_path, files)) == ["c0", "a0", "a1", "b0"]


def test_copy_of_a_file_changes_nothing(tmp_path):
    files = {"a": ["2026-01-05", "2026-01-03"], "b": ["2026-01-04"]}
    before = order(written(tmp_path, files))
    (tmp_path / "z.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert order(store.load([tmp_path])) == before


@given(st.lists(st.tuples(st.datetimes(), st.integers(-14, 14)), min_size=1, max_size=6))
def test_any_instants_have_one_order(instants):
    times = [f"{moment.isoformat()}{hours:+03}:00" for moment, hours in instants]
    loaded = results(*(session(str(i), started_at=time) for i, time in enumerate(times)))
    places = [loaded.time_of(name) for name in order(loaded)]
    assert all(one < other for one, other in itertools.pairwise(places))
    assert loaded.newest_session.id == order(loaded)[-1]


def test_plans_are_in_order_too():
    dates = {"p": "2026-01-02T00:00:00+09:00", "q": "2026-01-01T16:00:00+00:00"}
    loaded = results(*(strategies.plan(id=name, started_at=date) for name, date in dates.items()))
    assert [plan.id for plan in loaded.in_order(Plan)] == ["p", "q"]


def test_time_that_is_none_is_refused():
    with pytest.raises(DamageError, match="is not a time"):
        results(session(started_at="yesterday"))
