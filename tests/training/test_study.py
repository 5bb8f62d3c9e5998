from dataclasses import replace

import pytest
import torch

from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine import environment
from mlpbench.records import store
from mlpbench.records.kinds import CURVES, EpochResult, TrainResult
from mlpbench.training import batched_seeds, study
from mlpbench.training.study import STUDIES, TUTORIAL, FailedRunsError, Study, check, default_jobs, run
from mlpbench.training.trainer import check_names
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.strategies import changed
from tests.training.study_log import Log

every_study = pytest.mark.parametrize("name", STUDIES)

# --- the grids


@pytest.mark.parametrize(("name", "num_configs"), [("quick", 2 * 2 * 3), ("default", 5 * 4 * 5), ("tutorial", 1)])
def test_study_is_the_product_of_its_axes(name, num_configs):
    configs = STUDIES[name].configs()
    assert num_configs == len(configs) == len(set(configs))


def test_every_study_is_tested():
    assert set(STUDIES) == {"quick", "default", "tutorial"}


@every_study
def test_configs_differ_from_the_base_in_the_axes_only(name):
    study = STUDIES[name]
    for config in study.configs():
        axes = {"activations": study.base.activations, "optimizer": study.base.optimizer, "seed": study.base.seed}
        assert study.base == replace(config, **axes, lr=study.base.lr)


@every_study
def test_every_seed_has_every_pair_of_activations_and_optimizer(name):
    study = STUDIES[name]
    activations = [a * 3 if len(a) == 1 else a for a in study.activations]
    expected = {(a, o, s) for a in activations for o in study.optimizers for s in study.seeds}
    assert expected == {(c.activations, c.optimizer, c.seed) for c in study.configs()}


@every_study
def test_every_name_in_a_study_exists(name):
    for config in STUDIES[name].configs():
        check_names(config)


def test_tutorial_study_is_the_tutorials_workload_on_mnist():
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


def test_explicit_learning_rate_applies_to_every_optimizer():
    explicit = replace(grid_of(RunConfig(lr=0.02)), has_usual_lr=False)
    assert [config.lr for config in explicit.configs()] == [0.02] * 4


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


def test_each_epoch_is_on_record_before_it_is_shown(small):
    class Checked(Log):
        def epoch(self, epoch, config=None):
            assert epoch is self.epochs[-1]
            super().epoch(epoch, config)

    log = Checked()
    (result,) = run([RunConfig(dataset=small, num_epochs=2)], "session", log.emit, log)
    assert [epoch.index for epoch in log.epochs] == [0, 1]
    for name in CURVES:
        assert getattr(result, name) == tuple(getattr(epoch, name) for epoch in log.epochs)
    assert dict(log.epochs[-1].digests)["parameters"] == dict(result.digests)["final"]
    assert {("session", result.config)} == {(epoch.session, epoch.config) for epoch in log.epochs}


def test_other_runs_go_on_if_a_run_fails(small):
    good = RunConfig(dataset=small, num_epochs=1, num_threads=1)
    configs = [good, replace(good, optimizer="sdg", seed=1), replace(good, seed=2)]
    log = Log()
    with pytest.raises(
        FailedRunsError, match=r"1 of 3 runs have no result; .*seed=1: unknown optimizer 'sdg'"
    ) as error:
        run(configs, "session", log.emit, log)
    assert [entry[:2] for entry in log.entries] == [
        *(("start", 0), ("epoch", 0), ("emit", 0)),
        *(("start", 1), ("failure", 1)),
        *(("start", 2), ("epoch", 0), ("emit", 2)),
    ]
    assert [result.config for result in error.value.results] == [configs[0], configs[2]]


def test_message_of_a_single_failed_run_is_its_reason(small):
    with pytest.raises(InputError, match=r"^unknown optimizer 'sdg'"):
        run([RunConfig(dataset=small, optimizer="sdg")], "session", Log().emit, Log())


@pytest.mark.parametrize(("kind", "entries"), [(EpochResult, []), (TrainResult, [("epoch", 0)])])
def test_record_that_cannot_be_written_ends_the_study(small, kind, entries):
    log = Log()

    def fail(record):
        if isinstance(record, kind):
            raise InputError("no space left")
        log.emit(record)

    with pytest.raises(InputError, match=r"^no space left"):
        run([RunConfig(dataset=small, num_epochs=1, num_threads=1, seed=s) for s in (0, 1)], "session", fail, log)
    assert log.entries == [("start", 0), *entries]


def test_single_config_is_trained_in_this_process_for_any_jobs(small, monkeypatch):
    monkeypatch.setattr(study, "Worker", None)
    (result,) = run([RunConfig(dataset=small, num_epochs=1)], "session", Log().emit, Log(), jobs=8)
    assert result.config == RunConfig(dataset=small, num_epochs=1)


# --- the default number of jobs


@pytest.mark.parametrize(
    ("num_threads", "num_cpus", "jobs"), [(None, 8, 8), (1, 8, 8), (2, 8, 4), (3, 8, 2), (16, 8, 1), (None, 1, 1)]
)
def test_default_jobs_are_the_cpus_over_the_thread_count(num_threads, num_cpus, jobs, monkeypatch):
    machine = changed(environment.current(), num_allowed_cpus=num_cpus)
    monkeypatch.setattr(environment, "current", lambda: machine)
    configs = [RunConfig(num_threads=num_threads, seed=seed) for seed in range(3)]
    assert default_jobs(configs) == jobs


def test_default_jobs_on_a_gpu_are_all_seeds_of_a_config(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cuda", "auto"):
        assert default_jobs(replace(STUDIES["default"], base=RunConfig(device=device)).configs()) == 5


# --- batched seeds


@pytest.fixture
def groups(small, monkeypatch):
    """Return a list that gets the seeds of each batched model, on a machine that treats its CPU as a GPU."""
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


def test_seeds_of_each_config_are_one_batched_model(small, groups):
    configs = on_gpu(small)
    log = Log()
    results = run(configs, "session", log.emit, log, jobs=3)
    assert groups == [[(optimizer, seed) for seed in range(3)] for optimizer in ("sgd", "nesterov")]
    assert [result.config for result in results] == configs
    one = [(kind, seed) for kind in ("start", "epoch", "emit") for seed in range(3)]
    assert [(entry[0], entry[-1]) for entry in log.entries] == one * 2


def test_batched_model_has_at_most_jobs_seeds(small, groups):
    assert len(run(on_gpu(small), "session", Log().emit, Log(), jobs=2)) == 6
    assert groups == [[("sgd", 0), ("sgd", 1)], [("nesterov", 0), ("nesterov", 1)]]


@pytest.mark.parametrize(("change", "jobs"), [({}, 1), ({"loader": "dataloader"}, 3), ({"engine": "portable"}, 3)])
def test_runs_on_a_gpu_without_batched_form_are_trained_one_by_one(small, groups, change, jobs):
    configs = on_gpu(small, **change)[:2]
    log = Log()
    run(configs, "session", log.emit, log, jobs=jobs)
    assert groups == []
    assert [entry[0] for entry in log.entries] == ["start", "epoch", "emit"] * 2


def test_all_seeds_of_a_failed_batched_model_fail_and_others_go_on(small, groups, monkeypatch):
    fit = batched_seeds.fit

    def refuse(configs, *arguments):
        if configs[0].optimizer == "sgd":
            raise InputError("too little memory")
        return fit(configs, *arguments)

    monkeypatch.setattr(batched_seeds, "fit", refuse)
    log = Log()
    with pytest.raises(FailedRunsError, match=r"3 of 6 runs have no result; .*: too little memory") as error:
        run(on_gpu(small), "session", log.emit, log, jobs=3)
    assert [(r.config.optimizer, r.config.seed) for r in error.value.results] == [("nesterov", s) for s in range(3)]
    assert [entry for entry in log.entries if entry[0] == "failure"] == [
        ("failure", seed, "too little memory") for seed in range(3)
    ]


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
def test_unknown_name_raises_before_any_data_is_read(change, monkeypatch):
    def fail(name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(datasets, "load", fail)
    with pytest.raises(InputError, match="unknown"):
        check([RunConfig(**change)])


def test_unknown_name_in_the_last_config_raises(small):
    with pytest.raises(InputError, match="unknown engine 'steam'"):
        check([RunConfig(dataset=small), RunConfig(dataset=small, engine="steam")])


def test_missing_data_raises_before_training(monkeypatch):
    def fail():
        raise InputError("no usable data")

    monkeypatch.setitem(datasets.DATASETS, "absent", fail)
    with pytest.raises(InputError, match="no usable data"):
        check([RunConfig(dataset="absent")])


def test_check_passes_configs_that_can_run(small):
    assert check([RunConfig(dataset=small)]) is None


# --- the verb


def test_verb_shows_the_other_results_and_exits_with_2_if_a_run_fails(tmp_path, capsys, monkeypatch, restore_threads):
    fit = study.Trainer.fit

    def fail_for_seed_1(trainer, *arguments):
        if trainer.config.seed == 1:
            raise InputError("the reason")
        return fit(trainer, *arguments)

    monkeypatch.setattr(study.Trainer, "fit", fail_for_seed_1)
    command = ["study", "--activations", "relu", "--optimizers", "sgd", "--seeds", "0-2", "--jobs", "1"]
    settings = ["--set", "hidden_sizes=16,16,16", "--set", "batch_size=1000", "--set", "num_epochs=1"]
    settings += ["--set", "num_threads=1"]
    assert main([*command, *settings, "--results", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert "Test accuracy" in output.out
    assert output.err.startswith("mlpbench: 1 of 3 runs have no result; the first, ")
    assert output.err.endswith("seed=1: the reason\n")
    results = store.load([tmp_path])
    assert [result.config.seed for result in results.train_results] == [0, 2]
    (session,) = results.sessions.values()
    assert "--jobs 1" in session.command
