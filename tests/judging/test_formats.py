"""Other tools' files become samples or one clear line, and what is written for them is what they read."""

import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example as with_example
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging import formats
from mlpbench.judging.evidence import MACHINE, STACK, environment_fields, samples
from mlpbench.judging.verdict import Margins, judge
from tests import strategies
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, histories, results

NAME = "test_x.py::test_sum"
IDENTITY = ("seconds", NAME)
BENCHMARK_FILE = """
def test_sum(benchmark):
    assert benchmark(lambda: sum(range(100))) == 4950

def test_fails(benchmark):
    benchmark(lambda: 1 / 0)
"""


def run(folder, *command):
    # pytest-benchmark measures nothing under xdist, which it knows by this variable
    clean = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exchange")


@pytest.fixture(scope="module")
def real(folder) -> bytes:
    """What pytest-benchmark itself writes."""
    (folder / "test_x.py").write_text(BENCHMARK_FILE)
    options = ["--benchmark-json=real.json", "--benchmark-min-rounds=5", "--benchmark-max-time=0.01"]
    done = run(folder, "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", *options, "test_x.py")
    assert "1 failed, 1 passed" in done.stdout
    return (folder / "real.json").read_bytes()


def entry(name=NAME, data=(2.0, 1.0, 4.0), **changes):
    stats = {"median": statistics.median(data), "rounds": len(data), "data": list(data), "iterations": 1}
    return {"name": name, "fullname": name, "stats": stats} | changes


def document(*entries, **changes):
    info = {
        "node": "somewhere",
        "processor": "x86_64",
        "machine": "x86_64",
        "python_version": "3.12.4",
        "cpu": {"brand_raw": "Example CPU", "count": 2, "hz_actual_friendly": "2.0 GHz"},
    }
    return {"machine_info": info, "benchmarks": list(entries) or [entry()], "version": "5.3.1"} | changes


def with_info(**changes):
    return document(machine_info=document()["machine_info"] | changes)


def written(folder, *contents):
    """A file for each; bytes as they are, else as JSON, in which pytest-benchmark writes a bare NaN."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.json")
        paths[-1].write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return paths


def load(folder, *contents):
    return formats.load_pytest_benchmark(written(folder, *contents))


def loaded_or_line(path):
    """The samples, or the one line that says why there are none."""
    try:
        return formats.load_pytest_benchmark([path]), None
    except InputError as error:
        return {}, str(error)


def refused(paths) -> str:
    with pytest.raises(InputError) as caught:
        formats.load_pytest_benchmark(paths)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    return line


# --- pytest-benchmark's files -----------------------------------------------------------------------------------------


def test_file_of_pytest_benchmark_itself_is_read(folder, real):
    content = json.loads(real)
    (data,) = (benchmark["stats"]["data"] for benchmark in content["benchmarks"])
    ((identity, found),) = load(folder, real).items()
    assert identity == IDENTITY
    assert found.processes["0"].value == statistics.median(data)
    assert found.processes["0"].rounds == dict(enumerate(data))
    assert found.processes["0"].num_blocks == len(data) >= 5
    info = content["machine_info"]
    assert found.environment["python"] == info["python_version"]
    assert found.environment["architecture"] == info["machine"]
    assert found.environment["num_cpus"] == str(info["cpu"]["count"])


def test_environment_has_the_names_that_are_compared(tmp_path):
    found = load(tmp_path, document())[IDENTITY].environment
    assert found == {"cpu_model": "Example CPU", "architecture": "x86_64", "num_cpus": "2", "python": "3.12.4"}
    assert set(found) <= {*MACHINE, *STACK}


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
def test_cpu_model_is_the_best_name_there_is(tmp_path, info, cpu_model):
    found = load(tmp_path, document(machine_info=info))[IDENTITY].environment
    assert found.get("cpu_model") == cpu_model
    assert found.get("architecture") == (info or {}).get("machine")


def test_value_is_the_median_of_the_data_and_not_the_one_that_was_written(tmp_path):
    content = document(entry(stats={"median": 9.0, "rounds": 7, "data": [2, 1.0, 4.0]}))
    sample = load(tmp_path, content)[IDENTITY].processes["0"]
    assert (sample.value, sample.num_blocks, dict(sample.rounds)) == (2.0, 3, {0: 2.0, 1: 1.0, 2: 4.0})
    assert type(sample.rounds[0]) is float


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
    sample = load(tmp_path, document(entry(stats=stats)))[IDENTITY].processes["0"]
    assert (sample.value, sample.num_blocks, dict(sample.rounds)) == (3.0, num_blocks, {})
    assert type(sample.value) is float


def test_file_is_a_process_and_a_copy_of_it_is_not_another(tmp_path):
    contents = [document(entry(data=[number])) for number in (1.0, 2.0, 1.0, 3.0)]
    found = load(tmp_path, *contents)[IDENTITY]
    assert {key: sample.value for key, sample in found.processes.items()} == {"0": 1.0, "1": 2.0, "2": 3.0}


def test_benchmark_has_the_processes_whose_files_have_it(tmp_path):
    found = load(tmp_path, document(entry("a"), entry("b")), document(entry("b", data=[5.0])), document(entry("c")))
    assert {name: list(of.processes) for (_, name), of in found.items()} == {"a": ["0"], "b": ["0", "1"], "c": ["2"]}


WRONG_TIMES = [math.nan, math.inf, -math.inf, -1.0, 0.0, 0, 1e-300, 1e300, 10**400, True, "1.0", None, [1.0], {}]


@pytest.mark.parametrize("wrong", WRONG_TIMES, ids=lambda value: repr(value)[:8])
@pytest.mark.parametrize("has_data", [True, False])
def test_benchmark_with_a_time_that_cannot_be_is_left_out(tmp_path, wrong, has_data):
    stats = {"median": 1.0, "data": [1.0, wrong]} if has_data else {"median": wrong, "rounds": 5}
    found = load(tmp_path, document(entry("good"), entry("bad", stats=stats)))
    assert list(found) == [("seconds", "good")]
    assert "no benchmark with usable times" in refused(written(tmp_path, document(entry("bad", stats=stats))))


@pytest.mark.parametrize("stats", [None, {}, {"data": "text"}, {"data": {"0": 1.0}, "median": 1.0}], ids=repr)
def test_benchmark_without_times_is_left_out(tmp_path, stats):
    found = load(tmp_path, document(entry("good"), entry("bad", stats=stats)))
    assert list(found) == [("seconds", "good")]


def test_names_are_kept_but_for_what_cannot_be_printed(tmp_path):
    found = load(tmp_path, document(entry("größe[µ]"), entry("a\nb\ud800")))
    assert [name for _, name in found] == ["größe[µ]", "a\\nb\\ud800"]


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("cpu_model", with_info(cpu={"brand_raw": "Other CPU", "count": 2})),
        ("architecture", with_info(machine="arm64")),
        ("num_cpus", with_info(cpu={"brand_raw": "Example CPU", "count": 4})),
        ("python", with_info(python_version="3.11.0")),
    ],
)
def test_files_of_different_machines_are_refused_with_the_field_and_the_file(tmp_path, field, other):
    line = refused(written(tmp_path, document(), document(entry("b")), other))
    assert line.startswith(f"{tmp_path / '2.json'}: {field} is ")
    assert str(tmp_path / "0.json") in line


def test_field_that_a_file_does_not_have_does_not_differ(tmp_path):
    found = load(tmp_path, document(machine_info=None), document(), document(entry("b")))
    assert found[IDENTITY].environment["num_cpus"] == "2"
    assert len(found[IDENTITY].processes) == 2


@pytest.mark.parametrize(
    ("content", "what"),
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
        pytest.param(document(benchmarks=[]), "no benchmark with usable times", id="no-benchmark"),
        pytest.param(document(machine_info=[]), "machine_info is not an object", id="machine-info"),
        pytest.param(with_info(cpu=[]), "cpu is not an object", id="cpu"),
        pytest.param(with_info(machine=["x"]), "machine is not a text", id="machine"),
        pytest.param(with_info(cpu={"brand_raw": {}}), "brand_raw is not a text", id="brand"),
        pytest.param(with_info(cpu={"count": "2"}), "count is not a whole number", id="count"),
        pytest.param(with_info(cpu={"count": True}), "count is not a whole number", id="count-bool"),
        pytest.param(with_info(python_version=3.12), "python_version is not a text", id="python"),
        pytest.param(document(entry(), [entry()]), "benchmark 2 is not an object", id="benchmark-list"),
        pytest.param(document(entry(fullname=None)), "benchmark 1 has no fullname", id="no-fullname"),
        pytest.param(document(entry(fullname="")), "benchmark 1 has no fullname", id="empty-fullname"),
        pytest.param(document(entry(fullname=["x"])), "benchmark 1: fullname is not a text", id="fullname-list"),
        pytest.param(document(entry(stats=[1.0])), "benchmark 1: stats is not an object", id="stats-list"),
        pytest.param(document(entry(), entry("b"), entry()), f"fullname of another, {NAME}", id="duplicate"),
        pytest.param({"benchmarks": [{"name": "BM_x", "real_time": 1.0}]}, "no fullname", id="google-benchmark"),
    ],
)
def test_bad_file_is_refused_in_one_line_with_its_path(tmp_path, content, what):
    (path,) = written(tmp_path, content)
    line = refused([path])
    assert line.startswith(str(path))
    assert what in line
    assert line.count("; ") == 1  # what to do


@pytest.mark.parametrize("name", ["missing.json", "", "x" * 300 + ".json", "nul\0.json", "line\nbreak.json"])
def test_path_that_cannot_be_read_is_refused_in_one_line(tmp_path, name):
    line = refused([tmp_path / name])
    assert line.startswith(f"cannot read {tmp_path}")
    assert "--benchmark-json" in line


def test_no_paths_are_refused():
    assert refused([]).startswith("no files to read")


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_file_is_read_or_refused_and_nothing_else(folder, real, data):
    text = bytearray(real)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        end = start + data.draw(st.sampled_from([0, 1, 1, 20]))
        text[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b"NaN", b"1e999", b"null", b"[]", b"-"]))
    (path,) = written(folder, bytes(text))
    found, line = loaded_or_line(path)
    assert bool(found) == (line is None)
    assert line is None or line.isprintable()
    assert all(math.isfinite(math.log(of.processes["0"].value)) for of in found.values())


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
    found, line = loaded_or_line(path)
    assert bool(found) == (line is None)
    assert line is None or line.isprintable()
    assert all(value for of in found.values() for value in of.environment.values())
    assert all(of.processes["0"].num_blocks >= 1 for of in found.values())


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
    found = formats.json_files(tmp_path)
    assert found == [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "deep/er/0001_x.json"]
    assert formats.json_files(tmp_path / "a.json") == [tmp_path / "a.json"]
    assert formats.json_files(tmp_path / "missing.json") == [tmp_path / "missing.json"]
    for name in ("results.jsonl", "folder.json", "missing"):
        assert formats.json_files(tmp_path / name) == []


def test_path_that_cannot_be_looked_at_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read") as caught:
        formats.json_files(tmp_path / ("x" * 300))
    assert len(str(caught.value).splitlines()) == 1


# --- written for pytest-benchmark -------------------------------------------------------------------------------------


def example():
    """Two benchmarks, three processes of each, and the memory of one."""
    return results(
        strategies.replicated([[1.0, 3.0, 2.0], [1.5, 1.0, 1.25], [2.0, 5.0, 4.0]]),
        *(
            strategies.timed(
                f"o{n}", [8.0 + n], session=f"r{n}", suite="optimizers", config=RunConfig(optimizer="adam")
            )
            for n in range(3)
        ),
        *(strategies.memory((100 + n) * 2**20, session=f"r{n}") for n in range(3)),
    )


def strict(made) -> str:
    return json.dumps(made, allow_nan=False)


def test_exported_document_has_the_shape_of_a_real_one(real):
    template, made = json.loads(real), formats.to_pytest_benchmark(example())
    assert set(made) == set(template)
    assert made["version"] == "5.3.1"
    assert made["datetime"] == "2026-01-01T00:00:00+00:00"
    assert set(made["commit_info"]) == {"id", "time", "author_time", "dirty", "project", "branch"}
    assert set(made["machine_info"]) <= set(template["machine_info"])
    (benchmark,) = template["benchmarks"]
    for one in made["benchmarks"]:
        assert set(one) == set(benchmark)
        assert set(one["stats"]) == set(benchmark["stats"])
    strict(made)


def test_exported_document_says_where_and_how_and_not_who():
    made = formats.to_pytest_benchmark(example())
    info = made["machine_info"]
    assert (info["node"], info["processor"]) == ("", "")
    assert (info["system"], info["release"], info["machine"]) == ("Linux", "6.1", "x86_64")
    assert info["cpu"] == {"brand_raw": "Example CPU", "arch": "x86_64", "count": 2}
    assert (made["commit_info"]["id"], made["commit_info"]["dirty"]) == ("0123abc", False)
    _, optimizers = made["benchmarks"]
    assert optimizers["group"] == "optimizers"
    assert optimizers["name"] == optimizers["fullname"] == "optimizers/train_step optimizer=adam"
    assert optimizers["extra_info"] == {
        "session": "r2",
        "measurement": "o2",
        "clock": "throughput",
        "samples_per_call": 100,
        "workload": "optimizer=adam",
        "flagged_rounds": 0,
    }
    assert "pytest bench/" not in strict(made)  # a command can have paths in it


def test_exported_benchmark_is_of_the_newest_process_in_the_order_of_rounds():
    records = [
        strategies.session("new", started_at="2026-02-01T00:00:00+00:00"),
        strategies.measurement("m1", session="new", rounds=3),
        *strategies.blocks("m1", {2: 4.0, 3: 5.0}, iterations=20),
        *strategies.blocks("m1", {0: 2.0, 1: 3.0}, flags=("steal",)),
        strategies.session("old"),
        strategies.timed("m2", [9.0], session="old"),
        strategies.timed("m3", [7.0], session="old", suite="epochs"),
    ]
    made = formats.to_pytest_benchmark(results(*records))
    of_old, of_new = made["benchmarks"]
    assert [one["extra_info"]["session"] for one in (of_old, of_new)] == ["old", "new"]
    assert of_new["stats"]["data"] == [0.002, 0.003, 0.004, 0.005]
    assert of_new["stats"]["iterations"] == 10
    assert of_new["extra_info"]["flagged_rounds"] == 2
    assert made["datetime"] == "2026-02-01T00:00:00+00:00"


def test_processes_of_one_run_are_ordered_by_their_position():
    made = formats.to_pytest_benchmark(results(strategies.replicated([[1.0]] * 12)))
    assert [one["extra_info"]["session"] for one in made["benchmarks"]] == ["r11"]


def test_exported_document_is_of_one_environment():
    records = [
        strategies.replicated([[1.0]], suite="epochs"),
        strategies.replicated([[1.0]], run="t", environment=OTHER_ENVIRONMENT, started_at="2026-02-01T00:00:00+00:00"),
    ]
    made = formats.to_pytest_benchmark(results(*records))
    assert [one["name"] for one in made["benchmarks"]] == ["operations/train_step"]
    assert made["machine_info"]["cpu"]["brand_raw"] == "Example GPU host"


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="nothing"),
        pytest.param(strategies.replicated([[1.0]], rounds=2), id="cut-short"),
        pytest.param([strategies.session("s"), strategies.measurement()], id="no-blocks"),
        pytest.param(strategies.replicated([[1.0]], side="a"), id="side"),
        pytest.param([strategies.session("s"), strategies.trained((0.5,)), strategies.check()], id="no-times"),
    ],
)
@pytest.mark.parametrize("export", [formats.to_pytest_benchmark, formats.to_github_action_benchmark])
def test_nothing_to_export_is_refused_in_one_line(export, records):
    with pytest.raises(InputError, match=r"to export; `pytest bench/`") as caught:
        export(results(*records))
    assert len(str(caught.value).splitlines()) == 1


nanoseconds = st.integers(1, 10**12)


@given(st.lists(nanoseconds, min_size=1, max_size=30) | st.lists(st.integers(1, 3), min_size=1, max_size=9))
@with_example([8550, 10000, 10000, 10000, 11000, 11000, 11000, 11000])  # just within 1.5 quartile ranges
@with_example([10000, 10000, 10000, 10000, 11000, 11000, 11000, 12450])
@with_example([8450, 10000, 10000, 10000, 11000, 11000, 11000, 12550])
def test_statistics_are_those_of_pytest_benchmark(wall_ns):
    times_ms = [value / 1e6 for value in wall_ns]
    history = results(strategies.session(), strategies.measurement(), strategies.blocks("m", times_ms, iterations=1))
    (benchmark,) = formats.to_pytest_benchmark(history)["benchmarks"]
    theirs = Stats()
    for value in wall_ns:
        theirs.update(value / 1e9)
    assert benchmark["stats"] == theirs.as_dict() | {"data": theirs.data, "iterations": 1}


def made_or_none(export, history):
    try:
        return export(history)
    except InputError:
        return None


def test_times_of_an_older_environment_are_not_exported_as_the_newest():
    later = strategies.session("later", started_at="2027-01-01T00:00:00+00:00", environment=OTHER_ENVIRONMENT)
    older = results(*strategies.replicated([[1.0, 2.0]]), later)
    assert not samples(older)
    assert made_or_none(formats.to_pytest_benchmark, older) is None


@given(histories())
def test_any_history_is_exported_as_strict_json_or_refused(history):
    everything = results(*history)
    timed = sorted(name for metric, name in samples(everything) if metric == "seconds")
    held = sorted(name for metric, name in samples(everything) if metric == "peak_bytes")
    made = made_or_none(formats.to_pytest_benchmark, everything)
    names = [one["name"] for one in made["benchmarks"]] if made else []
    assert set(names) <= set(timed)
    assert bool(names) == bool(timed)
    entries = made_or_none(formats.to_github_action_benchmark, everything) or []
    assert [one["name"] for one in entries] == timed + held
    strict([made, entries])


def test_exported_document_reads_back_with_the_same_medians(tmp_path):
    history = example()
    back = load(tmp_path, formats.to_pytest_benchmark(history))
    ours = {identity: of for identity, of in samples(history).items() if identity[0] == "seconds"}
    assert set(back) == set(ours)
    assert len(back) == 2
    for identity, of in back.items():
        assert of.processes["0"].value == ours[identity].processes["r2"].value
        assert dict(of.processes["0"].rounds) == dict(ours[identity].processes["r2"].rounds)
        expected = environment_fields(ENVIRONMENT) | {"commit": ENVIRONMENT.commit}
        assert of.environment.items() <= expected.items()


def test_pytest_benchmark_compares_exported_documents(tmp_path):
    older = formats.to_pytest_benchmark(results(strategies.replicated([[1.0, 2.0, 3.0]])))
    paths = [path.name for path in written(tmp_path, older, formats.to_pytest_benchmark(example()))]
    done = run(tmp_path, "pytest_benchmark", "compare", "--csv=out.csv", "--columns=min,median,outliers,ops", *paths)
    assert (done.returncode, done.stderr.count("Failed")) == (0, 0)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    medians = [(row["name"], float(row["median"])) for row in rows]
    assert sorted(medians) == [
        ("operations/train_step", 0.002),
        ("operations/train_step", 0.004),
        ("optimizers/train_step optimizer=adam", 0.01),
    ]


# --- written for github-action-benchmark ------------------------------------------------------------------------------


def test_times_are_in_milliseconds_over_processes_and_memory_in_mebibytes():
    extra = "example-cpu-2cpu; torch 2.11.0; processes: 3; ± is the standard deviation of processes"
    assert formats.to_github_action_benchmark(example()) == [
        {"name": "operations/train_step", "unit": "ms", "value": 2.0, "range": "± 1.42", "extra": extra},
        {"name": "optimizers/train_step optimizer=adam", "unit": "ms", "value": 9.0, "range": "± 1", "extra": extra},
        {"name": "memory/train_step", "unit": "MiB", "value": 101.0, "range": "± 1", "extra": extra},
    ]


def test_range_of_a_single_process_is_that_of_its_rounds():
    (made,) = formats.to_github_action_benchmark(results(strategies.replicated([[1000.0, 4000.0, 7000.0]])))
    assert (made["value"], made["range"]) == (4000.0, "± 3000")
    assert made["extra"].endswith("processes: 1; ± is the standard deviation of rounds")


def test_single_value_has_no_range():
    (made,) = formats.to_github_action_benchmark(results(strategies.replicated([[1 / 3]])))
    assert set(made) == {"name", "unit", "value", "extra"}
    assert made["value"] == 0.333333
    assert made["extra"] == "example-cpu-2cpu; torch 2.11.0; processes: 1"


def test_memory_alone_is_exported():
    (made,) = formats.to_github_action_benchmark(results(strategies.session(), strategies.memory(2**20)))
    assert (made["name"], made["unit"], made["value"]) == ("memory/train_step", "MiB", 1.0)


def test_other_metrics_are_not_smaller_is_better():
    history = results(strategies.replicated([[1.0]]), strategies.trained((0.5,), session="r0"))
    history.add(replace(strategies.check(), session="r0"))
    assert [made["name"] for made in formats.to_github_action_benchmark(history)] == ["operations/train_step"]


@pytest.mark.parametrize("export", [formats.to_pytest_benchmark, formats.to_github_action_benchmark])
def test_export_does_not_depend_on_the_order_of_reading(export):
    history, turned = example(), example()
    turned.measurements = dict(reversed(turned.measurements.items()))
    turned.blocks.reverse()
    turned.memories.reverse()
    assert strict(export(turned)) == strict(export(history))


def test_module_needs_neither_torch_nor_pandas():
    code = "import sys; from mlpbench.judging import formats; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\]\s*", done.stdout)
