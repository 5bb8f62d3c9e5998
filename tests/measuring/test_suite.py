"""Test the suite as its users run it: each time in a process of its own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from mlpbench.records import store
from tests.paths import ROOT


def command(*arguments):
    return [sys.executable, "-m", "pytest", "bench/", *arguments]


def clean_environment():
    """Return the environment without the variables of the pytest that runs this test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def bench(*arguments, **variables):
    environment = clean_environment() | {"COLUMNS": "200"} | variables
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def messages(process):
    """Return our lines of the output; each begins with our name, after the signs of pytest's last line."""
    lines = [line for line in (process.stdout + process.stderr).splitlines() if "mlpbench:" in line]
    assert all(line.lstrip("! ").startswith("mlpbench: ") for line in lines)
    return lines


@pytest.mark.slow
def test_blocks_on_disk_are_the_rounds_that_pytest_benchmark_reports(tmp_path):
    process = bench(
        "-k", "forward or memory", "--device", "cpu", "--results", tmp_path, f"--benchmark-json={tmp_path / 'b.json'}"
    )
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    content = json.loads((tmp_path / "b.json").read_text(), parse_constant=pytest.fail)
    benchmarks = {b["extra_info"]["measurement"]: b for b in content["benchmarks"]}
    assert {m.operation for m in results.measurements.values()} == {"forward", "forward_backward", "epoch"}
    assert list(benchmarks) == list(results.measurements)
    for key, benchmark in benchmarks.items():
        blocks = [b for b in results.blocks if b.measurement == key]
        assert [b.round for b in blocks] == list(range(benchmark["stats"]["rounds"]))
        per_call = [b.wall_ns / b.iterations / 1e9 for b in blocks]
        assert per_call == pytest.approx(benchmark["stats"]["data"], rel=1e-6)
    # The rounds of the quick preset.
    assert len(results.blocks) == 5 + 5 + 3
    epoch = next(m for m in results.measurements.values() if m.operation == "epoch")
    assert epoch.samples_per_call == 60_000
    (session,) = results.sessions.values()
    assert shlex.split(session.command) == ["pytest", "bench/", "-k", "forward or memory", "--device", "cpu"]
    assert f"results: {tmp_path}" in process.stdout


@pytest.mark.slow
def test_json_has_our_fingerprint_and_no_host_name(tmp_path):
    path = tmp_path / "b.json"
    process = bench("-k", "optimizer_step", "--device", "cpu", "--results", tmp_path, f"--benchmark-json={path}")
    assert process.returncode == 0, process.stdout
    machine = json.loads(path.read_text())["machine_info"]
    assert "node" not in machine
    assert "hz_actual" not in machine["cpu"]
    assert machine["mlpbench"]["torch"]
    assert not {"memory_bytes", "source"} & machine["mlpbench"].keys()
    assert "UNSERIALIZABLE" not in path.read_text()


@pytest.mark.slow
def test_options_of_pytest_benchmark_come_before_the_preset(tmp_path):
    arguments = ["--benchmark-min-rounds=4", "--device", "cpu", "--results", tmp_path]
    process = bench("-k", "optimizer_step or (epochs and memory)", *arguments)
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    rounds = {m.operation: sum(b.measurement == m.id for b in results.blocks) for m in results.measurements.values()}
    assert rounds == {"optimizer_step": 4, "epoch": 4}
    # Otherwise the measurements would seem incomplete.
    assert {m.operation: m.rounds for m in results.measurements.values()} == rounds


@pytest.mark.slow
def test_preset_of_several_processes_measures_in_fresh_processes(tmp_path):
    arguments = ["--preset", "default", "-k", "optimizer_step", "--device", "cpu", "--results", tmp_path]
    process = bench(*arguments, f"--benchmark-json={tmp_path}/b.json")
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    assert sorted(s.process for s in results.sessions.values()) == [0, 1, 2, 3, 4]
    assert len({s.run for s in results.sessions.values()}) == 1
    assert len(results.measurements) == 5
    assert all(b.control_ns for b in results.blocks)
    assert len(results.blocks) == 50
    assert {s.command for s in results.sessions.values()} == {
        "pytest bench/ --preset default -k optimizer_step --device cpu"
    }
    assert len(json.loads((tmp_path / "b.json").read_text())["benchmarks"]) == 1


@pytest.mark.slow
def test_memory_and_clocks_are_recorded(tmp_path):
    process = bench("-k", "(memory and 100) or (clocks and not 10)", "--device", "cpu", "--results", tmp_path)
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    assert {m.clock for m in results.measurements.values()} == {"throughput", "latency"}
    assert ["a GPU" in skip.reason for skip in results.skips] == [True]
    assert results.peaks
    assert all(m.peak_bytes > m.before_bytes > 2**20 for m in results.memories)


@pytest.mark.slow
def test_given_precision_is_measured_until_it_is_reached(tmp_path):
    arguments = ["--benchmark-precision=1e-9", "--benchmark-max-time=3"]
    process = bench("-k", "optimizer_step", "--device", "cpu", "--results", tmp_path, *arguments)
    assert process.returncode == 0, process.stdout
    # More than the 5 of the preset, which are enough without this option.
    assert len(store.load([tmp_path]).blocks) > 5


@pytest.mark.slow
def test_change_of_commit_or_variables_raises_no_warning_in_a_comparison(tmp_path):
    arguments = ["-k", "optimizer_step", "--device", "cpu", "--results", tmp_path, f"--benchmark-storage={tmp_path}"]
    assert bench(*arguments, "--benchmark-autosave").returncode == 0
    process = bench(*arguments, "--benchmark-compare", PYTHONHASHSEED="1")
    assert process.returncode == 0, process.stdout
    assert "machine_info is different" not in process.stdout + process.stderr


@pytest.mark.slow
def test_warm_up_rounds_of_pytest_benchmark_are_not_recorded(tmp_path):
    arguments = ["--benchmark-warmup=on", "--benchmark-warmup-iterations=10"]
    process = bench("-k", "optimizer_step", "--device", "cpu", "--results", tmp_path, *arguments)
    assert process.returncode == 0, process.stdout
    assert [b.round for b in store.load([tmp_path]).blocks] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_part_that_the_engine_does_not_have_is_skipped_and_recorded(tmp_path):
    settings = ["--set", "engine=sklearn", "--set", "activations=relu"]
    process = bench("-k", "operations", "--device", "cpu", "--results", tmp_path, *settings)
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    parts = {"forward", "backward", "forward_backward", "optimizer_step"}
    assert {skip.operation for skip in results.skips if "runs the whole step at once" in skip.reason} == parts
    assert {m.operation for m in results.measurements.values()} == {"train_step", "evaluate"}


@pytest.mark.slow
def test_settings_change_the_workload_but_not_the_axis_of_a_file(tmp_path):
    arguments = ["--set", "batch_size=7", "--set", "activations=relu"]
    process = bench("-k", "forward_backward or test_batch_sizes", "--device", "cpu", "--results", tmp_path, *arguments)
    assert process.returncode == 0, process.stdout
    measurements = store.load([tmp_path]).measurements.values()
    assert {m.config.activations for m in measurements} == {("relu",) * 3}
    sizes = {m.suite: {n.config.batch_size for n in measurements if n.suite == m.suite} for m in measurements}
    assert sizes == {"operations": {7}, "batch_sizes": {1, 10, 100, 1000, 10_000}}


@pytest.mark.parametrize("arguments", [["--benchmark-disable"], ["-n", "2"]], ids=["disabled", "xdist"])
@pytest.mark.slow
def test_without_benchmarking_all_tests_run_and_nothing_is_recorded(tmp_path, arguments):
    selection = "optimizers or (determinism and not fresh and not other)"
    process = bench("-k", selection, "--device", "cpu", "--results", tmp_path, *arguments)
    assert process.returncode == 0, process.stdout
    assert "6 passed" in process.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tests_of_another_folder_keep_their_own_clock(tmp_path):
    path = tmp_path / "test_other.py"
    path.write_text(
        "def test_other(request):\n"
        "    items = request.session.items\n"
        "    marks = {item.path.name: item.get_closest_marker('benchmark') for item in items}\n"
        "    assert marks.pop('test_other.py') is None\n"
        "    assert [mark.kwargs['min_rounds'] for mark in marks.values()] == [5]\n"
    )
    arguments = ["-k", "optimizer_step or test_other", "--device", "cpu", "--benchmark-disable"]
    process = bench(path, *arguments, "--results", tmp_path / "results")
    assert process.returncode == 0, process.stdout
    assert "2 passed" in process.stdout


@pytest.mark.slow
def test_reruns_are_reported_with_their_outcome(tmp_path):
    process = bench("-k", "determinism", "--device", "cpu", "--results", tmp_path)
    assert process.returncode == 0, process.stdout
    checks = store.load([tmp_path]).checks
    assert [check.name for check in checks] == ["same process", "fresh process", "other thread count"]
    for check in checks:
        assert f"same seed, {check.name} (cpu, 10 steps): {check.first_difference or 'equal bits'}" in (
            process.stdout.replace("first difference: ", "")
        )


@pytest.mark.slow
def test_missing_device_is_skipped_with_a_recorded_reason(tmp_path):
    process = bench("-k", "optimizer_step", "--results", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 0, process.stdout
    results = store.load([tmp_path])
    assert [m.config.device for m in results.measurements.values()] == ["cpu"]
    (skip,) = results.skips
    assert (skip.operation, skip.config.device) == ("optimizer_step", "cuda")
    assert "CUDA" in skip.reason


@pytest.mark.slow
def test_every_test_that_pytest_counts_as_skipped_is_a_record_with_its_name(tmp_path):
    process = bench("-k", "cuda and not test_engines", "--results", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 0, process.stdout
    num_skipped = int(re.search(r"(\d+) skipped", process.stdout)[1])
    skips = store.load([tmp_path]).skips
    assert len({skip.benchmark for skip in skips}) == len(skips) == num_skipped > 20
    reasons = {skip.benchmark.partition("::")[0]: skip.reason for skip in skips}
    # Some know by themselves that they cannot run, others leave it to a fixture.
    assert "measured with --preset default" in {skip.reason.partition("; ")[2] for skip in skips}
    assert "CUDA" in reasons["clocks"]


@pytest.mark.slow
def test_results_that_cannot_be_written_end_the_run_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    process = bench("-k", "optimizer_step", "--device", "cpu", "--results", tmp_path / "file")
    (line,) = messages(process)
    assert (process.returncode, str(tmp_path / "file") in line) == (2, True)
    assert "Traceback" not in process.stdout + process.stderr


@pytest.mark.slow
def test_workload_that_a_benchmark_cannot_have_is_skipped(tmp_path):
    process = bench("-k", "nesterov", "--device", "cpu", "--results", tmp_path, "--set", "momentum=0")
    assert process.returncode == 0, process.stdout
    (skip,) = store.load([tmp_path]).skips
    assert "momentum" in skip.reason


BAD_INPUT = {
    "preset": (["--preset", "nope"], "rigorous"),
    "field": (["--set", "nope=1"], "batch_size"),
    "dataset": (["--dataset", "nope"], "kmnist"),
    "device": (["--device", "cuda"], "CUDA"),
    "selection": (["-k", "nothing_has_this_name"], "nothing is selected"),
}


@pytest.mark.parametrize(("arguments", "hint"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, arguments, hint):
    process = bench("--results", tmp_path, *arguments, CUDA_VISIBLE_DEVICES="")
    (line,) = messages(process)
    assert process.returncode == 2
    assert hint in line
    assert "Traceback" not in process.stdout + process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_missing_data_ends_the_run_with_one_line(tmp_path):
    # Nothing can be downloaded into a file.
    (tmp_path / "a file").write_text("")
    arguments = ["-k", "optimizer_step", "--dataset", "mnist", "--results", tmp_path / "results"]
    process = bench(*arguments, MLPBENCH_DATA=str(tmp_path / "a file" / "data"))
    (line,) = messages(process)
    assert process.returncode == 2
    assert str(tmp_path / "a file" / "data") in line
    assert "digits" in line


@pytest.mark.slow
def test_killed_run_keeps_every_finished_block(tmp_path):
    process = subprocess.Popen(
        command("--device", "cpu", "--results", str(tmp_path), "-k", "activations", "-p", "no:cacheprovider"),
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=clean_environment(),
    )
    deadline = time.monotonic() + 120
    num_blocks = 0
    while num_blocks < 12:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
        num_blocks = sum(path.read_text().count('"kind":"block"') for path in tmp_path.rglob("*.jsonl"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    results = store.load([tmp_path])
    assert len(results.blocks) >= num_blocks
    rounds = [b.round for m in results.measurements for b in results.blocks if b.measurement == m]
    assert rounds == [index % 5 for index in range(len(rounds))]
