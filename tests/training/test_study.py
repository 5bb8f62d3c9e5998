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
from mlpbench.machine import environment
from mlpbench.records import store
from mlpbench.training import batched_seeds, study
from mlpbench.training.progress import TrainingProgress
from mlpbench.training.study import STUDIES, TUTORIAL, LostError, Study, check, default_jobs, run
from mlpbench.training.trainer import check_names
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS

every_study = pytest.mark.parametrize("name", STUDIES)


class Log:
    """An observer, and a place for the results: all that happens, in order."""

    def __init__(self):
        self.entries = []

    def start(self, config):
        self.entries.append(("start", config.seed))

    def epoch(self, epoch, config=None):
        whose = () if config is None else (config.seed,)
        self.entries.append(("epoch", epoch.index, *whose))

    def lost(self, config, reason):
        self.entries.append(("lost", config.seed, reason))

    def emit(self, result):
        self.entries.append(("emit", result.config.seed))


# --- the grids


@pytest.mark.parametrize(("name", "num_configs"), [("quick", 2 * 2 * 3), ("default", 5 * 4 * 5), ("tutorial", 1)])
def test_a_study_is_the_product_of_its_axes(name, num_configs):
    configs = STUDIES[name].configs()
    assert num_configs == len(configs) == len(set(configs))


def test_every_study_is_tested():
    assert set(STUDIES) == {"quick", "default", "tutorial"}


@every_study
def test_a_study_differs_from_its_base_in_its_axes_alone(name):
    study = STUDIES[name]
    for config in study.configs():
        axes = {"activations": study.base.activations, "optimizer": study.base.optimizer, "seed": study.base.seed}
        assert study.base == replace(config, **axes, lr=study.base.lr)


@every_study
def test_every_seed_trains_every_pair_of_activations_and_optimizer(name):
    study = STUDIES[name]
    activations = [a * 3 if len(a) == 1 else a for a in study.activations]
    expected = {(a, o, s) for a in activations for o in study.optimizers for s in study.seeds}
    assert expected == {(c.activations, c.optimizer, c.seed) for c in study.configs()}


@every_study
def test_every_name_in_a_study_exists(name):
    for config in STUDIES[name].configs():
        check_names(config)


def test_the_tutorials_study_is_the_tutorials_workload_on_mnist():
    assert STUDIES["tutorial"].configs() == [RunConfig(dataset="mnist")]


def grid_of(base):
    return Study(base=base, activations=(TUTORIAL,), optimizers=("sgd", "nesterov", "adam", "adamw"), seeds=(0,))


def test_adam_gets_its_usual_learning_rate_when_the_base_has_the_default():
    rates = {config.optimizer: config.lr for config in grid_of(RunConfig()).configs()}
    assert rates == {
        "sgd": 0.02,
        "nesterov": 0.02,
        "adam": OPTIMIZERS["adam"].usual_lr,
        "adamw": OPTIMIZERS["adamw"].usual_lr,
    }


def test_a_learning_rate_of_ones_own_is_kept_for_every_optimizer():
    own = replace(grid_of(RunConfig(lr=0.02)), has_usual_lr=False)
    assert [config.lr for config in own.configs()] == [0.02] * 4


# --- running


def test_each_result_is_emitted_before_the_next_run_starts(small):
    configs = [RunConfig(dataset=small, num_epochs=2, num_threads=1, seed=seed) for seed in (3, 1)]
    log = Log()
    results = run(configs, "session", log.emit, log)
    expected = []
    for seed in (3, 1):
        expected += [("start", seed), ("epoch", 0), ("epoch", 1), ("emit", seed)]
    assert expected == log.entries
    assert configs == [result.config for result in results]
    assert {"session"} == {result.session for result in results}


def test_a_run_that_fails_does_not_keep_the_others_from_theirs(small):
    good = RunConfig(dataset=small, num_epochs=1, num_threads=1)
    configs = [good, replace(good, optimizer="sdg", seed=1), replace(good, seed=2)]
    log = Log()
    with pytest.raises(LostError, match=r"1 of 3 runs without a result; .*seed=1: unknown optimizer 'sdg'") as caught:
        run(configs, "session", log.emit, log)
    assert [entry[:2] for entry in log.entries] == [
        *(("start", 0), ("epoch", 0), ("emit", 0)),
        *(("start", 1), ("lost", 1)),
        *(("start", 2), ("epoch", 0), ("emit", 2)),
    ]
    assert [result.config for result in caught.value.results] == [configs[0], configs[2]]


def test_a_single_run_that_fails_says_no_more_than_why(small):
    with pytest.raises(InputError, match=r"^unknown optimizer 'sdg'"):
        run([RunConfig(dataset=small, optimizer="sdg")], "session", Log().emit, Log())


def test_a_result_that_cannot_be_written_ends_the_study(small):
    def full(_):
        raise InputError("no space left")

    log = Log()
    with pytest.raises(InputError, match=r"^no space left"):
        run([RunConfig(dataset=small, num_epochs=1, num_threads=1, seed=s) for s in (0, 1)], "session", full, log)
    assert log.entries == [("start", 0), ("epoch", 0)]


def test_a_single_config_is_trained_here_as_it_is_whatever_the_jobs(small, monkeypatch):
    monkeypatch.setattr(study, "_Worker", None)
    (result,) = run([RunConfig(dataset=small, num_epochs=1)], "session", Log().emit, Log(), jobs=8)
    assert result.config == RunConfig(dataset=small, num_epochs=1)


# --- how many at once


@pytest.mark.parametrize(
    ("num_threads", "num_cpus", "jobs"), [(None, 8, 8), (1, 8, 8), (2, 8, 4), (3, 8, 2), (16, 8, 1), (None, 1, 1)]
)
def test_there_are_as_many_jobs_as_cpus_for_their_threads(num_threads, num_cpus, jobs, monkeypatch):
    machine = replace(environment.current(), num_cpus=num_cpus)
    monkeypatch.setattr(environment, "current", lambda: machine)
    configs = [RunConfig(num_threads=num_threads, seed=seed) for seed in range(3)]
    assert default_jobs(configs) == jobs


def test_on_a_gpu_all_seeds_of_a_config_are_trained_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cuda", "auto"):
        assert default_jobs(replace(STUDIES["default"], base=RunConfig(device=device)).configs()) == 5


# --- seeds as one


@pytest.fixture
def groups(small, monkeypatch):
    """The seeds that are trained together, on a machine whose CPU passes for a GPU."""
    monkeypatch.setattr(study, "_is_on_gpu", lambda config: True)
    fit, groups = batched_seeds.fit, []

    def watched(configs, *arguments):
        groups.append([(config.optimizer, config.seed) for config in configs])
        return fit(configs, *arguments)

    monkeypatch.setattr(batched_seeds, "fit", watched)
    return groups


def on_gpu(small, **changes):
    base = RunConfig(dataset=small, num_epochs=1, num_threads=1, **changes)
    return Study(base=base, activations=(("relu",),), optimizers=("sgd", "nesterov"), seeds=(0, 1, 2)).configs()


def test_seeds_of_each_config_are_trained_as_one(small, groups):
    configs = on_gpu(small)
    log = Log()
    results = run(configs, "session", log.emit, log, jobs=3)
    assert groups == [[(optimizer, seed) for seed in range(3)] for optimizer in ("sgd", "nesterov")]
    assert [result.config for result in results] == configs
    one = [(kind, seed) for kind in ("start", "epoch", "emit") for seed in range(3)]
    assert [(entry[0], entry[-1]) for entry in log.entries] == one * 2


def test_no_more_seeds_than_jobs_are_trained_as_one_and_one_left_over_alone(small, groups):
    assert len(run(on_gpu(small), "session", Log().emit, Log(), jobs=2)) == 6
    assert groups == [[("sgd", 0), ("sgd", 1)], [("nesterov", 0), ("nesterov", 1)]]


@pytest.mark.parametrize(("change", "jobs"), [({}, 1), ({"loader": "dataloader"}, 3), ({"engine": "portable"}, 3)])
def test_what_has_no_batched_form_is_trained_one_after_the_other_on_a_gpu_too(small, groups, change, jobs):
    configs = on_gpu(small, **change)[:2]
    log = Log()
    run(configs, "session", log.emit, log, jobs=jobs)
    assert groups == []
    assert [entry[0] for entry in log.entries] == ["start", "epoch", "emit"] * 2


def test_seeds_that_fail_as_one_are_all_lost_and_other_configs_go_on(small, groups, monkeypatch):
    fit = batched_seeds.fit

    def refuse(configs, *arguments):
        if configs[0].optimizer == "sgd":
            raise InputError("too little memory")
        return fit(configs, *arguments)

    monkeypatch.setattr(batched_seeds, "fit", refuse)
    log = Log()
    with pytest.raises(LostError, match=r"3 of 6 runs without a result; .*: too little memory") as caught:
        run(on_gpu(small), "session", log.emit, log, jobs=3)
    assert [(r.config.optimizer, r.config.seed) for r in caught.value.results] == [("nesterov", s) for s in range(3)]
    assert [entry for entry in log.entries if entry[0] == "lost"] == [
        ("lost", seed, "too little memory") for seed in range(3)
    ]


# --- what is shown


def shown(*, is_terminal):
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
        progress.lost(configs[1], "its process ended [for once]")
        progress.start(configs[2])
        for index in range(3):
            progress.epoch(epoch(index), configs[2])
    return output.getvalue()


def test_a_pipe_gets_a_line_for_the_epochs_of_each_run():
    lines = shown(is_terminal=False).splitlines()
    assert [line.split("  train")[0] for line in lines] == [
        "run 1/3: num_epochs=3",
        "run 2/3: num_epochs=3 seed=1",
        *("run 1/3  epoch 1/3", "run 2/3  epoch 1/3", "run 1/3  epoch 2/3", "run 2/3  epoch 2/3", "run 1/3  epoch 3/3"),
        "run 2/3 has no result: its process ended [for once]",
        "run 3/3: num_epochs=3 seed=2",
        *("run 3/3  epoch 1/3", "run 3/3  epoch 2/3", "run 3/3  epoch 3/3"),
    ]


def test_a_terminal_shows_the_end_of_each_run_and_a_bar_that_counts_what_is_lost_as_over():
    text = shown(is_terminal=True)
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
    assert output.err.startswith("mlpbench: 1 of 3 runs without a result; the first, ")
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
def test_runs_side_by_side_have_the_bits_of_runs_one_after_the_other_on_one_thread(restore_threads):
    good = [replace(SHORT, seed=seed) for seed in (5, 0, 3)]
    log = Log()
    num_threads = torch.get_num_threads()
    with pytest.raises(LostError, match=r"1 of 4 runs without a result; .*seed=9: unknown optimizer 'sdg'") as caught:
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
def test_a_process_that_is_killed_loses_its_own_run_alone(num_killed):
    log = Killer(num_killed)
    told = rf"{num_killed} of 3 runs without a result; .*signal 9 \(Killed\).*memory.*fewer --jobs$"
    with pytest.raises(LostError, match=told) as caught:
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
