"""Check that a certificate has every stage of a run, and that a run that cannot be certified is refused."""

import random
from dataclasses import replace

import pytest
import torch

from mlpbench.certifying import certificate
from mlpbench.certifying.certificate import unpack
from mlpbench.certifying.certify import certify
from mlpbench.certifying.divergence import drift, first_divergence
from mlpbench.config import RunConfig
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.workload import randomness
from mlpbench.workload.models import MODELS, mlp
from tests.certifying.flips import NAMES, NUM_STEPS
from tests.conformance import every_engine

pytestmark = pytest.mark.usefixtures("restore_threads")


def test_certificate_has_every_stage_in_the_order_of_computing(original):
    assert [e.stage for e in original.before] == [
        *("table exp", "table tanh", "table log"),
        *("data train images", "data train labels", "data test images", "data test labels"),
        *(f"initial {name}" for name in NAMES),
        "order of epoch 0",
    ]
    assert [s.name for s in original.stages] == [
        *("forward linear0", "forward relu0", "forward linear1", "forward elu1", "forward linear2", "loss", "dlogits"),
        *(f"gradient linear{layer}.{kind}" for layer in (2, 1, 0) for kind in ("weight", "bias")),
        *(f"update {name}" for name in NAMES),
    ]
    assert [detail.step for detail in original.details] == [0, 1, 2, 4, 5]
    assert (original.arithmetic, original.bits, original.num_steps) == ("portable/1", 21, NUM_STEPS)
    assert original.num_entries == 14 + NUM_STEPS * 20 + 5 * 19 + 1


@every_engine
def test_same_run_again_is_equal(config, engine):
    config = replace(config, engine=engine)
    one, other = certify(config, NUM_STEPS), certify(config, NUM_STEPS)
    assert first_divergence(one, other) is None
    assert all(distance.relative_norm == distance.loss == 0 for distance in drift(one, other))
    assert one.arithmetic == ENGINES[engine].arithmetic


def test_run_over_several_epochs_has_the_order_of_each(config):
    # An epoch has 4 whole batches.
    long = certify(replace(config, batch_size=300), 10)
    assert [e.stage for e in long.before if e.stage.startswith("order")] == [f"order of epoch {i}" for i in range(3)]


def test_zoom_stores_more_values_of_that_step(config):
    zoomed = certify(config, NUM_STEPS, zoom=3)
    by_step = {detail.step: detail for detail in zoomed.details}
    assert sorted(by_step) == [0, 1, 2, 3, 4, 5]
    index = [s.name for s in zoomed.stages].index("forward linear0")
    assert [len(certificate.unpack(by_step[step].samples[index])) for step in (2, 3)] == [8, 64]
    assert first_divergence(zoomed, certify(config, NUM_STEPS)) is None


@pytest.mark.parametrize("zoom", [-1, NUM_STEPS])
def test_zoom_outside_of_the_run_is_refused(config, zoom):
    with pytest.raises(InputError, match="the run has the steps 0 to 5"):
        certify(config, NUM_STEPS, zoom=zoom)


def test_run_whose_training_diverges_is_refused(config):
    with pytest.raises(InputError, match=r"engine portable: the loss is (nan|inf)"):
        certify(replace(config, lr=1e30), NUM_STEPS)


def test_run_whose_last_values_are_not_finite_is_refused(config):
    with pytest.raises(InputError, match="engine portable: the loss is nan"):
        certify(replace(config, lr=1e300), 1)


def test_six_hundred_steps_take_less_than_200_kilobytes(tmp_path):
    path = tmp_path / "c.json"
    certificate.write(path, certify(RunConfig(engine="portable"), 600, zoom=300))
    assert path.stat().st_size < 200_000


# --- models that draw random numbers


class Unreachable(torch.nn.Module):
    """Add noise from a generator that nobody can seed."""

    def forward(self, x):
        return x + 0.1 * random.SystemRandom().random()


@pytest.fixture
def models(monkeypatch):
    """Register perceptrons with a random layer at their end of the hidden layers."""

    def make(layer):
        def model(config, num_features, num_classes):
            network = mlp(config, num_features, num_classes)
            layers = list(network.named_children())
            network = torch.nn.Sequential()
            for name, child in [*layers[:-1], ("random", layer()), layers[-1]]:
                network.add_module(name, child)
            return network

        return model

    monkeypatch.setitem(MODELS, "dropout", make(torch.nn.Dropout))
    monkeypatch.setitem(MODELS, "unreachable", make(Unreachable))


def entries(certificate):
    return {entry.stage: entry for entry in certificate.before if entry.stage.startswith("random")}


def test_certificate_of_a_model_that_draws_names_its_random_numbers(config, models):
    config = replace(config, engine="eager", model="dropout")
    one = certify(config, 3)
    torch.rand(5)
    other = certify(config, 3)
    assert first_divergence(one, other) is None
    assert list(entries(one)) == ["random numbers of PyTorch", "random numbers beyond the seed"]
    assert unpack(entries(one)["random numbers beyond the seed"].samples).tolist() == [0.0]


def test_other_random_numbers_are_the_first_divergence(config, models, monkeypatch):
    config = replace(config, engine="eager", model="dropout")
    one = certify(config, 2)
    # As another version of PyTorch, or another device, may draw them.
    monkeypatch.setattr(randomness, "_first", lambda generator: torch.rand(9, generator=generator)[1:])
    assert first_divergence(one, certify(config, 2)).stage == "random numbers of PyTorch"


def test_generator_that_cannot_be_reached_is_the_first_divergence(config, models):
    config = replace(config, engine="eager", model="unreachable")
    assert first_divergence(certify(config, 2), certify(config, 2)).stage == "random numbers beyond the seed"


def test_certificate_of_a_model_that_draws_nothing_has_no_random_numbers(config):
    assert entries(certify(config, 2)) == {}
