"""Engine compiled: torch.compile is held to what it was given."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mlpbench.engines import compiled
from mlpbench.records import InputError, RunConfig
from mlpbench.trainer import Trainer
from tests.engines import needs_compiler

CONFIG = RunConfig(hidden_sizes=(8,), activations=("tanh",), engine="compiled")


def damaged(damage):
    """torch.compile whose functions return other values than they were written to, or leave other parameters."""

    def compile_(function, **_):
        return lambda training, *batch: damage(training, function(training, *batch))

    return compile_


def no_update(training, made):
    for p in training.parameters:
        p.mul_(1.02)
    return made


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _, made: (made[0] * 1.02, *made[1:]), "loss"),
        (lambda _, made: (made[0] * torch.nan, *made[1:]), "loss nan for 2"),
        (no_update, "parameters up to 2e-02 off"),
    ],
)
def test_a_step_that_was_compiled_wrongly_is_refused_and_changes_nothing(monkeypatch, damage, said):
    monkeypatch.setattr(torch, "compile", damaged(damage))
    compiled._function.cache_clear()
    trainer = Trainer(CONFIG)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(InputError, match=f"makes another step of it here: .*{said}"):
        trainer.train_step()
    compiled._function.cache_clear()
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_a_training_that_overflows_by_itself_is_not_the_compilers_fault(monkeypatch):
    monkeypatch.setattr(torch, "compile", damaged(lambda _, made: made))
    compiled._function.cache_clear()
    trainer = Trainer(replace(CONFIG, lr=1e30))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    assert not trainer.train_step()[0].isfinite()
    compiled._function.cache_clear()


def test_parameters_of_zero_are_not_far_from_themselves(monkeypatch):
    monkeypatch.setattr(torch, "compile", damaged(lambda _, made: made))
    compiled._function.cache_clear()
    trainer = Trainer(replace(CONFIG, activations=("relu",)))
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.zero_()
    assert trainer.train_step()[0].item() == pytest.approx(2.302585, rel=1e-5)
    compiled._function.cache_clear()


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
