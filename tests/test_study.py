from dataclasses import replace

import pytest

from mlpbench import data
from mlpbench.optimizers import USUAL_LR
from mlpbench.records import InputError, RunConfig
from mlpbench.study import STUDIES, TUTORIAL, Study, check, run
from mlpbench.trainer import check_names

every_study = pytest.mark.parametrize("name", STUDIES)


class Log:
    """An observer, and a place for the results: all that happens, in order."""

    def __init__(self):
        self.entries = []

    def start(self, config):
        self.entries.append(("start", config.seed))

    def epoch(self, epoch):
        self.entries.append(("epoch", epoch.index))

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
    assert rates == {"sgd": 0.02, "nesterov": 0.02, "adam": USUAL_LR["adam"], "adamw": USUAL_LR["adamw"]}


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


def test_results_before_a_failure_have_been_emitted(small, monkeypatch):
    good = RunConfig(dataset=small, num_epochs=1, num_threads=1)
    log = Log()
    with pytest.raises(InputError, match="unknown optimizer"):
        run([good, replace(good, optimizer="sdg")], "session", log.emit, log)
    assert log.entries == [("start", 0), ("epoch", 0), ("emit", 0), ("start", 0)]


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

    monkeypatch.setattr(data, "load", refuse)
    with pytest.raises(InputError, match="unknown"):
        check([RunConfig(**change)])


def test_an_unknown_name_in_the_last_config_is_found(small):
    with pytest.raises(InputError, match="unknown engine 'steam'"):
        check([RunConfig(dataset=small), RunConfig(dataset=small, engine="steam")])


def test_data_that_is_not_to_be_had_is_found_before_training(monkeypatch):
    def absent():
        raise InputError("no usable data")

    monkeypatch.setitem(data.DATASETS, "absent", absent)
    with pytest.raises(InputError, match="no usable data"):
        check([RunConfig(dataset="absent")])


def test_configs_that_can_run_pass(small):
    assert check([RunConfig(dataset=small)]) is None
