"""Seeds trained together: each has the curve of its own run, and no part in its neighbours'."""

from dataclasses import fields, replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records.kinds import TrainResult
from mlpbench.training import batched_seeds
from mlpbench.training.trainer import Epoch, Trainer
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


def alike(config, *numbers):
    return [replace(config, seed=number) for number in numbers]


def fit(config) -> TrainResult:
    return Trainer(config).fit("session")


def assert_same_curves(result: TrainResult, alone: TrainResult) -> None:
    for name in LOSSES:
        assert getattr(result, name) == pytest.approx(getattr(alone, name), rel=1e-4)
    for name in ACCURACIES:
        assert getattr(result, name) == pytest.approx(getattr(alone, name), abs=0.002)


def assert_each_has_its_own_run(configs) -> None:
    results = batched_seeds.fit(configs, "session")
    assert len(configs) == len(results)
    for config, result in zip(configs, results, strict=True):
        alone = fit(config)
        assert_same_curves(result, alone)
        assert result.digests[0] == alone.digests[0]
        for name in ("session", "config", "num_train", "num_test"):
            assert getattr(result, name) == getattr(alone, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_seed_has_the_curve_of_its_own_run_with_every_activation(config, activation):
    assert_each_has_its_own_run(alike(replace(config, activations=(activation,), optimizer="nesterov"), 3, 0))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_seed_has_the_curve_of_its_own_run_with_every_optimizer(config, optimizer):
    assert_each_has_its_own_run(alike(with_optimizer(config, optimizer), 0, 1, 7))


def test_layers_of_different_widths_and_a_short_last_batch_are_those_of_the_run(config):
    unusual = replace(config, hidden_sizes=(31, 7), activations=("tanh", "relu"), batch_size=123, lr=0.1)
    assert_each_has_its_own_run(alike(unusual, 1, 2))


def test_one_seed_is_trained_too(config):
    assert_each_has_its_own_run(alike(config, 4))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_but_rounding_tells_a_seed_from_its_own_run(config, optimizer, monkeypatch):
    """With twice the digits it is no longer seen, however long the training."""
    normalised = datasets.Images.normalised
    monkeypatch.setattr(datasets.Images, "normalised", lambda half: normalised(half).double())
    configs = alike(replace(with_optimizer(config, optimizer), num_epochs=10), 0, 1)
    datasets.resident.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        for result, alone in zip(batched_seeds.fit(configs, "session"), map(fit, configs), strict=True):
            for name in (*LOSSES, *ACCURACIES):
                assert getattr(result, name) == pytest.approx(getattr(alone, name), rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)
        datasets.resident.cache_clear()


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_seed_has_the_curve_of_its_own_run_on_cuda(cuda, config, optimizer):
    assert_each_has_its_own_run(alike(replace(with_optimizer(config, optimizer), device="cuda"), *range(5)))


# --- what a seed has to itself


def bits(result: TrainResult) -> TrainResult:
    return replace(result, **dict.fromkeys(TIMES, (0.0,) * result.config.num_epochs))


def test_a_seed_does_not_notice_who_its_neighbours_are(config):
    one, other = (batched_seeds.fit(alike(config, 0, neighbour), "session") for neighbour in (1, 2))
    assert bits(one[0]) == bits(other[0])
    assert one[1].train_loss != other[1].train_loss


def test_seeds_differ_in_initial_parameters_and_in_order_of_batches(config, monkeypatch):
    first, second = batched_seeds.fit(alike(config, 0, 1), "session")
    assert first.digests[0] != second.digests[0]
    monkeypatch.setattr(datasets, "batch_order", lambda seed, epoch, n: torch.arange(n).roll(epoch))
    same_order = batched_seeds.fit(alike(config, 0, 1), "session")
    assert [r.digests[0] for r in same_order] == [first.digests[0], second.digests[0]]
    assert same_order[0].train_loss != first.train_loss


def test_a_second_fit_gives_the_same_bits(config):
    configs = alike(replace(config, optimizer="adam", lr=0.001), 0, 1)
    first, second = (batched_seeds.fit(configs, "session") for _ in range(2))
    assert [bits(result) for result in first] == [bits(result) for result in second]


# --- the record


def test_every_epoch_of_every_seed_is_told_and_recorded(config):
    told = []
    configs = alike(replace(config, num_epochs=2), 5, 2)
    results = batched_seeds.fit(configs, "session", lambda epoch, config: told.append((epoch, config)))
    assert [(epoch.index, config.seed) for epoch, config in told] == [(0, 5), (0, 2), (1, 5), (1, 2)]
    for asked, result in zip(configs, results, strict=True):
        own = [epoch for epoch, whose in told if whose == asked]
        for name in {f.name for f in fields(Epoch)} - {"index"}:
            assert getattr(result, name) == tuple(getattr(epoch, name) for epoch in own)


def test_a_seeds_times_are_its_share_of_all(config, monkeypatch):
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(batched_seeds, "now", lambda: float(next(ticks)))
    for result in batched_seeds.fit(alike(replace(config, num_epochs=2), 0, 1, 2), "session"):
        assert (result.train_s, result.evaluate_s) == ((2.0, 2.0), (2.0, 2.0))


def test_auto_is_told_as_it_was_asked_and_recorded_as_what_was_found(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = []
    (result,) = batched_seeds.fit(
        [replace(config, device="auto")], "session", lambda _, config: told.append(config.device)
    )
    assert (set(told), result.config.device) == ({"auto"}, "cpu")


# --- what it is for


@pytest.mark.parametrize("change", [{"engine": "fused"}, {"loader": "dataloader"}, {"model": "other"}])
def test_another_engine_loader_or_model_has_no_batched_form(change):
    assert batched_seeds.can_train(RunConfig(optimizer="adam", device="cuda"))
    assert not batched_seeds.can_train(RunConfig(**change))


def test_too_little_memory_is_one_line_that_names_the_way_out(config, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    monkeypatch.setattr(torch, "baddbmm", full)
    with pytest.raises(InputError, match=r"2 seeds at once need more memory than there is; use fewer --jobs") as caught:
        batched_seeds.fit(alike(config, 0, 1), "session")
    assert "\n" not in str(caught.value)
