"""Test that a trainer checks its names, and handles devices, threads and random generators."""

from dataclasses import replace

import pytest
import torch

from mlpbench.config import Loader, Operation, RunConfig
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer, check_names
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS

# PyTorch chose this thread count, since no test has run yet.
DEFAULT_NUM_THREADS = torch.get_num_threads()


def without_times(result):
    """Return the result with its times set to zero, since only they may differ."""
    zeros = (0.0,) * result.config.num_epochs
    return replace(result, train_s=zeros, evaluate_s=zeros)


def fit(config):
    return without_times(Trainer(config).fit("session"))


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_epochs=1, num_threads=1)


@pytest.mark.parametrize(
    ("field", "value", "known"),
    [
        ("model", "mpl", MODELS),
        ("activations", ("relu", "rleu", "elu"), ACTIVATIONS),
        ("dataset", "mist", datasets.DATASETS),
        ("loader", "disk", list(Loader)),
        ("optimizer", "sdg", OPTIMIZERS),
        ("engine", "steam", ENGINES),
        ("device", "gpu", ("cpu", "cuda", "auto")),
    ],
)
@pytest.mark.parametrize("build", [Trainer, check_names])
def test_unknown_name_raises_with_the_known_names(field, value, known, build):
    name = value[1] if isinstance(value, tuple) else value
    with pytest.raises(InputError) as error:
        build(RunConfig(**{field: value}))
    assert repr(name) in str(error.value)
    assert str(error.value).endswith(f"known: {', '.join(known)}")


def test_unknown_operation_raises_with_the_known_operations(config):
    with pytest.raises(InputError, match=f"unknown operation 'fly'; known: {', '.join(Operation)}"):
        Trainer(config).operation("fly")


def test_cuda_without_a_cuda_device_raises(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="use device cpu or auto"):
        Trainer(replace(config, device="cuda"))


def test_auto_is_recorded_as_the_device_in_use(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Trainer(replace(config, device="auto")).fit("session").config.device == "cpu"


@pytest.mark.cuda
def test_training_on_cuda_has_the_losses_of_the_cpu_up_to_rounding(cuda, config):
    on_cpu = fit(config)
    on_cuda = fit(replace(config, device="cuda"))
    assert on_cuda.config.device == "cuda"
    assert on_cpu.digests[0] == on_cuda.digests[0]
    assert on_cuda.train_loss == pytest.approx(on_cpu.train_loss, rel=1e-3)
    assert on_cuda.test_loss == pytest.approx(on_cpu.test_loss, rel=1e-3)


def test_trainer_does_not_change_the_global_generator(config):
    # An earlier trainer may have left the generator in the state that a trainer would set.
    torch.manual_seed(1)
    before = torch.get_rng_state()
    trainer = Trainer(config)
    assert torch.equal(before, torch.get_rng_state())
    trainer.fit("session")
    assert torch.equal(before, torch.get_rng_state())


def test_trainer_does_not_depend_on_the_global_generator(config):
    torch.manual_seed(1)
    first = fit(config)
    torch.manual_seed(2)
    assert first == fit(config)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("call", ["fit", "predict", "prepare"])
def test_trainer_uses_the_thread_count_of_its_config(config, num_threads, call):
    trainer = Trainer(replace(config, num_threads=num_threads))
    torch.set_num_threads(3)
    arguments = {"fit": ["session"], "predict": [], "prepare": ["forward"]}[call]
    getattr(trainer, call)(*arguments)
    assert num_threads == torch.get_num_threads()


def test_thread_count_is_pytorchs_own_by_default(config):
    Trainer(replace(config, num_threads=DEFAULT_NUM_THREADS + 1)).use_threads()
    assert torch.get_num_threads() == DEFAULT_NUM_THREADS + 1
    Trainer(replace(config, num_threads=None)).use_threads()
    assert torch.get_num_threads() == DEFAULT_NUM_THREADS


def test_trainer_does_not_write_to_the_shared_data(config):
    digests = []
    for _ in range(2):
        x, y = datasets.resident("small", "train", datasets.data_dir(), torch.device("cpu"))
        digests.append(digest({"x": x, "y": y}))
        fit(config)
    assert digests[0] == digests[1]
