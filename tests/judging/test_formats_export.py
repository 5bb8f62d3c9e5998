"""Check that exported files have the shape and the values that the other tools read."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import example as with_example
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging import formats
from mlpbench.judging.evidence import collect
from mlpbench.records.environment import CPU
from mlpbench.records.kinds import Measurement, Session
from tests import strategies
from tests.judging.pytest_benchmark_files import load, run, written
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, histories, results

# --- pytest-benchmark -------------------------------------------------------------------------------------------------


def example():
    """Return the results of two benchmarks, three processes of each, and the memory of one."""
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


def strict(document) -> str:
    """Return strict JSON, which has no NaN and no infinity."""
    return json.dumps(document, allow_nan=False)


def test_exported_document_has_the_shape_of_a_real_one(real):
    template, document = json.loads(real), formats.to_pytest_benchmark(example())
    assert set(document) == set(template)
    assert document["version"] == "5.3.1"
    assert document["datetime"] == "2026-01-01T00:00:00+00:00"
    assert set(document["commit_info"]) == {"id", "time", "author_time", "dirty", "project", "branch"}
    assert set(document["machine_info"]) <= set(template["machine_info"])
    (benchmark,) = template["benchmarks"]
    for one in document["benchmarks"]:
        assert set(one) == set(benchmark)
        assert set(one["stats"]) == set(benchmark["stats"])
    strict(document)


def test_exported_document_names_no_host_and_no_command():
    document = formats.to_pytest_benchmark(example())
    info = document["machine_info"]
    assert (info["node"], info["processor"]) == ("", "")
    assert (info["system"], info["release"], info["machine"]) == ("Linux", "6.1", "x86_64")
    assert info["cpu"] == {
        "brand_raw": "Example CPU",
        "vendor_id_raw": "ExampleVendor",
        "family": 25,
        "model": 17,
        "stepping": 1,
        "arch": "x86_64",
        "count": 2,
        "flags": ["avx", "avx2", "fma"],
    }
    assert (document["commit_info"]["id"], document["commit_info"]["dirty"]) == ("0123abc", False)
    _, optimizers = document["benchmarks"]
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
    assert "pytest bench/" not in strict(document)


def test_exported_benchmark_is_the_newest_process_in_order_of_rounds():
    records = [
        strategies.session("new", started_at="2026-02-01T00:00:00+00:00"),
        strategies.measurement("m1", session="new", rounds=3),
        *strategies.blocks("m1", {2: 4.0, 3: 5.0}, iterations=20),
        *strategies.blocks("m1", {0: 2.0, 1: 3.0}, flags=("steal",)),
        strategies.session("old"),
        strategies.timed("m2", [9.0], session="old"),
        strategies.timed("m3", [7.0], session="old", suite="epochs"),
    ]
    document = formats.to_pytest_benchmark(results(*records))
    older, newer = document["benchmarks"]
    assert [one["extra_info"]["session"] for one in (older, newer)] == ["old", "new"]
    assert newer["stats"]["data"] == [0.002, 0.003, 0.004, 0.005]
    assert newer["stats"]["iterations"] == 10
    assert newer["extra_info"]["flagged_rounds"] == 2
    assert document["datetime"] == "2026-02-01T00:00:00+00:00"


def test_processes_of_one_run_are_ordered_by_their_position():
    document = formats.to_pytest_benchmark(results(strategies.replicated([[1.0]] * 12)))
    assert [one["extra_info"]["session"] for one in document["benchmarks"]] == ["r11"]


def test_exported_document_is_of_one_environment():
    records = [
        strategies.replicated([[1.0]], suite="epochs"),
        strategies.replicated([[1.0]], run="t", environment=OTHER_ENVIRONMENT, started_at="2026-02-01T00:00:00+00:00"),
    ]
    document = formats.to_pytest_benchmark(results(*records))
    assert [one["name"] for one in document["benchmarks"]] == ["operations/train_step"]
    assert document["machine_info"]["cpu"]["brand_raw"] == "Example GPU host"


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


# The values of the examples lie just within or outside of 1.5 quartile ranges.
@given(st.lists(nanoseconds, min_size=1, max_size=30) | st.lists(st.integers(1, 3), min_size=1, max_size=9))
@with_example([8550, 10000, 10000, 10000, 11000, 11000, 11000, 11000])
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


def exported_or_none(export, history):
    try:
        return export(history)
    except InputError:
        return None


def test_times_of_an_older_environment_are_not_exported():
    later = strategies.session("later", started_at="2027-01-01T00:00:00+00:00", environment=OTHER_ENVIRONMENT)
    older = results(*strategies.replicated([[1.0, 2.0]]), later)
    assert not any(evidence.processes for evidence in collect(older).values())
    assert exported_or_none(formats.to_pytest_benchmark, older) is None


@given(histories())
def test_any_history_is_exported_as_strict_json_or_refused(history):
    everything = results(*history)
    measured = [benchmark for benchmark, evidence in collect(everything).items() if evidence.processes]
    timed = sorted(name for metric, name in measured if metric == "seconds")
    held = sorted(name for metric, name in measured if metric == "peak_bytes")
    document = exported_or_none(formats.to_pytest_benchmark, everything)
    names = [one["name"] for one in document["benchmarks"]] if document else []
    assert set(names) <= set(timed)
    assert bool(names) == bool(timed)
    entries = exported_or_none(formats.to_github_action_benchmark, everything) or []
    assert [one["name"] for one in entries] == timed + held
    strict([document, entries])


def test_exported_document_reads_back_with_the_same_medians(tmp_path):
    history = example()
    back = load(tmp_path, formats.to_pytest_benchmark(history))
    ours = {name: evidence for name, evidence in collect(history).items() if name.metric == "seconds"}
    assert set(back) == set(ours)
    assert len(back) == 2
    for benchmark, evidence in back.items():
        assert evidence.processes["0"].value == ours[benchmark].processes["r2"].value
        assert dict(evidence.processes["0"].rounds) == dict(ours[benchmark].processes["r2"].rounds)
        assert evidence.environment.items() <= ENVIRONMENT.texts().items()
        assert {*CPU, "num_cpus", "vector_flags"} <= set(evidence.environment)


def test_pytest_benchmark_compares_exported_documents(tmp_path):
    older = formats.to_pytest_benchmark(results(strategies.replicated([[1.0, 2.0, 3.0]])))
    paths = [path.name for path in written(tmp_path, older, formats.to_pytest_benchmark(example()))]
    process = run(tmp_path, "pytest_benchmark", "compare", "--csv=out.csv", "--columns=min,median,outliers,ops", *paths)
    assert (process.returncode, process.stderr.count("Failed")) == (0, 0)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    medians = [(row["name"], float(row["median"])) for row in rows]
    assert sorted(medians) == [
        ("operations/train_step", 0.002),
        ("operations/train_step", 0.004),
        ("optimizers/train_step optimizer=adam", 0.01),
    ]


# --- github-action-benchmark ------------------------------------------------------------------------------------------


def test_times_are_in_milliseconds_and_memory_in_mebibytes():
    extra = f"{ENVIRONMENT.machine}; torch 2.11.0; processes: 3; ± is the standard deviation of processes"
    assert formats.to_github_action_benchmark(example()) == [
        {"name": "operations/train_step", "unit": "ms", "value": 2.0, "range": "± 1.42", "extra": extra},
        {"name": "optimizers/train_step optimizer=adam", "unit": "ms", "value": 9.0, "range": "± 1", "extra": extra},
        {"name": "memory/train_step", "unit": "MiB", "value": 101.0, "range": "± 1", "extra": extra},
    ]


def test_range_of_a_single_process_is_over_its_rounds():
    (entry,) = formats.to_github_action_benchmark(results(strategies.replicated([[1000.0, 4000.0, 7000.0]])))
    assert (entry["value"], entry["range"]) == (4000.0, "± 3000")
    assert entry["extra"].endswith("processes: 1; ± is the standard deviation of rounds")


def test_single_value_has_no_range():
    (entry,) = formats.to_github_action_benchmark(results(strategies.replicated([[1 / 3]])))
    assert set(entry) == {"name", "unit", "value", "extra"}
    assert entry["value"] == 0.333333
    assert entry["extra"] == f"{ENVIRONMENT.machine}; torch 2.11.0; processes: 1"


def test_memory_alone_is_exported():
    (entry,) = formats.to_github_action_benchmark(results(strategies.session(), strategies.memory(2**20)))
    assert (entry["name"], entry["unit"], entry["value"]) == ("memory/train_step", "MiB", 1.0)


def test_metrics_that_are_better_if_larger_are_not_exported():
    history = results(strategies.replicated([[1.0]]), strategies.trained((0.5,), session="r0"))
    history.add(replace(strategies.check(), session="r0"))
    assert [entry["name"] for entry in formats.to_github_action_benchmark(history)] == ["operations/train_step"]


@pytest.mark.parametrize("export", [formats.to_pytest_benchmark, formats.to_github_action_benchmark])
def test_export_does_not_depend_on_the_order_of_reading(export):
    records = list(example().records())
    sessions = [r for r in records if isinstance(r, Session)]
    measurements = [r for r in reversed(records) if isinstance(r, Measurement)]
    others = [r for r in reversed(records) if not isinstance(r, Session | Measurement)]
    assert strict(export(results(sessions, measurements, others))) == strict(export(results(records)))
