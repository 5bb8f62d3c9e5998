"""Test studies whose runs are trained side by side in real processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.records import store
from mlpbench.training.study import FailedRunsError, run
from tests.training.study_log import Log

pytestmark = [pytest.mark.real, pytest.mark.slow]

CONFIG = RunConfig(hidden_sizes=(16,), activations=("relu",), batch_size=1000, num_epochs=2)


def without_times(result):
    return replace(result, train_s=(0.0, 0.0), evaluate_s=(0.0, 0.0))


def test_runs_side_by_side_have_the_bits_of_runs_one_after_the_other_on_one_thread(restore_threads):
    good = [replace(CONFIG, seed=seed) for seed in (5, 0, 3)]
    log = Log()
    num_threads = torch.get_num_threads()
    message = r"1 of 4 runs have no result; .*seed=9: unknown optimizer 'sdg'"
    with pytest.raises(FailedRunsError, match=message) as error:
        run([replace(CONFIG, optimizer="sdg", seed=9), *good], "session", log.emit, log, jobs=2)
    assert num_threads == torch.get_num_threads()
    alone = run([replace(config, num_threads=1) for config in good], "session", Log().emit, Log())
    assert [without_times(result) for result in error.value.results] == [without_times(result) for result in alone]
    assert [seed for kind, seed, *_ in log.entries if kind == "start"] == [9, 5, 0, 3]
    for seed in (5, 0, 3):
        entries = [entry for entry in log.entries if entry[-1] == seed]
        assert entries == [("start", seed), ("epoch", 0, seed), ("epoch", 1, seed), ("emit", seed)]
    assert multiprocessing.active_children() == []


class Killer(Log):
    """Kill some of the two processes when the second run starts."""

    def __init__(self, num_killed):
        super().__init__()
        self.num_killed = num_killed

    def start(self, config, num_done=0):
        super().start(config, num_done)
        if config.seed == 1:
            for child in multiprocessing.active_children()[: self.num_killed]:
                child.kill()


@pytest.mark.parametrize("num_killed", [1, 2])
def test_killed_process_loses_its_own_run_only(num_killed):
    log = Killer(num_killed)
    message = rf"{num_killed} of 3 runs have no result; .*signal 9 \(Killed\).*memory.*fewer --jobs$"
    with pytest.raises(FailedRunsError, match=message) as error:
        run([replace(CONFIG, seed=seed) for seed in range(3)], "session", log.emit, log, jobs=2)
    seeds = [result.config.seed for result in error.value.results]
    assert len(seeds) == 3 - num_killed
    assert 2 in seeds
    assert seeds == sorted(seed for kind, seed, *_ in log.entries if kind == "emit")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("line_start", "stop", "exit_code"),
    [
        # The processes still import at this point, and Ctrl-C reaches them all.
        ("run 2/", lambda process: os.killpg(process.pid, signal.SIGINT), 130),
        ("run 3/", lambda process: process.terminate(), 130),
        ("run 3/", lambda process: process.kill(), -signal.SIGKILL),
    ],
    ids=["interrupted", "terminated", "killed"],
)
def test_stopped_study_keeps_its_results_and_leaves_no_process(tmp_path, line_start, stop, exit_code):
    command = ["study", "--activations", "relu", "--optimizers", "sgd", "--seeds", "0-99", "--jobs", "2"]
    settings = ["--set", "hidden_sizes=16,16,16", "--set", "batch_size=1000", "--set", "num_epochs=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlpbench", *command, *settings, "--results", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The tests may run as a background job of a shell. Such a job ignores Ctrl-C, and so would its processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 (no thread runs)
    )
    with process:
        assert any(line.startswith(line_start) for line in process.stdout)
        stop(process)
        # This returns after the last process has closed the output.
        _, error = process.communicate(timeout=60)
    results = store.load([tmp_path])
    assert process.returncode == exit_code
    assert not results.problems
    if exit_code == 130:
        num_runs, num_epochs = len(results.train_results), len(results.epochs)
        assert error == (
            f"mlpbench: interrupted; everything that was finished is in the results file: {num_runs} of 100 runs, "
            f"{num_epochs} of 100 epochs; the same command with --resume goes on\n"
        )
    else:
        assert error == ""
    assert bool(results.train_results) == (line_start == "run 3/")
