"""Engine compiled: torch.compile is held to what it was given."""

import copy
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.engines import compiled
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from tests.conformance import needs_compiler

CONFIG = RunConfig(hidden_sizes=(8,), activations=("tanh",), engine="compiled")


@pytest.fixture
def make(monkeypatch):
    """A trainer whose torch.compile makes this of a step; what was compiled before and by it is forgotten."""

    def made(damaged, **changes):
        monkeypatch.setattr(torch, "compile", lambda written, **_: lambda *given: damaged(written, *given))
        return Trainer(replace(CONFIG, **changes))

    compiled._function.cache_clear()
    yield made
    compiled._function.cache_clear()


def as_written(written, training, *batch):
    return written(training, *batch)


def other_loss(written, training, *batch):
    loss, *rest = written(training, *batch)
    return loss * 1.02, *rest


def no_loss(written, training, *batch):
    loss, *rest = written(training, *batch)
    return loss * torch.nan, *rest


def no_update(written, training, *batch):
    return written(copy.deepcopy(training), *batch)


def half_an_update(written, training, *batch):
    before = copy.deepcopy(training.parameters)
    made = written(training, *batch)
    for p, old in zip(training.parameters, before, strict=True):
        p.lerp_(old, 0.5)
    return made


def no_state(written, training, *batch):
    return written(training._replace(state=copy.deepcopy(training.state)), *batch)


def lost_alpha(written, training, *batch):
    """Nesterov's g + mu m as g + m, as PyTorch 2.11 made it where it was written as a sum with a factor."""
    before = copy.deepcopy(training.parameters)
    made = written(training, *batch)
    for p, old, m in zip(training.parameters, before, training.state.m, strict=True):
        p.copy_(old).sub_(2 * m, alpha=0.02)  # the first step: m is g
    return made


@pytest.mark.parametrize(
    ("damaged", "changes", "said"),
    [
        (other_loss, {}, "loss "),
        (no_loss, {}, "loss nan for 2"),
        (no_update, {}, "an update 9"),
        (half_an_update, {}, "an update (49|50)"),
        (no_state, {"optimizer": "nesterov"}, "an update "),
        (no_state, {"optimizer": "adam", "lr": 1e-3}, "an update "),
        (lost_alpha, {"optimizer": "nesterov"}, "an update 5"),
    ],
)
def test_a_step_that_was_compiled_wrongly_is_refused_and_changes_nothing(make, damaged, changes, said):
    trainer = make(damaged, **changes)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(InputError, match=f"makes another step of it here: .*({said})"):
        trainer.train_step()
    assert all(map(torch.equal, before, trainer.model.parameters()))


@pytest.mark.parametrize("lr", [1e22, 1e30, 1e37])
def test_a_training_that_overflows_by_itself_is_not_the_compilers_fault(make, lr):
    assert make(as_written, lr=lr).train_step()[0].isfinite()


def test_a_loss_that_is_infinite_by_itself_is_not_the_compilers_fault(make):
    trainer = make(as_written)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    assert not trainer.train_step()[0].isfinite()


def test_parameters_of_zero_are_not_far_from_themselves(make):
    trainer = make(as_written, activations=("relu",))
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.zero_()
    assert trainer.train_step()[0].item() == pytest.approx(2.302585, rel=1e-5)


def test_what_is_compiled_anew_for_another_number_of_threads_is_held_to_the_step_again(make):
    trainer, num_threads = make(as_written), torch.get_num_threads()
    batch = trainer.inputs["train images"][:7], trainer.inputs["train labels"][:7]
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            trainer.engine.step(*batch)
    finally:
        torch.set_num_threads(num_threads)
    assert compiled._function.cache_info().misses == 2


LOSS = """
from mlpbench.trainer import Trainer
from mlpbench.records import RunConfig
losses = [float(Trainer(RunConfig(engine=e)).train_step()[0]) for e in ("eager", "compiled")]
assert abs(losses[0] - losses[1]) < 1e-5 * losses[0], losses
"""


@needs_compiler
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs a processor with AVX-512")
def test_what_was_compiled_for_another_vector_level_is_not_used(tmp_path):
    for level in ("avx512", "avx2", "avx512"):
        variables = {"ATEN_CPU_CAPABILITY": level, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", LOSS], env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (level, done.stderr[-500:])
