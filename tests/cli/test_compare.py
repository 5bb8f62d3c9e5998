"""Run `mlpbench compare` as people do: a gate that cannot pass without a measurement."""

import json
import math
from pathlib import Path

import pytest

from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from tests.judging.processes import STEADY, scaled, write
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, changed, noise, plan, replicated, session


@pytest.fixture
def gate(tmp_path, capsys, monkeypatch):
    """Run `mlpbench compare`, and return its exit code and its output; it never prints a traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["compare", *arguments])
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        return code, output.out + output.err

    return run


def test_regression_ends_with_1_and_a_table(gate):
    code, printed = gate(
        write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    )
    assert code == 1
    assert "slower" in printed


def test_renamed_benchmarks_end_with_4(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    code, printed = gate(base, write(Path("b.jsonl"), replicated(STEADY, suite="renamed", run="n")))
    assert code == 4
    assert "nothing compared" in printed


@pytest.mark.parametrize("absent", ["0099", "baseline.jsonl"])
def test_missing_base_ends_with_2_and_is_named(gate, absent):
    code, printed = gate(absent, write(Path("b.jsonl"), replicated(STEADY, run="n")))
    assert code == 2
    assert absent in printed
    assert len(printed.splitlines()) == 1


def test_judging_twice_never_changes_the_base(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    before = Path(base).read_bytes()
    assert [gate(base, new)[0], gate(base, new)[0]] == [1, 1]
    assert Path(base).read_bytes() == before


def test_new_benchmark_does_not_become_the_base(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(Path("b.jsonl"), replicated(scaled(1.2), run="n"), replicated(STEADY, run="z", suite="aaa"))
    assert gate(base, new, "--json", "v.json")[0] == 1
    content = json.loads(Path("v.json").read_text())
    assert [c["verdict"] for c in content["comparisons"]] == ["slower"]
    assert content["new"] == ["aaa/train_step"]


def test_another_machine_ends_with_4_and_the_field_is_named(gate, tmp_path):
    base = write(tmp_path / "elsewhere" / "a.jsonl", replicated(STEADY))
    code, printed = gate(base, write(Path("b.jsonl"), replicated(scaled(9), environment=OTHER_ENVIRONMENT, run="n")))
    assert code == 4
    assert "cpu_model" in printed


def test_benchmarks_of_several_workloads_are_compared_one_by_one(gate):
    def both(name, factor):
        varied = RunConfig(batch_size=10)
        return [*replicated(scaled(factor), run=name), *replicated(scaled(factor), run=f"{name}v", config=varied)]

    code, printed = gate(write(Path("a.jsonl"), both("a", 1)), write(Path("b.jsonl"), both("b", 1)))
    assert code == 0
    assert "2 same" in printed


def test_run_without_measurements_cannot_pass(gate):
    new = write(Path("b.jsonl"), session())
    assert gate(write(Path("a.jsonl"), replicated(STEADY)), new)[0] == 4
    Path("empty.jsonl").touch()
    assert gate("a.jsonl", "empty.jsonl")[0] == 2


def test_single_process_cannot_pass(gate):
    code, printed = gate(
        write(Path("a.jsonl"), replicated(STEADY[:1])), write(Path("b.jsonl"), replicated(scaled(3)[:1], run="n"))
    )
    assert code == 4
    assert "fewer than 2 processes per side" in printed


def test_damaged_file_is_reported_and_never_passes(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = Path(write(Path("b.jsonl"), replicated(STEADY, run="n")))
    new.write_bytes(new.read_bytes()[:-30])
    code, printed = gate(base, str(new))
    assert code == 2
    assert "cut off" in printed


def test_thresholds_of_pyproject_are_the_margins(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    Path("pyproject.toml").write_text('[tool.mlpbench.thresholds]\n"operations/*" = "30%"\n')
    assert gate(base, new)[0] == 0
    Path("pyproject.toml").write_text('[tool.mlpbench.thresholds]\n"operations/*" = "wide"\n')
    code, printed = gate(base, new)
    assert code == 2
    assert "thresholds" in printed


def test_noise_floor_of_this_machine_is_the_margin(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.06), run="n"))
    assert gate(base, new)[0] == 1
    write(Path("results") / ENVIRONMENT.machine / "aa.jsonl", session(), noise(1.15))
    code, printed = gate(base, new)
    assert code == 0
    assert "noise" in printed


def test_new_cannot_be_compared_with_itself(gate):
    path = write(Path("a.jsonl"), replicated(STEADY))
    code, printed = gate(path, path)
    assert code == 2
    assert "the same measurements" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "3"], "5%"),
        (["--margin", "wide"], "5%"),
        (["--fail-on", "slow"], "unknown verdict"),
        (["--html", "no/such/v.html"], "no folder"),
    ],
)
def test_impossible_option_ends_with_2_and_one_line(gate, capsys, arguments, message):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(STEADY, run="n"))
    try:
        code, printed = gate(base, new, *arguments)
    # argparse exits by itself.
    except SystemExit as stop:
        code, printed = stop.code, capsys.readouterr().err
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_internal_error_ends_with_70_and_not_as_a_regression(gate, monkeypatch, tmp_path):
    monkeypatch.setattr("mlpbench.judging.verdict.judge", lambda *_: 1 / 0)
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(STEADY, run="n"))
    assert main(["compare", base, new]) == 70


def test_every_output_format_has_the_verdict(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    options = [part for name in ("json", "csv", "markdown", "html") for part in (f"--{name}", f"v.{name}")]
    assert gate(base, new, *options)[0] == 1
    for name in ("json", "csv", "markdown", "html"):
        assert "slower" in Path(f"v.{name}").read_text()
    assert json.loads(Path("v.json").read_text())["comparisons"][0]["verdict"] == "slower"


# --- what must be found -----------------------------------------------------------------------------------------------

NOISY = [[1.0], [1.3], [0.9], [1.1], [1.25]]


def test_gate_that_could_have_missed_a_change_ends_with_3_and_says_how_much_to_measure(gate):
    base, new = write(Path("a.jsonl"), replicated(NOISY)), write(Path("b.jsonl"), replicated(NOISY, run="n"))
    assert gate(base, new)[0] == 0
    code, printed = gate(base, new, "--must-find", "5%", "--json", "v.json")
    assert code == 3
    assert "Could have missed +5.0 %" in " ".join(printed.split())
    (comparison,) = json.loads(Path("v.json").read_text())["comparisons"]
    assert comparison["must_find_ratio"] == 1.05
    assert comparison["num_needed"] > 5
    assert gate(base, new, "--must-find", "900%")[0] == 0


def test_change_that_must_be_found_stands_in_pyproject_unless_an_option_gives_another(gate):
    base, new = write(Path("a.jsonl"), replicated(NOISY)), write(Path("b.jsonl"), replicated(NOISY, run="n"))
    Path("pyproject.toml").write_text('[tool.mlpbench]\nmust-find = "5%"\n')
    assert gate(base, new)[0] == 3
    assert gate(base, new, "--must-find", "900%")[0] == 0
    Path("pyproject.toml").write_text('[tool.mlpbench]\nmust-find = "much"\n')
    code, printed = gate(base, new)
    assert code == 2
    assert "tool.mlpbench.must-find" in printed


def test_benchmark_of_an_older_commit_is_named_and_does_not_fail(gate):
    old = replicated(STEADY, run="o", suite="old", environment=changed(ENVIRONMENT, commit="0ld"),
                     started_at="2025-01-01T00:00:00+00:00")  # fmt: skip
    base = write(Path("a.jsonl"), old, replicated(STEADY))
    code, printed = gate(base, write(Path("b.jsonl"), replicated(STEADY, run="n")), "--json", "v.json")
    assert code == 0
    assert "1 of another source" in printed
    assert json.loads(Path("v.json").read_text())["older"] == ["old/train_step"]


def test_measurement_that_was_cut_short_does_not_pass_and_is_named(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(Path("b.jsonl"), replicated(STEADY, run="n", rounds=9))
    code, printed = gate(base, new, "--json", "v.json")
    assert code == 4
    assert "1 not judged" in printed
    assert json.loads(Path("v.json").read_text())["unjudged"] == [
        {"benchmark": "operations/train_step", "side": "NEW", "reason": "processes that were cut short: 5"}
    ]
    assert gate(base, new, "--allow-missing")[0] == 4  # nothing was compared


def test_clock_that_was_set_back_does_not_make_the_older_run_the_newest(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(
        Path("b.jsonl"),
        replicated(STEADY, run="old", environment=changed(ENVIRONMENT, commit="0ld")),
        replicated(scaled(2), run="new", started_at="2025-12-31T00:00:00+00:00"),
    )
    assert gate(base, new)[0] == 1


# --- a file of ab -----------------------------------------------------------------------------------------------------


def test_file_with_two_runs_of_ab_is_refused(gate):
    a = [[1.0, 1.01]] * 4
    path = write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a, side="b"), plan(id="other"))
    code, printed = gate(path)
    assert code == 2
    assert "2 runs" in printed


def test_damaged_file_of_ab_never_passes(gate):
    a = [[1.0, 1.01]] * 4
    path = Path(write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a, side="b")))
    path.write_bytes(path.read_bytes()[:-30])
    assert gate(str(path))[0] == 2


def test_side_whose_source_changed_is_refused(gate):
    a = [[1.0, 1.01]] * 4
    other = replicated(a, side="b", environment=changed(ENVIRONMENT, commit="other"))[-4:]
    path = write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a[:3], side="b"), other)
    code, printed = gate(path)
    assert code == 2
    assert "different environments" in printed


def test_file_of_ab_is_judged_again(gate):
    a = [[1.0, 1.01]] * 4
    path = write(
        Path("ab.jsonl"),
        plan(pairs=4),
        replicated(a, side="a", suite="ab"),
        replicated(scaled(1.1, a), side="b", suite="ab"),
    )
    code, printed = gate(path)
    assert code == 1
    assert "not finished" in printed


@pytest.mark.parametrize("margin", [math.nan, 0.0, 1e308])
def test_plan_with_an_impossible_margin_never_gives_a_verdict(gate, margin):
    path = write(
        Path("ab.jsonl"),
        replicated([[1.0, 1.01]] * 4, side="a"),
        plan(pairs=4, margin_ratio=margin),
        replicated([[2.0, 2.01]] * 4, side="b"),
    )
    assert gate(path)[0] == 2


# --- files of pytest-benchmark ----------------------------------------------------------------------------------------


def pytest_benchmark(folder: Path, medians: list[float]) -> str:
    """Write a folder of JSON files, one for each process."""
    folder.mkdir()
    for number, median in enumerate(medians):
        machine = {"machine": "x86_64", "cpu": {"brand_raw": "Example CPU", "count": 2}, "python_version": "3.12.4"}
        stats = {"median": median, "data": [median * x for x in (1, 1.01, 0.99)], "rounds": 3}
        benchmark = {"name": "test_x", "fullname": "tests/test_x.py::test_x", "group": None, "stats": stats}
        content = {"machine_info": machine, "commit_info": {}, "benchmarks": [benchmark], "version": "5.3.1"}
        (folder / f"{number:04}.json").write_text(json.dumps(content))
    return str(folder)


def test_files_of_pytest_benchmark_are_judged_as_processes(gate):
    base = pytest_benchmark(Path("base"), [1.0, 1.01, 0.99, 1.0])
    new = pytest_benchmark(Path("new"), [1.2, 1.21, 1.19, 1.2])
    code, printed = gate(base, new)
    assert code == 1
    assert "tests/test_x.py::test_x" in printed


def test_single_file_of_pytest_benchmark_is_one_process(gate):
    base = pytest_benchmark(Path("base"), [1.0])
    new = pytest_benchmark(Path("new"), [5.0])
    code, printed = gate(f"{base}/0000.json", f"{new}/0000.json")
    assert code == 4
    assert "fewer than 2 processes per side" in printed


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, None, "1.0"])
def test_benchmark_without_usable_times_on_both_sides_does_not_pass(gate, wrong):
    for folder, factor in (("base", 1.0), ("new", 1.001)):
        pytest_benchmark(Path(folder), [factor, 1.01 * factor, 0.99 * factor])
        for number, path in enumerate(sorted(Path(folder).iterdir())):
            content = json.loads(path.read_text())
            bad = {"name": "bad", "fullname": "tests/test_x.py::bad", "stats": {"median": wrong, "rounds": number}}
            content["benchmarks"].append(bad)
            path.write_text(json.dumps(content))
    code, printed = gate("base", "new", "--json", "v.json")
    assert code == 4
    assert "1 not judged" in printed
    (omission,) = json.loads(Path("v.json").read_text())["unjudged"]
    assert omission["benchmark"] == "tests/test_x.py::bad"
    assert "its median is" in omission["reason"]
    assert gate("base", "new", "--allow-missing")[0] == 0


def test_unusable_process_is_left_out_and_said_and_the_others_are_judged(gate):
    base = pytest_benchmark(Path("base"), [1.0, 1.01, 0.99])
    new = pytest_benchmark(Path("new"), [1.2, 1.21, 0.0])
    code, printed = gate(base, new, "--json", "v.json")
    assert code == 1
    content = json.loads(Path("v.json").read_text())
    assert [(c["num_base"], c["num_new"]) for c in content["comparisons"]] == [(3, 2)]
    assert content["omitted"] == [
        {
            "benchmark": "tests/test_x.py::test_x",
            "side": "NEW",
            "reason": "3 of 3 times left out; the first is 0 s, not above 0 (0002.json)",
        }
    ]
    assert "Left out in NEW" in printed
