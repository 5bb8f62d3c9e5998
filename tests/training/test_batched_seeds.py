"""Each seed of a batched model has the curve of its separate run, and no effect on the other seeds."""

from dataclasses import replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records.kinds import CURVES, TrainResult
from mlpbench.training import batched_seeds
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.optimizers import OPTIMIZERS

LOSSES = ("train_loss", "last_loss", "test_loss")
ACCURACIES = ("train_accuracy", "test_accuracy")
TIMES = ("train_s", "evaluate_s")


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_epochs=3, num_threads=1)


def with_optimizer(config, optimizer):
    return replace(config, optimizer=optimizer, lr=OPTIMIZERS[optimizer].lr(config.lr), weight_decay=1e-3)


def with_seeds(config, *seeds):
    return [replace(config, seed=seed) for seed in seeds]


def fit(config) -> TrainResult:
    return Trainer(config).fit("session")


def assert_same_curves(result: TrainResult, separate: TrainResult) -> None:
    for name in LOSSES:
        assert getattr(result, name) == pytest.approx(getattr(separate, name), rel=1e-4)
    for name in ACCURACIES:
        assert getattr(result, name) == pytest.approx(getattr(separate, name), abs=0.002)


def assert_equal_to_separate_runs(configs) -> None:
    results = batched_seeds.fit(configs, "session")
    assert len(configs) == len(results)
    for config, result in zip(configs, results, strict=True):
        separate = fit(config)
        assert_same_curves(result, separate)
        assert result.digests[0] == separate.digests[0]
        for name in ("session", "config", "num_train", "num_test"):
            assert getattr(result, name) == getattr(separate, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_seed_has_its_separate_curve_with_every_activation(config, activation):
    assert_equal_to_separate_runs(with_seeds(replace(config, activations=(activation,), optimizer="nesterov"), 3, 0))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_seed_has_its_separate_curve_with_every_optimizer(config, optimizer):
    assert_equal_to_separate_runs(with_seeds(with_optimizer(config, optimizer), 0, 1, 7))


def test_different_widths_and_a_short_last_batch_have_the_separate_curve(config):
    unusual = replace(config, hidden_sizes=(31, 7), activations=("tanh", "relu"), batch_size=123, lr=0.1)
    assert_equal_to_separate_runs(with_seeds(unusual, 1, 2))


def test_single_seed_has_its_separate_curve(config):
    assert_equal_to_separate_runs(with_seeds(config, 4))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.slow
def test_curves_differ_from_separate_runs_by_rounding_only(config, optimizer, monkeypatch):
    """In float64 the difference stays tiny, even in a long training."""
    normalised = datasets.Images.normalised
    monkeypatch.setattr(datasets.Images, "normalised", lambda images: normalised(images).double())
    configs = with_seeds(replace(with_optimizer(config, optimizer), num_epochs=10), 0, 1)
    datasets.resident.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        for result, separate in zip(batched_seeds.fit(configs, "session"), map(fit, configs), strict=True):
            for name in (*LOSSES, *ACCURACIES):
                assert getattr(result, name) == pytest.approx(getattr(separate, name), rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)
        datasets.resident.cache_clear()


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_seed_has_its_separate_curve_on_cuda(cuda, config, optimizer):
    assert_equal_to_separate_runs(with_seeds(replace(with_optimizer(config, optimizer), device="cuda"), *range(5)))


# --- independence of the seeds


def without_times(result: TrainResult) -> TrainResult:
    return replace(result, **dict.fromkeys(TIMES, (0.0,) * result.config.num_epochs))


def test_seed_does_not_depend_on_its_neighbours(config):
    one, other = (batched_seeds.fit(with_seeds(config, 0, neighbour), "session") for neighbour in (1, 2))
    assert without_times(one[0]) == without_times(other[0])
    assert one[1].train_loss != other[1].train_loss


def test_seeds_differ_in_initial_parameters_and_order_of_batches(config, monkeypatch):
    first, second = batched_seeds.fit(with_seeds(config, 0, 1), "session")
    assert first.digests[0] != second.digests[0]
    monkeypatch.setattr(datasets, "batch_order", lambda seed, epoch, n: torch.arange(n).roll(epoch))
    same_order = batched_seeds.fit(with_seeds(config, 0, 1), "session")
    assert [r.digests[0] for r in same_order] == [first.digests[0], second.digests[0]]
    assert same_order[0].train_loss != first.train_loss


def test_second_fit_gives_the_same_bits(config):
    configs = with_seeds(replace(config, optimizer="adam", lr=0.001), 0, 1)
    first, second = (batched_seeds.fit(configs, "session") for _ in range(2))
    assert [without_times(result) for result in first] == [without_times(result) for result in second]


# --- the record


def test_every_epoch_of_every_seed_is_observed_and_recorded(config):
    events = []
    configs = with_seeds(replace(config, num_epochs=2), 5, 2)
    results = batched_seeds.fit(configs, "session", lambda epoch, observed: events.append((epoch, observed)))
    assert [(epoch.index, observed.seed) for epoch, observed in events] == [(0, 5), (0, 2), (1, 5), (1, 2)]
    for one, result in zip(configs, results, strict=True):
        epochs = [epoch for epoch, observed_config in events if observed_config == one]
        for name in CURVES:
            assert getattr(result, name) == tuple(getattr(epoch, name) for epoch in epochs)
        assert epochs[-1].digests == (("parameters", result.digests[1][1]),)


def test_times_of_a_seed_are_its_share_of_the_whole(config, monkeypatch):
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(batched_seeds, "now", lambda: float(next(ticks)))
    for result in batched_seeds.fit(with_seeds(replace(config, num_epochs=2), 0, 1, 2), "session"):
        assert (result.train_s, result.evaluate_s) == ((2.0, 2.0), (2.0, 2.0))


def test_auto_is_observed_as_auto_and_recorded_as_the_device(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    devices = []
    (result,) = batched_seeds.fit(
        [replace(config, device="auto")], "session", lambda _, config: devices.append(config.device)
    )
    assert (set(devices), result.config.device) == ({"auto"}, "cpu")


# --- limits


@pytest.mark.parametrize("change", [{"engine": "fused"}, {"loader": "dataloader"}, {"model": "other"}])
def test_another_engine_loader_or_model_has_no_batched_form(change):
    assert batched_seeds.can_train(RunConfig(optimizer="adam", device="cuda"))
    assert not batched_seeds.can_train(RunConfig(**change))


def test_too_little_memory_raises_one_line_of_advice(config, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    monkeypatch.setattr(torch, "baddbmm", fail)
    with pytest.raises(InputError, match=r"not enough memory for 2 seeds at once; use fewer --jobs") as error:
        batched_seeds.fit(with_seeds(config, 0, 1), "session")
    assert "\n" not in str(error.value)
