"""`mlpbench check` says in plain words what would spoil a time."""

import itertools

import pytest
import torch

from mlpbench.cli.main import main
from mlpbench.machine import fitness


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fitness, "SECONDS", 0.1)
    monkeypatch.setattr(fitness, "IDLE_S", 0.05)


def found(name: str):
    (finding,) = [f for f in fitness.check(torch.device("cpu")) if f.what == name]
    return finding


def test_every_finding_that_is_not_fit_has_advice(quick):
    for finding in fitness.check(torch.device("cpu")):
        assert finding.found
        assert finding.advice


def test_a_control_that_jumps_is_not_steady(quick, monkeypatch):
    times = itertools.cycle([1000, 1000, 1500])
    monkeypatch.setattr(fitness.Control, "__call__", lambda _: next(times))
    assert found("steady speed").is_fit is False
    assert found("no drift").is_fit is True


def test_a_control_that_stands_still_is_steady(quick, monkeypatch):
    monkeypatch.setattr(fitness.Control, "__call__", lambda _: 1000)
    assert found("steady speed").is_fit is True


def test_debugging_aids_are_named(quick, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    finding = found("CUDA_LAUNCH_BLOCKING")
    assert finding.is_fit is False
    assert finding.advice == "unset CUDA_LAUNCH_BLOCKING"


def test_more_threads_than_cpus_are_not_fit(quick, monkeypatch):
    from dataclasses import replace

    from mlpbench.machine.environment import current

    crowded = replace(current(), num_threads=8, num_cpus=2)
    monkeypatch.setattr(fitness, "current", lambda: crowded)
    assert found("threads").is_fit is False


@pytest.mark.parametrize(("is_fit", "code"), [(True, 0), (None, 0), (False, 1)])
def test_the_exit_code_says_whether_the_machine_is_fit(monkeypatch, capsys, is_fit, code):
    finding = fitness.Finding(what="speed", is_fit=is_fit, found="as it is", advice="change it")
    monkeypatch.setattr(fitness, "check", lambda _: [finding])
    assert main(["check"]) == code
    assert ("change it" in capsys.readouterr().out) == (is_fit is False)
