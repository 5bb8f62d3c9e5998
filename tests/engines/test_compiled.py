"""Test engine compiled: it compares the step of torch.compile with the step as it is written."""

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
    """Make a trainer whose torch.compile replaces a step by this function. The cache of steps is cleared around it."""

    def trainer(replacement, **changes):
        monkeypatch.setattr(torch, "compile", lambda written, **_: lambda *given: replacement(written, *given))
        return Trainer(replace(CONFIG, **changes))

    compiled._compiled_step.cache_clear()
    yield trainer
    compiled._compiled_step.cache_clear()


def as_written(written, training, *batch):
    return written(training, *batch)


def other_loss(written, training, *batch):
    output = written(training, *batch)
    return output._replace(loss=output.loss * 1.02)


def no_loss(written, training, *batch):
    output = written(training, *batch)
    return output._replace(loss=output.loss * torch.nan)


def no_update(written, training, *batch):
    return written(copy.deepcopy(training), *batch)


def half_an_update(written, training, *batch):
    before = copy.deepcopy(training.parameters)
    output = written(training, *batch)
    for p, old in zip(training.parameters, before, strict=True):
        p.lerp_(old, 0.5)
    return output


def no_state(written, training, *batch):
    return written(training._replace(state=copy.deepcopy(training.state)), *batch)


def lost_alpha(written, training, *batch):
    """Compute Nesterov's g + mu m as g + m. PyTorch 2.11 did so where it was written as a sum with a factor."""
    before = copy.deepcopy(training.parameters)
    output = written(training, *batch)
    for p, old, m in zip(training.parameters, before, training.state.m, strict=True):
        # In the first step m equals g.
        p.copy_(old).sub_(2 * m, alpha=0.02)
    return output


@pytest.mark.parametrize(
    ("replacement", "changes", "message"),
    [
        (other_loss, {}, "loss "),
        (no_loss, {}, "loss nan instead of 2"),
        (no_update, {}, "an update 9"),
        (half_an_update, {}, "an update (49|50)"),
        (no_state, {"optimizer": "nesterov"}, "an update "),
        (no_state, {"optimizer": "adam", "lr": 1e-3}, "an update "),
        (lost_alpha, {"optimizer": "nesterov"}, "an update 5"),
    ],
)
def test_wrongly_compiled_step_is_refused_and_changes_nothing(make, replacement, changes, message):
    trainer = make(replacement, **changes)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(InputError, match=f"computes a wrong step: .*({message})"):
        trainer.train_step()
    assert all(map(torch.equal, before, trainer.model.parameters()))


@pytest.mark.parametrize("lr", [1e22, 1e30, 1e37])
def test_training_that_overflows_as_written_is_not_refused(make, lr):
    assert make(as_written, lr=lr).train_step()[0].isfinite()


def test_loss_that_is_infinite_as_written_is_not_refused(make):
    trainer = make(as_written)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    assert not trainer.train_step()[0].isfinite()


def test_step_from_parameters_of_zero_is_not_refused(make):
    trainer = make(as_written, activations=("relu",))
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.zero_()
    assert trainer.train_step()[0].item() == pytest.approx(2.302585, rel=1e-5)


def test_step_is_compared_again_for_another_thread_count(make):
    trainer, num_threads = make(as_written), torch.get_num_threads()
    batch = trainer.inputs["train images"][:7], trainer.inputs["train labels"][:7]
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            trainer.engine.step(*batch)
    finally:
        torch.set_num_threads(num_threads)
    assert compiled._compiled_step.cache_info().misses == 2


COMPARE_LOSSES = """
from mlpbench.config import RunConfig
from mlpbench.training.trainer import Trainer
losses = [float(Trainer(RunConfig(engine=e)).train_step()[0]) for e in ("eager", "compiled")]
assert abs(losses[0] - losses[1]) < 1e-5 * losses[0], losses
"""


@needs_compiler
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs a processor with AVX-512")
@pytest.mark.slow
def test_cached_step_of_another_vector_level_is_not_used(tmp_path):
    for level in ("avx512", "avx2", "avx512"):
        variables = {"ATEN_CPU_CAPABILITY": level, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", COMPARE_LOSSES],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (level, done.stderr[-500:])
