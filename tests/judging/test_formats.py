"""Check that files of other tools become evidence, or are refused in one clear line."""

import json
import math
import re
import statistics
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpbench.errors import InputError
from mlpbench.judging import formats
from mlpbench.judging.verdict import Margins, judge
from mlpbench.records.environment import decides
from tests import strategies
from tests.judging.pytest_benchmark_files import IDENTITY, NAME, document, entry, load, with_info, written


def loaded_or_line(path):
    """Return the evidence, or the line that says why there is none."""
    try:
        return formats.load_pytest_benchmark([path]), None
    except InputError as error:
        return {}, str(error)


def refused(paths) -> str:
    """Return the line by which the files are refused."""
    with pytest.raises(InputError) as caught:
        formats.load_pytest_benchmark(paths)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    return line


def test_file_of_pytest_benchmark_itself_is_read(folder, real):
    content = json.loads(real)
    (data,) = (benchmark["stats"]["data"] for benchmark in content["benchmarks"])
    ((benchmark, evidence),) = load(folder, real).items()
    assert benchmark == IDENTITY
    assert evidence.processes["0"].value == statistics.median(data)
    assert evidence.processes["0"].rounds == dict(enumerate(data))
    assert evidence.processes["0"].num_blocks == len(data) >= 5
    info = content["machine_info"]
    assert evidence.environment["python"] == info["python_version"]
    assert evidence.environment["architecture"] == info["machine"]
    assert evidence.environment["num_cpus"] == str(info["cpu"]["count"])


def test_environment_has_the_names_that_are_compared(tmp_path):
    environment = load(tmp_path, document())[IDENTITY].environment
    assert environment == {"cpu_model": "Example CPU", "architecture": "x86_64", "num_cpus": "2", "python": "3.12.4"}
    assert all(decides(name) for name in environment)


@pytest.mark.parametrize(
    ("info", "cpu_model"),
    [
        ({"cpu": {"brand_raw": "new", "brand": "old"}, "processor": "p", "machine": "m"}, "new"),
        ({"cpu": {"brand": "old"}, "processor": "p", "machine": "m"}, "old"),
        ({"cpu": {}, "processor": "p", "machine": "m"}, "p"),
        ({"cpu": None, "processor": "", "machine": "m"}, "m"),
        ({"processor": None}, None),
        (None, None),
    ],
)
def test_cpu_model_is_the_best_available_name(tmp_path, info, cpu_model):
    environment = load(tmp_path, document(machine_info=info))[IDENTITY].environment
    assert environment.get("cpu_model") == cpu_model
    assert environment.get("architecture") == (info or {}).get("machine")


def test_value_is_the_median_of_the_data_and_not_the_written_one(tmp_path):
    content = document(entry(stats={"median": 9.0, "rounds": 7, "data": [2, 1.0, 4.0]}))
    process = load(tmp_path, content)[IDENTITY].processes["0"]
    assert (process.value, process.num_blocks, dict(process.rounds)) == (2.0, 3, {0: 2.0, 1: 1.0, 2: 4.0})
    assert type(process.rounds[0]) is float


@pytest.mark.parametrize(
    ("stats", "num_blocks"),
    [
        ({"median": 3, "rounds": 7}, 7),
        ({"median": 3, "rounds": 7, "data": None}, 7),
        ({"median": 3, "rounds": 7, "data": []}, 7),
        ({"median": 3}, 1),
        ({"median": 3, "rounds": "7"}, 1),
        ({"median": 3, "rounds": 0}, 1),
    ],
)
def test_without_data_the_written_median_counts(tmp_path, stats, num_blocks):
    process = load(tmp_path, document(entry(stats=stats)))[IDENTITY].processes["0"]
    assert (process.value, process.num_blocks, dict(process.rounds)) == (3.0, num_blocks, {})
    assert type(process.value) is float


def test_file_is_a_process_and_a_copy_of_it_is_not_another(tmp_path):
    contents = [document(entry(data=[number])) for number in (1.0, 2.0, 1.0, 3.0)]
    evidence = load(tmp_path, *contents)[IDENTITY]
    assert {key: process.value for key, process in evidence.processes.items()} == {"0": 1.0, "1": 2.0, "2": 3.0}


def test_benchmark_has_the_processes_whose_files_have_it(tmp_path):
    both = load(tmp_path, document(entry("a"), entry("b")), document(entry("b", data=[5.0])), document(entry("c")))
    assert {name: list(evidence.processes) for (_, name), evidence in both.items()} == {
        "a": ["0"],
        "b": ["0", "1"],
        "c": ["2"],
    }


WRONG_TIMES = [math.nan, math.inf, -math.inf, -1.0, 0.0, 0, 1e-300, 1e300, 10**400, True, "1.0", None, [1.0], {}]


@pytest.mark.parametrize("wrong", WRONG_TIMES, ids=lambda value: repr(value)[:8])
@pytest.mark.parametrize("has_data", [True, False])
def test_benchmark_with_impossible_times_stays_without_a_process_and_with_the_reason(tmp_path, wrong, has_data):
    stats = {"median": 1.0, "data": [1.0, wrong]} if has_data else {"median": wrong, "rounds": 5}
    by_name = {name: e for (_, name), e in load(tmp_path, document(entry("good"), entry("bad", stats=stats))).items()}
    assert list(by_name["good"].processes) == ["0"]
    assert by_name["good"].omissions == ()
    assert by_name["bad"].processes == {}
    (remark,) = by_name["bad"].omissions
    assert re.search(r"(1 of 2 times left out; the first|its median) is (missing|not|-?\d).* \(0\.json\)", remark)


@pytest.mark.parametrize("wrong", WRONG_TIMES, ids=lambda value: repr(value)[:8])
def test_one_impossible_time_of_several_is_left_out_and_said(tmp_path, wrong):
    evidence = load(tmp_path, document(entry(stats={"median": 2.0, "data": [1.0, wrong, 2.0, 4.0]})))[IDENTITY]
    assert evidence.processes["0"].rounds == {0: 1.0, 2: 2.0, 3: 4.0}
    assert evidence.processes["0"].value == 2.0
    (remark,) = evidence.omissions
    assert remark.startswith("1 of 4 times left out; the first is ")


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        (None, "no statistics"),
        ([1.0], "its statistics are not an object"),
        ("text", "its statistics are not an object"),
        ({}, "its median is missing"),
        ({"data": "text"}, "its data are not a list of times"),
        ({"data": {}, "median": "1"}, "its median is not a number"),
    ],
    ids=repr,
)
def test_benchmark_without_times_stays_with_the_reason(tmp_path, stats, reason):
    by_name = {name: e for (_, name), e in load(tmp_path, document(entry("good"), entry("bad", stats=stats))).items()}
    assert (by_name["bad"].processes, by_name["bad"].omissions) == ({}, (f"{reason} (0.json)",))


def test_median_counts_if_the_data_are_no_list(tmp_path):
    evidence = load(tmp_path, document(entry(stats={"data": {"0": 1.0}, "median": 3.0})))[IDENTITY]
    assert evidence.processes["0"].value == 3.0
    assert evidence.omissions == ("its data are not a list of times; its median counts (0.json)",)


def test_same_reason_in_many_files_is_said_once_with_some_of_them(tmp_path):
    bad = [document(entry(stats={"median": 0, "rounds": number})) for number in range(1, 6)]
    (remark,) = load(tmp_path, *bad)[IDENTITY].omissions
    assert remark == "its median is 0 s, not above 0 (0.json, 1.json, 2.json and 2 more)"


def test_names_keep_all_characters_that_can_be_printed(tmp_path):
    evidence = load(tmp_path, document(entry("größe[µ]"), entry("a\nb\ud800")))
    assert [name for _, name in evidence] == ["größe[µ]", "a\\nb\\ud800"]


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("cpu_model", with_info(cpu={"brand_raw": "Other CPU", "count": 2})),
        ("architecture", with_info(machine="arm64")),
        ("num_cpus", with_info(cpu={"brand_raw": "Example CPU", "count": 4})),
        ("python", with_info(python_version="3.11.0")),
    ],
)
def test_files_of_different_machines_are_refused_with_field_and_file(tmp_path, field, other):
    line = refused(written(tmp_path, document(), document(entry("b")), other))
    assert line.startswith(f"{tmp_path / '2.json'}: {field} is ")
    assert str(tmp_path / "0.json") in line


@pytest.mark.parametrize(
    "info",
    [
        [],
        "AMD EPYC",
        {"cpu": "AMD EPYC", "machine": ["x"], "processor": 3, "python_version": 3.12},
        {"cpu": {"brand_raw": {}, "count": "2", "family": "25", "flags": "avx", "l3_cache_size": 1.5}},
        {"cpu": {"count": True, "model": None, "flags": ["avx", 2], "brand_raw": ""}},
    ],
    ids=repr,
)
def test_value_of_another_type_about_the_machine_is_unknown_and_refuses_no_file(tmp_path, info):
    evidence = load(tmp_path, document(machine_info=info, commit_info=["x"]))[IDENTITY]
    named = {"cpu_model": "AMD EPYC"} if isinstance(info, dict) and info["cpu"] == "AMD EPYC" else {}
    assert evidence.environment == named
    assert len(evidence.processes) == 1


def test_two_generations_of_one_brand_are_different_machines(tmp_path):
    def side(name, **cpu):
        folder = tmp_path / name
        folder.mkdir()
        info = {"brand_raw": "AMD EPYC", "vendor_id_raw": "AuthenticAMD", "count": 2, **cpu}
        return load(folder, *(with_info(cpu=info, number=number) for number in range(3)))

    older = side("a", family=25, model=17, stepping=1, flags=["avx2", "sse", "avx512f"], l3_cache_size=33554432)
    newer = side("b", family=26, model=2, stepping=1, flags=["avx2", "sse", "avx512f"], l3_cache_size=33554432)
    less = side("c", flags=["avx2"], l3_cache_size=67108864)
    unknown = side("d")
    assert older[IDENTITY].environment["vector_flags"] == "avx2 avx512f"
    assert [judge(older, other, Margins()).incomparable for other in (older, newer, less, unknown)] == [
        (),
        (f"{NAME}: cpu_family 25 → 26; cpu_model_number 17 → 2",),
        (f"{NAME}: vector_flags avx2 avx512f → avx2; cpuinfo_l3_cache 33554432 → 67108864",),
        (),
    ]
    assert {"cpu_family", "vector_flags"} <= set(judge(older, unknown, Margins()).unknown_machine)


def test_missing_field_does_not_differ(tmp_path):
    evidence = load(tmp_path, document(machine_info=None), document(), document(entry("b")))
    assert evidence[IDENTITY].environment["num_cpus"] == "2"
    assert len(evidence[IDENTITY].processes) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "is not JSON", id="empty"),
        pytest.param(b"{", "is not JSON", id="cut"),
        pytest.param(b"\xff\xfe\x00", "is not JSON", id="binary"),
        pytest.param(b"[" * 200_000, "is not JSON", id="nested-too-deep"),
        pytest.param(b'{"benchmarks": [' + b"1" * 5000 + b"]}", "is not JSON", id="number-too-long"),
        pytest.param([], "no list of benchmarks", id="list"),
        pytest.param("benchmarks", "no list of benchmarks", id="text"),
        pytest.param({}, "no list of benchmarks", id="no-benchmarks"),
        pytest.param({"kind": "session", "schema": 2}, "no list of benchmarks", id="own-record"),
        pytest.param(document(benchmarks={}), "no list of benchmarks", id="benchmarks-object"),
        pytest.param(document(benchmarks=None), "no list of benchmarks", id="benchmarks-null"),
        pytest.param(document(benchmarks=[]), "has no benchmark", id="no-benchmark"),
        pytest.param(document(entry(), [entry()]), "benchmark 2 is not an object", id="benchmark-list"),
        pytest.param(document(entry(fullname=None)), "benchmark 1 has no fullname", id="no-fullname"),
        pytest.param(document(entry(fullname="")), "benchmark 1 has no fullname", id="empty-fullname"),
        pytest.param(document(entry(fullname=["x"])), "benchmark 1: fullname is not a text", id="fullname-list"),
        pytest.param(
            document(entry(), entry("b"), entry()), f"same fullname as another benchmark, {NAME}", id="duplicate"
        ),
        pytest.param({"benchmarks": [{"name": "BM_x", "real_time": 1.0}]}, "no fullname", id="google-benchmark"),
    ],
)
def test_bad_file_is_refused_in_one_line_with_its_path(tmp_path, content, reason):
    (path,) = written(tmp_path, content)
    line = refused([path])
    assert line.startswith(str(path))
    assert reason in line
    # After the semicolon the line says what to do.
    assert line.count("; ") == 1


@pytest.mark.parametrize("name", ["missing.json", "", "x" * 300 + ".json", "nul\0.json", "line\nbreak.json"])
def test_path_that_cannot_be_read_is_refused_in_one_line(tmp_path, name):
    line = refused([tmp_path / name])
    assert line.startswith(f"cannot read {tmp_path}")
    assert "--benchmark-json" in line


def test_no_paths_are_refused():
    assert refused([]).startswith("no files to read")


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_file_is_read_or_refused(folder, real, data):
    text = bytearray(real)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        end = start + data.draw(st.sampled_from([0, 1, 1, 20]))
        text[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b"NaN", b"1e999", b"null", b"[]", b"-"]))
    (path,) = written(folder, bytes(text))
    by_name, line = loaded_or_line(path)
    assert bool(by_name) == (line is None)
    assert line is None or line.isprintable()
    values = [process.value for evidence in by_name.values() for process in evidence.processes.values()]
    assert all(math.isfinite(math.log(value)) for value in values)
    assert all(evidence.processes or evidence.omissions for evidence in by_name.values())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused(folder, data):
    content = document(entry("a"), entry("b"))
    place, key = strategies.any_place(content, data)
    place[key] = data.draw(_json)
    (path,) = written(folder, content)
    by_name, line = loaded_or_line(path)
    assert bool(by_name) == (line is None)
    assert line is None or line.isprintable()
    assert all(value for evidence in by_name.values() for value in evidence.environment.values())
    assert all(p.num_blocks >= 1 for evidence in by_name.values() for p in evidence.processes.values())
    assert all(evidence.processes or evidence.omissions for evidence in by_name.values())


def test_two_sets_of_files_get_a_verdict(tmp_path):
    sides = []
    for factor in (1.0, 2.0):
        folder = tmp_path / str(factor)
        folder.mkdir()
        sides.append(load(folder, *(document(entry(data=[factor * noise])) for noise in (1.0, 1.01, 0.99, 1.005))))
    (comparison,) = judge(*sides, Margins()).comparisons
    assert (comparison.benchmark, comparison.verdict, comparison.num_base) == (NAME, "slower", 4)


def test_json_files_are_the_path_itself_or_all_in_the_folder(tmp_path):
    for name in ("b.json", "a.json", "deep/er/0001_x.json", "results.jsonl", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.json").mkdir()
    paths = formats.json_files(tmp_path)
    assert paths == [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "deep/er/0001_x.json"]
    assert formats.json_files(tmp_path / "a.json") == [tmp_path / "a.json"]
    assert formats.json_files(tmp_path / "missing.json") == [tmp_path / "missing.json"]
    for name in ("results.jsonl", "folder.json", "missing"):
        assert formats.json_files(tmp_path / name) == []


def test_path_that_cannot_be_examined_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read") as caught:
        formats.json_files(tmp_path / ("x" * 300))
    assert len(str(caught.value).splitlines()) == 1


def test_module_needs_neither_torch_nor_pandas():
    code = "import sys; from mlpbench.judging import formats; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\]\s*", process.stdout)
