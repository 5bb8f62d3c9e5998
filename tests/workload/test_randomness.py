"""The seed of a run reaches every generator that a model draws from; the global generators stay as they were."""

# ruff: noqa: NPY002 (NumPy's global generator is meant)
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mlpbench.config import RunConfig
from mlpbench.engines.registry import ENGINES
from mlpbench.training import batched_seeds, checkpoint, resume
from mlpbench.training.trainer import Trainer
from mlpbench.workload.activations import ACTIVATIONS, Activation
from mlpbench.workload.digest import digest
from mlpbench.workload.models import MODELS, mlp
from mlpbench.workload.optimizers import OPTIMIZERS, OptimizerKind
from mlpbench.workload.randomness import Randomness, may_draw

CPU = torch.device("cpu")


class Noise(nn.Module):
    """Add noise from any generators: `draw` returns a number."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + 0.1 * self.draw(self)


class Own(nn.Module):
    """Add noise from generators that the layer holds."""

    def __init__(self):
        super().__init__()
        self.torch, self.python = torch.Generator(), random.Random()
        self.numpy, self.old = np.random.default_rng(), np.random.RandomState()

    def forward(self, x):
        noise = torch.randn(x.shape[1], generator=self.torch)
        return x + 0.1 * (noise + self.python.random() + self.numpy.random() + self.old.random_sample())


LAYERS = {
    "dropout": nn.Dropout,
    "alpha dropout": lambda: nn.AlphaDropout(0.2),
    "rrelu": nn.RReLU,
    "torch": lambda: Noise(lambda _: torch.randn(())),
    "python": lambda: Noise(lambda _: random.random()),
    "numpy": lambda: Noise(lambda _: np.random.random()),
    "own": Own,
}
every_layer = pytest.mark.parametrize("layer", LAYERS)


@pytest.fixture
def config(small, monkeypatch):
    """Return a config, and register a model for each layer: a perceptron with this layer in it."""
    for name, make in LAYERS.items():

        def model(config, num_features, num_classes, make=make):
            layers = list(mlp(config, num_features, num_classes).named_children())
            model = nn.Sequential()
            for layer_name, layer in [*layers[:2], ("random", make()), *layers[2:]]:
                model.add_module(layer_name, layer)
            return model

        monkeypatch.setitem(MODELS, name, model)
    return RunConfig(dataset=small, num_epochs=3, num_threads=1, hidden_sizes=(32, 16), activations=("relu",))


def stir():
    """Bring the global generators into another state."""
    torch.rand(7)
    random.random()
    np.random.random(3)


def global_states():
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())


def result_of(config, **arguments):
    result = Trainer(config).fit("session", **arguments)
    return result.digests, result.train_loss, result.test_loss, result.last_loss


# --- the same bits


@every_layer
def test_same_seed_gives_the_same_bits_whatever_was_drawn_before(config, layer):
    config = replace(config, model=layer)
    first = result_of(config)
    stir()
    assert result_of(config) == first
    assert result_of(replace(config, seed=1)) != first


@every_layer
@pytest.mark.parametrize("operation", ["epoch", "train_step", "forward", "forward_backward", "evaluate", "trace_step"])
def test_global_generators_are_left_as_they_were(config, layer, operation):
    trainer = Trainer(replace(config, model=layer))
    trainer.use_threads()
    # The first step finds out which generators a model uses.
    trainer.train_step()
    before = global_states()
    for _ in range(2):
        getattr(trainer, operation)()
    assert before == global_states()


@every_layer
def test_single_steps_have_the_bits_of_an_epoch(config, layer):
    one, other = (Trainer(replace(config, model=layer, batch_size=123)) for _ in range(2))
    one.use_threads()
    for _ in range(10):
        one.train_step()
        stir()
    other.epoch()
    assert digest(one.model.state_dict()) == digest(other.model.state_dict())


@every_layer
def test_run_that_goes_on_draws_the_numbers_of_an_uninterrupted_one(config, layer, tmp_path):
    config = replace(config, model=layer)
    one, other = Trainer(config), Trainer(config)
    one.use_threads()
    one.epoch()
    path = tmp_path / "x.ckpt"
    stack = resume.stack(config)
    checkpoint.write(path, checkpoint.Checkpoint(run="s", config=config, stack=stack, epochs=(), state=one.state()))
    other.evaluate()
    stir()
    other.restore(checkpoint.read(path).state)
    assert [one.epoch(), one.evaluate(), one.epoch()] == [other.epoch(), other.evaluate(), other.epoch()]


def test_every_step_draws_other_numbers(config):
    trainer = Trainer(replace(config, model="dropout", lr=1e-300))
    trainer.use_threads()
    x, y = trainer.inputs["train images"][:100], trainer.inputs["train labels"][:100]
    losses = [trainer.engine.step(x, y)[0].item() for _ in range(5)]
    assert len(set(losses)) == 5


@pytest.mark.parametrize("loader", ["memory", "dataloader"])
def test_loader_does_not_change_the_numbers(config, loader):
    config = replace(config, model="torch", num_epochs=1)
    assert result_of(replace(config, loader=loader)) == result_of(config)


def test_evaluation_has_the_same_numbers_at_any_time(config):
    trainer = Trainer(replace(config, model="torch"))
    trainer.use_threads()
    first = trainer.evaluate()
    stir()
    assert trainer.evaluate() == first
    assert torch.equal(trainer.logits(), trainer.logits())


def test_optimizer_of_somebody_else_may_draw(config, monkeypatch):
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.add_(torch.randn_like(p), alpha=1e-3)

    monkeypatch.setitem(OPTIMIZERS, "noisy", OptimizerKind(make=lambda p, c: Noisy(p, lr=c.lr), num_kept=0))
    config = replace(config, optimizer="noisy")
    first, before = result_of(config), global_states()
    assert before == global_states()
    stir()
    assert result_of(config) == first


def test_model_that_draws_its_initial_parameters_elsewhere_has_them_from_the_seed(config, monkeypatch):
    def model(config, num_features, num_classes):
        network = mlp(config, num_features, num_classes)
        with torch.no_grad():
            network[0].bias += random.random() + torch.from_numpy(np.random.random(32).astype("f"))
        return network

    monkeypatch.setitem(MODELS, "drawn", model)
    config = replace(config, model="drawn")
    one, before = Trainer(config), global_states()
    other = Trainer(config)
    assert before == global_states()
    assert digest(one.model.state_dict()) == digest(other.model.state_dict())
    assert digest(one.model.state_dict()) != digest(Trainer(replace(config, seed=1)).model.state_dict())


# --- activations that draw, in every engine that runs the model's own layers


@pytest.fixture
def random_activation(monkeypatch):
    entry = Activation(function="rrelu", formula=lambda x: (x, x), layer="torch.nn:RReLU")
    monkeypatch.setitem(ACTIVATIONS, "rrelu", entry)
    return "rrelu"


@pytest.mark.parametrize("engine", ["eager", "lightning", "skorch"])
def test_engine_that_runs_the_layers_seeds_them(config, random_activation, engine):
    if ENGINES[engine].is_peer:
        pytest.importorskip(engine)
    config = replace(config, engine=engine, activations=(random_activation,), num_epochs=2)
    first, before = result_of(config), global_states()
    stir()
    assert result_of(config) == first
    one, other = Trainer(config), Trainer(config)
    one.use_threads()
    one.epoch()
    other.restore(one.state())
    assert one.epoch() == other.epoch()
    assert before != global_states()


def test_seeds_of_a_batched_model_do_not_share_random_numbers(config, random_activation):
    assert batched_seeds.can_train(config)
    assert not batched_seeds.can_train(replace(config, activations=(random_activation,)))


# --- who draws


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_built_in_model_draws_nothing_and_its_steps_have_no_context_of_their_own(name):
    model = mlp(RunConfig(activations=(name,)), 7, 3)
    assert not may_draw(model)
    randomness = Randomness(model, 0, CPU)
    assert randomness.step(0) is randomness.step(1) is randomness.held() is randomness.evaluation()


def hooked():
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: None)
    return model


def patched():
    model = nn.Linear(2, 2)
    model.forward = lambda x: x
    return model


@pytest.mark.parametrize(
    "make", [*LAYERS.values(), hooked, patched, lambda: nn.LSTM(2, 2), lambda: type("Own", (nn.Linear,), {})(2, 2)]
)
def test_layer_that_nobody_knows_may_draw(make):
    assert may_draw(nn.Sequential(nn.Linear(2, 2), make()))


def test_samples_are_the_first_numbers_of_each_generator():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    one, other = Randomness(model, 0, CPU), Randomness(model, 1, CPU)
    stir()
    assert list(one.samples()) == ["PyTorch"]
    assert torch.equal(one.samples()["PyTorch"], Randomness(model, 0, CPU).samples()["PyTorch"])
    assert not torch.equal(one.samples()["PyTorch"], other.samples()["PyTorch"])
    foreign = Randomness(nn.Sequential(Noise(lambda _: 0)), 0, CPU).samples()
    assert list(foreign) == ["PyTorch", "Python", "NumPy"]
    # The generators of PyTorch and NumPy have one algorithm, and must not have one seed.
    assert not torch.allclose(foreign["PyTorch"].double(), foreign["NumPy"])
    assert Randomness(nn.Linear(2, 2), 0, CPU).samples() == {}
