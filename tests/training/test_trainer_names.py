"""Trainers and names, devices, threads and generators."""

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

CHOSEN_NUM_THREADS = torch.get_num_threads()  # by PyTorch: no test has run yet

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_loader = pytest.mark.parametrize("loader", list(Loader))
every_operation = pytest.mark.parametrize("operation", list(Operation))


def without_times(result):
    """What a run computed: the times alone may differ."""
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
def test_an_unknown_name_is_refused_along_with_the_known_ones(field, value, known, build):
    name = value[1] if isinstance(value, tuple) else value
    with pytest.raises(InputError) as caught:
        build(RunConfig(**{field: value}))
    assert repr(name) in str(caught.value)
    assert str(caught.value).endswith(f"known: {', '.join(known)}")


def test_an_unknown_operation_is_refused_along_with_the_known_ones(config):
    with pytest.raises(InputError, match=f"unknown operation 'fly'; known: {', '.join(Operation)}"):
        Trainer(config).operation("fly")


def test_cuda_where_there_is_none_is_refused(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="use device cpu or auto"):
        Trainer(replace(config, device="cuda"))


def test_auto_is_recorded_as_the_device_that_was_found(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Trainer(replace(config, device="auto")).fit("session").config.device == "cpu"


@pytest.mark.cuda
def test_training_on_cuda_gives_the_cpus_losses_to_rounding(cuda, config):
    on_cpu = fit(config)
    on_cuda = fit(replace(config, device="cuda"))
    assert on_cuda.config.device == "cuda"
    assert on_cpu.digests[0] == on_cuda.digests[0]
    assert on_cuda.train_loss == pytest.approx(on_cpu.train_loss, rel=1e-3)
    assert on_cuda.test_loss == pytest.approx(on_cpu.test_loss, rel=1e-3)


def test_the_global_generator_does_not_notice_a_trainer(config):
    torch.manual_seed(1)  # not the state in which an earlier trainer might have left it
    before = torch.get_rng_state()
    trainer = Trainer(config)
    assert torch.equal(before, torch.get_rng_state())
    trainer.fit("session")
    assert torch.equal(before, torch.get_rng_state())


def test_a_trainer_does_not_depend_on_the_global_generator(config):
    torch.manual_seed(1)
    first = fit(config)
    torch.manual_seed(2)
    assert first == fit(config)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("call", ["fit", "predict", "prepare"])
def test_the_configs_number_of_threads_is_used(config, num_threads, call):
    trainer = Trainer(replace(config, num_threads=num_threads))
    torch.set_num_threads(3)
    arguments = {"fit": ["session"], "predict": [], "prepare": ["forward"]}[call]
    getattr(trainer, call)(*arguments)
    assert num_threads == torch.get_num_threads()


def test_no_number_of_threads_means_the_one_that_pytorch_chose(config):
    Trainer(replace(config, num_threads=CHOSEN_NUM_THREADS + 1)).use_threads()
    assert torch.get_num_threads() == CHOSEN_NUM_THREADS + 1
    Trainer(replace(config, num_threads=None)).use_threads()
    assert torch.get_num_threads() == CHOSEN_NUM_THREADS


def test_a_trainer_does_not_write_to_the_shared_data(config):
    digests = []
    for _ in range(2):
        x, y = datasets.resident("small", "train", datasets.data_dir(), torch.device("cpu"))
        digests.append(digest({"x": x, "y": y}))
        fit(config)
    assert digests[0] == digests[1]
