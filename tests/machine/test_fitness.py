"""`mlpbench check` reports what would spoil a time."""

import itertools

import pytest
import torch

from mlpbench.cli.main import main
from mlpbench.machine import fitness
from tests.strategies import changed


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fitness, "SECONDS", 0.1)
    monkeypatch.setattr(fitness, "IDLE_S", 0.05)


def finding(name: str):
    (match,) = [each for each in fitness.check(torch.device("cpu")) if each.name == name]
    return match


def test_every_finding_has_an_observation_and_advice(quick):
    for each in fitness.check(torch.device("cpu")):
        assert each.observation
        assert each.advice


def test_speed_is_not_steady_if_the_control_jumps(quick, monkeypatch):
    times = itertools.cycle([1000, 1000, 1500])
    monkeypatch.setattr(fitness.Control, "__call__", lambda _: next(times))
    assert finding("steady speed").is_fit is False
    assert finding("no drift").is_fit is True


def test_speed_is_steady_if_the_control_is_constant(quick, monkeypatch):
    monkeypatch.setattr(fitness.Control, "__call__", lambda _: 1000)
    assert finding("steady speed").is_fit is True


def test_variables_of_debugging_aids_are_findings(quick, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    variable = finding("CUDA_LAUNCH_BLOCKING")
    assert variable.is_fit is False
    assert variable.advice == "unset CUDA_LAUNCH_BLOCKING"


def test_more_threads_than_cpus_are_not_fit(quick, monkeypatch):
    from mlpbench.machine.environment import current

    crowded = changed(current(), num_threads=8, num_allowed_cpus=2)
    monkeypatch.setattr(fitness, "current", lambda: crowded)
    assert finding("threads").is_fit is False


@pytest.mark.parametrize(("is_fit", "code"), [(True, 0), (None, 0), (False, 1)])
def test_exit_code_is_1_if_the_machine_is_not_fit(monkeypatch, capsys, is_fit, code):
    speed = fitness.Finding(name="speed", is_fit=is_fit, observation="as it is", advice="change it")
    monkeypatch.setattr(fitness, "check", lambda _: [speed])
    assert main(["check"]) == code
    assert ("change it" in capsys.readouterr().out) == (is_fit is False)
