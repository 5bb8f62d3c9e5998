"""Test that a damaged file loses its damaged lines, and the records that point to them, but nothing else."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpbench.errors import InputError
from mlpbench.records import store
from mlpbench.records.codec import SCHEMA, DamageError, encode
from mlpbench.records.results import Results
from tests import strategies
from tests.records.history import HISTORY, as_bytes, content, loaded_records, resealed
from tests.strategies import histories, results

# --- cut files --------------------------------------------------------------------------------------------------------


def check_cut(path: Path, history: list, size: int) -> None:
    """Check that the first `size` bytes of a file give its complete lines, and a problem for a cut one."""
    whole = as_bytes(history)
    path.write_bytes(whole[:size])
    # A record is complete even without its newline.
    ends = [len(as_bytes(history[:number])) - 1 for number in range(1, len(history) + 1)]
    complete = [record for record, end in zip(history, ends, strict=True) if end <= size]
    has_part = not whole[:size].endswith(b"\n") and size not in [0, *ends]
    if not complete:
        with pytest.raises(InputError, match=re.escape(str(path))):
            store.load([path])
        return
    loaded = store.load([path])
    assert content(loaded) == content(results(*complete))
    assert len(loaded.problems) == has_part
    if has_part:
        assert f"{path}: line {len(complete) + 1} is cut off" in loaded.problems[0]


@settings(max_examples=200)
@given(data=st.data(), history=histories())
def test_file_cut_anywhere_keeps_its_whole_lines(folder, data, history):
    check_cut(folder / "cut.jsonl", history, data.draw(st.integers(0, len(as_bytes(history)))))


def test_file_cut_at_each_of_its_bytes_keeps_its_whole_lines(folder):
    history = HISTORY[:4]
    for size in range(len(as_bytes(history)) + 1):
        check_cut(folder / "cut.jsonl", history, size)


@given(data=st.data(), history=histories())
def test_append_to_a_cut_file_loses_no_further_record(folder, data, history):
    path = folder / "torn.jsonl"
    first = as_bytes(history[:1])
    size = data.draw(st.integers(len(first), len(as_bytes(history))))
    path.write_bytes(as_bytes(history)[:size])
    before = store.load([path])
    extra = strategies.session("extra")
    store.append(path, extra)
    after = store.load([path])
    assert loaded_records(after).count(repr(extra)) == 1
    del after.sessions["extra"]
    assert content(after) == content(before)
    assert len(after.problems) == len(before.problems)


def test_append_after_a_cut_line_starts_a_new_line(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_bytes(as_bytes(HISTORY)[:-20])
    store.append(path, HISTORY[0])
    assert path.read_bytes() == as_bytes(HISTORY)[:-20] + b"\n" + as_bytes(HISTORY[:1])


# --- changed bytes ----------------------------------------------------------------------------------------------------

edits = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete"]),
        st.integers(0, len(as_bytes(HISTORY)) - 1),
        st.integers(0, 127) | st.sampled_from(b'0123456789"{}[],:-.eE\n\\ '),
    ),
    min_size=1,
    max_size=3,
)


def edited(original: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    text = bytearray(original)
    for kind, position, byte in changes:
        end = position if kind == "insert" else position + 1
        text[position:end] = b"" if kind == "delete" else bytes([byte])
    return bytes(text)


@settings(max_examples=400)
@given(edits)
def test_damaged_bytes_never_become_a_record(folder, changes):
    path = folder / "damaged.jsonl"
    damaged = edited(as_bytes(HISTORY), changes)
    path.write_bytes(damaged)
    untouched = [record for record in HISTORY if encode(record).encode() in damaged.split(b"\n")]
    expected = Results()
    for record in untouched:
        # Not added if the record that it points to is damaged.
        with suppress(DamageError):
            expected.add(record)
    try:
        loaded = set(loaded_records(store.load([path])))
    except InputError:
        # Without a session, the file is refused completely.
        assert not expected.sessions
        return
    assert loaded <= {repr(record) for record in HISTORY}
    assert loaded >= set(loaded_records(expected))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_reported(folder, noise, is_alone):
    path = folder / "noise.jsonl"
    path.write_bytes(noise if is_alone else as_bytes(HISTORY) + noise)
    if is_alone:
        with pytest.raises(InputError):
            store.load([path])
        return
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY))
    if noise.decode(errors="replace").strip():
        assert len(loaded.problems) == 1
    elif not noise.strip():
        assert loaded.problems == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("1" * 5000, id="number-too-long"),
        pytest.param("[" * 100_000, id="nested-too-deep"),
        pytest.param(resealed(encode(HISTORY[1]).replace("0.125", "1" + "0" * 400)), id="number-too-large"),
        pytest.param(resealed(encode(HISTORY[3]).replace("[]", "[" * 400 + "]" * 400)), id="nested"),
    ],
)
def test_absurd_line_damages_only_itself(tmp_path, line):
    path = tmp_path / "absurd.jsonl"
    path.write_bytes(as_bytes(HISTORY) + line.encode() + b"\n")
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY))
    assert f"line {len(HISTORY) + 1} is damaged" in loaded.problems[0]


@pytest.mark.parametrize("damage", [b"\xff", b"\xc3", b"\xed\xa0\x80"], ids=repr)
def test_text_that_is_not_utf8_is_reported_not_replaced(tmp_path, damage):
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(as_bytes(HISTORY).replace(b"Example GPU host", b"Example" + damage + b"GPU host"))
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY[:-1]))
    assert len(loaded.problems) == 1


def test_line_ends_of_windows_are_accepted(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(as_bytes(HISTORY).replace(b"\n", b"\r\n"))
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY))
    assert loaded.problems == []


# --- newer versions ---------------------------------------------------------------------------------------------------


def newer(line: str) -> str:
    return line.replace(f'"schema":{SCHEMA}', f'"schema":{SCHEMA + 1}')


def test_line_of_a_newer_schema_is_reported_and_says_upgrade(tmp_path):
    path = tmp_path / "newer.jsonl"
    lines = [encode(record) for record in HISTORY]
    path.write_text("\n".join([*lines[:3], newer(lines[3]), *lines[4:], ""]))
    loaded = store.load([path])
    assert loaded.blocks == [HISTORY[2]]
    (problem,) = loaded.problems
    assert problem.startswith(f"{path}: line 4 ")
    assert "upgrade mlpbench" in problem


def test_file_of_a_newer_schema_alone_is_refused_and_says_upgrade(tmp_path):
    path = tmp_path / "newer.jsonl"
    path.write_text("".join(newer(encode(record)) + "\n" for record in HISTORY))
    with pytest.raises(InputError, match="upgrade mlpbench"):
        store.load([path])
