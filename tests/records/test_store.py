"""Records survive the disk exactly, and damage costs no more than the damaged lines."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records import store
from mlpbench.records.codec import KINDS, SCHEMA, decode, encode, seal
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
    Session,
    Skip,
    TrainResult,
)
from mlpbench.records.results import Results
from tests import paths, strategies
from tests.paths import ROOT
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, any_floats, histories, records, results

GOLDEN_FILE = paths.GOLDEN / "records_v1.jsonl"
GOLDEN_FILE_2 = GOLDEN_FILE.with_name("records_v2.jsonl")
FIELDS = tuple(f.name for f in fields(Results) if f.name != "problems")

# One record of each kind, and a second block and session: what the damage is done to.
HISTORY = [
    strategies.session("s"),
    strategies.measurement("m"),
    *strategies.blocks("m", [1.5, 1.25]),
    strategies.trained((0.5, 0.75)),
    strategies.check(first_difference="step 0 loss"),
    strategies.skip("no CUDA device, größer als 0"),
    strategies.memory(2**40),
    strategies.noise(1.25),
    strategies.session("t", environment=OTHER_ENVIRONMENT),
]


def as_bytes(history) -> bytes:
    return b"".join(encode(record).encode() + b"\n" for record in history)


def resealed(line: str) -> str:
    """The line with the checksum of what it now says."""
    return seal(line[: line.rindex(',"crc32"')] + "}")


def content(loaded: Results) -> str:
    """Everything but the problems. A repr is exact: no two doubles share one (but the nans), and -0.0 is not 0.0."""
    return repr({name: getattr(loaded, name) for name in FIELDS})


def loaded_records(loaded: Results) -> list[str]:
    found = (getattr(loaded, name) for name in FIELDS)
    return [repr(r) for part in found for r in (part.values() if isinstance(part, dict) else part)]


def search_path() -> dict[str, str]:
    """The environment in which a new interpreter finds `tests`."""
    root = str(ROOT)
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


# --- exact ------------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(records)
def test_every_record_survives_the_text_exactly(record):
    line = encode(record)
    assert "\n" not in line
    assert repr(decode(line)) == repr(record)


@given(any_floats)
@example(5e-324)
@example(-0.0)
@example(math.nan)
def test_floats_survive_bit_for_bit(value):
    result = replace(strategies.trained((0.5,)), test_loss=(value,))
    (back,) = decode(encode(result)).test_loss
    if math.isnan(value):
        assert math.isnan(back)
    else:
        assert struct.pack("<d", back) == struct.pack("<d", value)


@given(records)
def test_lines_are_strict_json_in_ascii(record):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    line = encode(record)
    assert line.isascii()
    json.loads(line, parse_constant=refuse)


@given(histories())
def test_every_record_survives_the_disk_exactly_and_in_order(folder, history):
    path = folder / "history.jsonl"
    path.unlink(missing_ok=True)
    for record in history:
        store.append(path, record)
    loaded = store.load([path])
    assert content(loaded) == content(results(*history))
    assert loaded.problems == []


def test_append_makes_the_folder_and_keeps_what_is_there(tmp_path):
    path = tmp_path / "machine" / "day.jsonl"
    store.append(path, HISTORY[0])
    before = path.read_bytes()
    store.append(path, HISTORY[1])
    assert path.read_bytes() == before + as_bytes([HISTORY[1]])


def test_results_file_is_named_after_machine_day_and_commit():
    clean = store.results_file(Path("results"), ENVIRONMENT, date(2026, 2, 3))
    dirty = store.results_file(Path("results"), replace(ENVIRONMENT, dirty=True), date(2026, 2, 3))
    assert clean == Path("results/example-cpu-2cpu/2026-02-03-0123abc.jsonl")
    assert dirty.name == "2026-02-03-0123abc-dirty.jsonl"


# --- the file format --------------------------------------------------------------------------------------------------

_GOLDEN_CONFIG = RunConfig(
    model="mlp",
    hidden_sizes=(64, 32),
    activations=("relu", "custom_tanh"),
    dataset="mnist",
    loader="dataloader",
    batch_size=10,
    num_epochs=2,
    optimizer="nesterov",
    lr=0.1,
    momentum=0.8,
    weight_decay=1e-05,
    engine="eager",
    device="cuda",
    num_threads=4,
    seed=9223372036854775807,
)
_GOLDEN_OTHER = RunConfig(
    model="mlp",
    hidden_sizes=(64, 32),
    activations=("relu", "custom_tanh"),
    dataset="mnist",
    loader="memory",
    batch_size=10,
    num_epochs=2,
    optimizer="nesterov",
    lr=0.1,
    momentum=0.8,
    weight_decay=1e-05,
    engine="eager",
    device="cpu",
    num_threads=None,
    seed=0,
)
GOLDEN = [
    Session(
        id="5e5510e0",
        run="5e5510e0",
        process=0,
        side="",
        started_at="2026-11-01T12:00:00+00:00",
        command="pytest bench/ --preset quick",
        preset="quick",
        environment=Environment(
            cpu_model="Example CPU @ 2.5 GHz",
            architecture="x86_64",
            num_cpus=8,
            cpu_capability="AVX512",
            memory_bytes=34359738368,
            gpu_model="Example GPU",
            gpu_memory_bytes=17179869184,
            os="Linux 6.1",
            python="3.12.4",
            torch="2.11.0",
            torchvision="0.26.0",
            numpy="2.1.0",
            cuda="13.0",
            cudnn="9.1",
            num_threads=4,
            matmul_precision="highest",
            deterministic_algorithms=False,
            variables=(("CUBLAS_WORKSPACE_CONFIG", ":4096:8"), ("OMP_NUM_THREADS", "4")),
            mlpbench="0.1.0",
            commit="0123abc",
            dirty=False,
        ),
    ),
    Measurement(
        id="3ea50001",
        session="5e5510e0",
        suite="epochs",
        group="96009001",
        operation="epoch",
        config=_GOLDEN_CONFIG,
        clock="throughput",
        rounds=0,
        samples_per_call=60000,
        warm_up_s=1.25,
        settled=False,
    ),
    Block(
        measurement="3ea50001",
        round=0,
        order=1,
        iterations=3,
        wall_ns=9007199254740993,
        device_ns=1234567,
        flags=("throttled", "loaded"),
    ),
    Block(measurement="3ea50001", round=1, order=0, iterations=3, wall_ns=20000001, device_ns=None, flags=()),
    TrainResult(
        session="5e5510e0",
        config=_GOLDEN_CONFIG,
        num_train=60000,
        num_test=10000,
        train_loss=(0.30000000000000004, math.nan),
        train_accuracy=(0.5455, 0.0),
        last_loss=(5e-324, math.inf),
        test_loss=(1.7976931348623157e308, -math.inf),
        test_accuracy=(0.8112, 0.098),
        train_s=(2.0, 2.5),
        evaluate_s=(0.1, -0.0),
        digests=(("initial", "sha256:0a"), ("final", "sha256:0b")),
    ),
    Check(
        session="5e5510e0",
        name="repeat",
        config=_GOLDEN_CONFIG,
        other=_GOLDEN_CONFIG,
        num_steps=10,
        num_stages=170,
        first_difference=None,
        max_abs_difference=None,
        final_abs_difference=None,
    ),
    Check(
        session="5e5510e0",
        name="device",
        config=_GOLDEN_CONFIG,
        other=_GOLDEN_OTHER,
        num_steps=10,
        num_stages=170,
        first_difference="step 0 gradient layers.0.weight",
        max_abs_difference=1.4901161193847656e-08,
        final_abs_difference=math.inf,
    ),
    Skip(
        session="5e5510e0",
        operation="train_step",
        config=_GOLDEN_OTHER,
        reason='größer: "a" \\ b, and\na second line',
    ),
]


# What schema 2 added; its file holds these after the records of schema 1.
GOLDEN_2 = [
    *GOLDEN,
    Block(
        measurement="3ea50001", round=2, order=0, iterations=3, wall_ns=20000001, control_ns=700001, flags=("waited",)
    ),
    Plan(
        id="91a40001",
        started_at="2026-11-02T12:00:00+00:00",
        command="mlpbench ab --b commit=HEAD",
        a=(),
        b=("env:OMP_NUM_THREADS=1", "commit=HEAD"),
        operations=("train_step", "epoch"),
        config=_GOLDEN_CONFIG,
        pairs=12,
        rounds=20,
        first="b",
        interleaved=True,
        margin_ratio=1.03,
    ),
    Ending(plan="91a40001", reason="every verdict reached after 6 pairs"),
    Conditions(
        session="5e5510e0",
        load=0.25,
        steal_share=None,
        other_share=0.1,
        involuntary_switches=12,
        frequency_hz=2.5e9,
        core_latency_s=1.5e-07,
        gpu_clock_hz=None,
        gpu_throttle=("sw power cap",),
    ),
    Peak(session="5e5510e0", device="cpu", num_threads=4, gemm_flops_per_s=2.4e11, copy_bytes_per_s=4.8e10),
    Memory(
        session="5e5510e0",
        operation="train_step",
        config=_GOLDEN_CONFIG,
        peak_bytes=734003200,
        before_bytes=731906048,
        source="resident set",
    ),
    Noise(
        session="5e5510e0",
        suite="ab",
        operation="train_step",
        config=_GOLDEN_CONFIG,
        processes=5,
        comparisons=66,
        floor_ratio=1.04,
        false_alarms=0,
    ),
]


@pytest.mark.parametrize(("path", "golden"), [(GOLDEN_FILE, GOLDEN), (GOLDEN_FILE_2, GOLDEN_2)])
def test_golden_file_of_every_schema_loads(path, golden):
    loaded = store.load([path])
    assert content(loaded) == content(results(*golden))
    assert loaded.problems == []


def test_lines_change_only_with_the_schema_number():
    written = as_bytes(GOLDEN_2)
    assert SCHEMA > 2 or written == GOLDEN_FILE_2.read_bytes()


def test_golden_file_has_every_kind():
    assert {type(record) for record in GOLDEN_2} == set(KINDS.values())


def test_a_line_of_schema_1_with_a_field_of_schema_2_is_damage():
    line = GOLDEN_FILE.read_text().splitlines()[0].replace('"schema":1', '"schema":1,"process":3')
    with pytest.raises(ValueError, match="fields of schema 2"):
        decode(line)


# --- what points to nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", HISTORY[1:-1], ids=lambda record: type(record).__name__)
def test_record_that_points_to_nothing_is_refused(record):
    empty = Results()
    with pytest.raises(ValueError, match=r"'[sm]' is missing"):
        empty.add(record)
    assert loaded_records(empty) == []


def test_block_whose_measurement_is_lost_is_a_problem_of_its_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_bytes([record for record in HISTORY if not isinstance(record, Measurement)]))
    loaded = store.load([path])
    assert loaded.blocks == []
    assert len(loaded.train_results) == 1
    (problem,) = loaded.problems
    assert str(path) in problem
    assert "measurement 'm' is missing" in problem
    assert "and 1 more" in problem


# --- files that were cut ----------------------------------------------------------------------------------------------


def check_cut(path: Path, history: list, size: int) -> None:
    whole = as_bytes(history)
    path.write_bytes(whole[:size])
    ends = [len(as_bytes(history[:number])) - 1 for number in range(1, len(history) + 1)]  # newlines left out
    kept = [record for record, end in zip(history, ends, strict=True) if end <= size]
    has_part = not whole[:size].endswith(b"\n") and size not in [0, *ends]
    if not kept:
        with pytest.raises(InputError, match=re.escape(str(path))):
            store.load([path])
        return
    loaded = store.load([path])
    assert content(loaded) == content(results(*kept))
    assert len(loaded.problems) == has_part
    if has_part:
        assert f"{path}: line {len(kept) + 1} is cut off" in loaded.problems[0]


@settings(max_examples=200)
@given(data=st.data(), history=histories())
def test_file_cut_anywhere_keeps_its_whole_lines(folder, data, history):
    check_cut(folder / "cut.jsonl", history, data.draw(st.integers(0, len(as_bytes(history)))))


def test_file_cut_at_each_of_its_bytes_keeps_its_whole_lines(folder):
    history = HISTORY[:4]
    for size in range(len(as_bytes(history)) + 1):
        check_cut(folder / "cut.jsonl", history, size)


@given(data=st.data(), history=histories())
def test_append_after_a_cut_loses_nothing_more(folder, data, history):
    path = folder / "torn.jsonl"
    first = as_bytes(history[:1])
    size = data.draw(st.integers(len(first), len(as_bytes(history))))
    path.write_bytes(as_bytes(history)[:size])
    before = store.load([path])
    added = strategies.session("added")
    store.append(path, added)
    after = store.load([path])
    assert loaded_records(after).count(repr(added)) == 1
    del after.sessions["added"]
    assert content(after) == content(before)
    assert len(after.problems) == len(before.problems)


def test_append_after_a_torn_line_starts_a_line_of_its_own(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_bytes(as_bytes(HISTORY)[:-20])
    store.append(path, HISTORY[0])
    assert path.read_bytes() == as_bytes(HISTORY)[:-20] + b"\n" + as_bytes(HISTORY[:1])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mlpbench.records import store
from tests import strategies

path = Path(sys.argv[1])
store.append(path, strategies.session("s"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100,) * 2)
try:
    store.append(path, strategies.session("t"))
except OSError:
    sys.exit(28)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the file's size")
def test_append_that_has_no_room_for_the_line_raises(tmp_path):
    path = tmp_path / "full.jsonl"
    assert subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], env=search_path(), check=False).returncode == 28
    assert list(store.load([path]).sessions) == ["s"]


# --- a writer that is killed ------------------------------------------------------------------------------------------

WRITER = """
import sys
from itertools import count
from pathlib import Path
from mlpbench.records import store
from tests import strategies

path = Path(sys.argv[1])
store.append(path, strategies.session("s"))
store.append(path, strategies.measurement("m"))
for number in count():
    store.append(path, *strategies.blocks("m", {number: 1.0}))
    print(number, flush=True)
"""


@pytest.mark.parametrize("num_blocks", [1, 2, 17, 200, 1000])
def test_killed_writer_leaves_every_block_that_it_finished(tmp_path, num_blocks):
    path = tmp_path / "killed.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=search_path()) as process:
        for _ in range(num_blocks):
            assert process.stdout.readline()
        process.kill()
        num_reported = num_blocks + len(process.stdout.readlines())
    loaded = store.load([path])
    rounds = [block.round for block in loaded.blocks]
    assert rounds == list(range(len(rounds)))
    assert len(rounds) >= num_reported
    assert len(rounds) == path.read_bytes().count(b"\n") - 2
    assert all("cut off" in problem for problem in loaded.problems)


# --- files that were damaged ------------------------------------------------------------------------------------------

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
    originals = {repr(record) for record in HISTORY}
    lines = damaged.split(b"\n")
    try:
        found = set(loaded_records(store.load([path])))
    except InputError:
        found = set()  # refused as a whole
    assert found <= originals
    untouched = [repr(record) for record in HISTORY if encode(record).encode() in lines]
    if untouched[:2] == [repr(record) for record in HISTORY[:2]]:  # what the others point to
        assert set(untouched) <= found


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
    ("old", "new"),
    [
        ('"iterations":10', '"iterations":10.0'),
        ('"iterations":10', '"iterations":"10"'),
        ('"iterations":10', '"iterations":true'),
        ('"iterations":10', '"iterations":null'),
        ('"iterations":10,', ""),
        ('"iterations":10', '"iterations":10,"extra":1'),
        ('"flags":[]', '"flags":[1]'),
        ('"flags":[]', '"flags":"x"'),
        ('"flags":[]', '"flags":{}'),
        pytest.param('"iterations":10', '"iterations":0'),
        ('"kind":"block"', '"kind":"blocks"'),
        ('"kind":"block"', '"kind":["block"]'),
        ('"kind":"block",', ""),
        ('"schema":2', '"schema":0'),
        ('"schema":2', '"schema":1'),
        ('"schema":2', '"schema":"2"'),
        ('"schema":2,', ""),
    ],
)
def test_line_with_a_wrong_field_is_refused_and_never_coerced(old, new):
    line = encode(HISTORY[2])
    assert old in line
    with pytest.raises(ValueError, match=r"\S"):
        decode(resealed(line.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"lr":0.02', '"lr":-0.02'),
        ('"lr":0.02', '"lr":"fast"'),
        ('"hidden_sizes":[150,150,150]', '"hidden_sizes":[150,150]'),
        ('"seed":0', '"seed":-1'),
        ('"settled":true', '"settled":1'),
        ('"config":{', '"config":{"colour":"red",'),
    ],
)
def test_line_with_a_config_that_cannot_be_is_refused(old, new):
    line = encode(HISTORY[1])
    assert old in line
    with pytest.raises(ValueError, match=r"\S"):
        decode(resealed(line.replace(old, new)))


def test_a_line_whose_digits_changed_is_refused():
    line = encode(HISTORY[2])
    for old, new in (('"iterations":10', '"iterations":11'), ('"wall_ns":15', '"wall_ns":95')):
        assert old in line
        with pytest.raises(ValueError, match="checksum"):
            decode(line.replace(old, new))


def test_whole_number_where_a_float_belongs_is_that_float():
    record = decode(resealed(encode(HISTORY[1]).replace('"warm_up_s":0.125', '"warm_up_s":2')))
    assert type(record.warm_up_s) is float
    assert record.warm_up_s == 2.0


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("1" * 5000, id="number-too-long"),
        pytest.param("[" * 100_000, id="nested-too-deep"),
        pytest.param(
            resealed(encode(HISTORY[1]).replace("0.125", "1" + "0" * 400)),
            id="number-too-large",
        ),
        pytest.param(resealed(encode(HISTORY[3]).replace("[]", "[" * 400 + "]" * 400)), id="nested"),
    ],
)
def test_absurd_line_costs_that_line_only(tmp_path, line):
    path = tmp_path / "absurd.jsonl"
    path.write_bytes(as_bytes(HISTORY) + line.encode() + b"\n")
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY))
    assert f"line {len(HISTORY) + 1} is damaged" in loaded.problems[0]


@pytest.mark.parametrize("damage", [b"\xff", b"\xc3", b"\xed\xa0\x80"], ids=repr)
def test_text_that_is_not_utf8_is_damage_and_not_replaced(tmp_path, damage):
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(as_bytes(HISTORY).replace(b"Example GPU host", b"Example" + damage + b"GPU host"))
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY[:-1]))
    assert len(loaded.problems) == 1


def test_line_ends_of_windows_are_no_damage(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(as_bytes(HISTORY).replace(b"\n", b"\r\n"))
    loaded = store.load([path])
    assert content(loaded) == content(results(*HISTORY))
    assert loaded.problems == []


# --- other versions, other files --------------------------------------------------------------------------------------


def newer(line: str) -> str:
    return line.replace(f'"schema":{SCHEMA}', f'"schema":{SCHEMA + 1}')


def test_line_of_a_newer_schema_is_a_problem_that_says_upgrade(tmp_path):
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


PYTEST_BENCHMARK = {"machine_info": {"node": "example"}, "benchmarks": [{"name": "test_x", "stats": {"min": 1.0}}]}


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n", id="blank"),
        pytest.param(b"machine,median_s\nexample,0.001\n", id="csv"),
        pytest.param(json.dumps(PYTEST_BENCHMARK, indent=4).encode(), id="pytest-benchmark"),
        pytest.param(json.dumps(PYTEST_BENCHMARK).encode() + b"\n", id="pytest-benchmark-one-line"),
        pytest.param(bytes(range(256)) * 20, id="binary"),
        pytest.param(b'[1]\n"kind"\n3\nnull\n', id="json-lines"),
        pytest.param(
            b'{"kind":"block","schema":1,"a\\nb":1}\n',
            id="field-with-a-newline",
        ),
    ],
)
def test_foreign_file_is_refused_in_one_line_with_its_path(tmp_path, foreign):
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(foreign)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        store.load([path])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("missing.jsonl", id="file"),
        pytest.param("missing/folder", id="folder"),
        pytest.param("nul\0byte", id="nul"),
        pytest.param("x" * 300, id="name-too-long"),
    ],
)
def test_missing_path_is_refused_in_one_line_with_its_name(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        store.load([tmp_path / name])
    assert len(str(caught.value).splitlines()) == 1


def test_empty_directory_is_refused_in_one_line_with_its_path(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as caught:
        store.load([tmp_path])
    assert len(str(caught.value).splitlines()) == 1


# --- several files ----------------------------------------------------------------------------------------------------


def test_path_named_twice_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "machine" / "day.jsonl"
    for record in HISTORY:
        store.append(path, record)
    (tmp_path / "link.jsonl").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    loaded = store.load([path, Path("machine/day.jsonl"), tmp_path, tmp_path / "link.jsonl", path.parent])
    assert content(loaded) == content(results(*HISTORY))


def test_copy_of_a_file_counts_once(tmp_path):
    for name in ("day.jsonl", "copy.jsonl"):
        (tmp_path / name).write_bytes(as_bytes(HISTORY))
    assert content(store.load([tmp_path])) == content(results(*HISTORY))


def test_directory_is_read_with_its_subdirectories_and_only_jsonl(tmp_path):
    store.append(tmp_path / "a" / "b" / "1.jsonl", strategies.session("one"))
    store.append(tmp_path / "2.jsonl", strategies.session("two"))
    (tmp_path / "README.md").write_text("not results")
    assert set(store.load([tmp_path]).sessions) == {"one", "two"}


def test_damage_in_one_file_leaves_the_others_alone(tmp_path):
    store.append(tmp_path / "1.jsonl", strategies.session("one"))
    store.append(tmp_path / "2.jsonl", strategies.session("two"))
    with (tmp_path / "1.jsonl").open("ab") as file:
        file.write(b"{\n")
    loaded = store.load([tmp_path])
    assert set(loaded.sessions) == {"one", "two"}
    assert [problem.split(":")[0] for problem in loaded.problems] == [str(tmp_path / "1.jsonl")]


def test_newest_file_is_the_one_written_last(tmp_path):
    for name, seconds in (("a/1.jsonl", 100), ("b/2.jsonl", 300), ("b/3.jsonl", 200)):
        store.append(tmp_path / name, strategies.session(name))
        os.utime(tmp_path / name, (seconds, seconds))
    assert store.newest_file(tmp_path) == tmp_path / "b/2.jsonl"


def test_a_bad_file_in_a_folder_does_not_cost_the_others(tmp_path):
    store.append(tmp_path / "good.jsonl", strategies.session("one"))
    (tmp_path / "torn.jsonl").write_text('{"kind":"session","sch')
    loaded = store.load([tmp_path])
    assert (set(loaded.sessions), len(loaded.problems)) == ({"one"}, 1)
    assert str(tmp_path / "torn.jsonl") in loaded.problems[0]
    with pytest.raises(InputError):
        store.load([tmp_path / "torn.jsonl"])
