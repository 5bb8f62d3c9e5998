import io
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records import store
from mlpbench.training import study
from mlpbench.training.progress import TrainingProgress
from mlpbench.training.study import STUDIES, FailedRunsError, check, run
from mlpbench.workload import datasets
from tests.training.study_log import Log

every_study = pytest.mark.parametrize("name", STUDIES)

# --- what is shown


def printed_progress(*, is_terminal):
    """What three runs print, two of them at once; the second is lost in its third epoch."""
    configs = [RunConfig(num_epochs=3, seed=seed) for seed in range(3)]
    output = io.StringIO()
    console = Console(file=output, width=160, force_terminal=is_terminal, highlight=False)

    def epoch(index):
        fields = ("train_loss", "train_accuracy", "last_loss", "test_loss", "test_accuracy", "train_s", "evaluate_s")
        return study.Epoch(index=index, **dict.fromkeys(fields, 0.5))

    with TrainingProgress(configs, console) as progress:
        progress.start(configs[0])
        progress.start(configs[1])
        for index in range(3):
            progress.epoch(epoch(index), configs[0])
            if index < 2:
                progress.epoch(epoch(index), configs[1])
        progress.failure(configs[1], "its process ended [for once]")
        progress.start(configs[2])
        for index in range(3):
            progress.epoch(epoch(index), configs[2])
    return output.getvalue()


def test_a_pipe_gets_a_line_for_the_epochs_of_each_run():
    lines = printed_progress(is_terminal=False).splitlines()
    assert [line.split("  train")[0] for line in lines] == [
        "run 1/3: num_epochs=3",
        "run 2/3: num_epochs=3 seed=1",
        *("run 1/3  epoch 1/3", "run 2/3  epoch 1/3", "run 1/3  epoch 2/3", "run 2/3  epoch 2/3", "run 1/3  epoch 3/3"),
        "run 2/3 has no result: its process ended [for once]",
        "run 3/3: num_epochs=3 seed=2",
        *("run 3/3  epoch 1/3", "run 3/3  epoch 2/3", "run 3/3  epoch 3/3"),
    ]


def test_a_terminal_shows_the_end_of_each_run_and_a_bar_that_counts_what_is_lost_as_over():
    text = printed_progress(is_terminal=True)
    for part in ("run 1/3  epoch 3/3", "run 2/3 has no result", "run 3/3  epoch 3/3", "100%"):
        assert part in text


# --- the verb


def test_the_verb_shows_the_results_of_the_others_and_ends_with_2_if_a_run_is_lost(
    tmp_path, capsys, monkeypatch, restore_threads
):
    fit = study.Trainer.fit

    def refuse_seed_1(trainer, *arguments):
        if trainer.config.seed == 1:
            raise InputError("no such luck")
        return fit(trainer, *arguments)

    monkeypatch.setattr(study.Trainer, "fit", refuse_seed_1)
    command = ["study", "--activations", "relu", "--optimizers", "sgd", "--seeds", "0-2", "--jobs", "1"]
    settings = ["--set", "hidden_sizes=16,16,16", "--set", "batch_size=1000", "--set", "num_epochs=1"]
    settings += ["--set", "num_threads=1"]
    assert main([*command, *settings, "--results", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert "Test accuracy" in output.out
    assert output.err.startswith("mlpbench: 1 of 3 runs have no result; the first, ")
    assert output.err.endswith("seed=1: no such luck\n")
    results = store.load([tmp_path])
    assert [result.config.seed for result in results.train_results] == [0, 2]
    (session,) = results.sessions.values()
    assert "--jobs 1" in session.command


# --- real processes

SHORT = RunConfig(hidden_sizes=(16,), activations=("relu",), batch_size=1000, num_epochs=2)


def without_times(result):
    return replace(result, train_s=(0.0, 0.0), evaluate_s=(0.0, 0.0))


@pytest.mark.real
@pytest.mark.slow
def test_runs_side_by_side_have_the_bits_of_runs_one_after_the_other_on_one_thread(restore_threads):
    good = [replace(SHORT, seed=seed) for seed in (5, 0, 3)]
    log = Log()
    num_threads = torch.get_num_threads()
    with pytest.raises(
        FailedRunsError, match=r"1 of 4 runs have no result; .*seed=9: unknown optimizer 'sdg'"
    ) as caught:
        run([replace(SHORT, optimizer="sdg", seed=9), *good], "session", log.emit, log, jobs=2)
    assert num_threads == torch.get_num_threads()
    alone = run([replace(config, num_threads=1) for config in good], "session", Log().emit, Log())
    assert [without_times(result) for result in caught.value.results] == [without_times(result) for result in alone]
    assert [seed for kind, seed, *_ in log.entries if kind == "start"] == [9, 5, 0, 3]
    for seed in (5, 0, 3):
        told = [entry for entry in log.entries if entry[-1] == seed]
        assert told == [("start", seed), ("epoch", 0, seed), ("epoch", 1, seed), ("emit", seed)]
    assert multiprocessing.active_children() == []


class Killer(Log):
    """When the second run begins, kills so many of the two processes."""

    def __init__(self, num_killed):
        super().__init__()
        self.num_killed = num_killed

    def start(self, config):
        super().start(config)
        if config.seed == 1:
            for child in multiprocessing.active_children()[: self.num_killed]:
                child.kill()


@pytest.mark.real
@pytest.mark.parametrize("num_killed", [1, 2])
@pytest.mark.slow
def test_a_process_that_is_killed_loses_its_own_run_alone(num_killed):
    log = Killer(num_killed)
    told = rf"{num_killed} of 3 runs have no result; .*signal 9 \(Killed\).*memory.*fewer --jobs$"
    with pytest.raises(FailedRunsError, match=told) as caught:
        run([replace(SHORT, seed=seed) for seed in range(3)], "session", log.emit, log, jobs=2)
    kept = [result.config.seed for result in caught.value.results]
    assert len(kept) == 3 - num_killed
    assert 2 in kept
    assert kept == sorted(seed for kind, seed, *_ in log.entries if kind == "emit")
    assert multiprocessing.active_children() == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("after", "stop", "code"),
    [
        ("run 2/", lambda process: os.killpg(process.pid, signal.SIGINT), 130),  # they import: Ctrl-C reaches them all
        ("run 3/", lambda process: process.terminate(), 130),
        ("run 3/", lambda process: process.kill(), -signal.SIGKILL),
    ],
    ids=["interrupted", "terminated", "killed"],
)
@pytest.mark.slow
def test_a_study_that_is_stopped_leaves_its_results_and_no_process(tmp_path, after, stop, code):
    command = ["study", "--activations", "relu", "--optimizers", "sgd", "--seeds", "0-99", "--jobs", "2"]
    settings = ["--set", "hidden_sizes=16,16,16", "--set", "batch_size=1000", "--set", "num_epochs=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlpbench", *command, *settings, "--results", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, such as a run of these tests may be, ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 (no thread runs)
    )
    with process:
        assert any(line.startswith(after) for line in process.stdout)
        stop(process)
        _, error = process.communicate(timeout=60)  # until nobody has its output open any more
    interrupted = ["mlpbench: interrupted; everything that was finished is in the results file"]
    assert (process.returncode, error.splitlines()) == (code, interrupted if code == 130 else [])
    results = store.load([tmp_path])
    assert not results.problems
    assert (len(results.train_results) > 0) == (after == "run 3/")


# --- checking


@pytest.mark.parametrize(
    "change",
    [
        {"model": "mpl"},
        {"activations": ("rleu",)},
        {"dataset": "mist"},
        {"loader": "disk"},
        {"optimizer": "sdg"},
        {"engine": "steam"},
        {"device": "gpu"},
    ],
)
def test_an_unknown_name_is_refused_before_any_data_is_read(change, monkeypatch):
    def refuse(name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(datasets, "load", refuse)
    with pytest.raises(InputError, match="unknown"):
        check([RunConfig(**change)])


def test_an_unknown_name_in_the_last_config_is_found(small):
    with pytest.raises(InputError, match="unknown engine 'steam'"):
        check([RunConfig(dataset=small), RunConfig(dataset=small, engine="steam")])


def test_data_that_is_not_to_be_had_is_found_before_training(monkeypatch):
    def absent():
        raise InputError("no usable data")

    monkeypatch.setitem(datasets.DATASETS, "absent", absent)
    with pytest.raises(InputError, match="no usable data"):
        check([RunConfig(dataset="absent")])


def test_configs_that_can_run_pass(small):
    assert check([RunConfig(dataset=small)]) is None
