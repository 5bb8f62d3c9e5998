"""Run `mlpbench certify` and `mlpbench verify` as people do."""

from dataclasses import replace

import pytest
import torch

from mlpbench.certifying import certificate
from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.certify import certify
from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from tests.certifying.flips import NUM_STEPS, Flip, injected
from tests.conformance import needs_compiler

pytestmark = pytest.mark.usefixtures("restore_threads")


@pytest.fixture
def config(small) -> RunConfig:
    return RunConfig(dataset=small, engine="portable", hidden_sizes=(9, 8), activations=("relu", "elu"), num_threads=1)


@pytest.fixture
def original(config) -> Certificate:
    """Return the certificate of the config's run."""
    return certify(config, NUM_STEPS)


def test_certificate_of_this_machine_is_verified(tmp_path, small, capsys):
    workload = ["--set", "hidden_sizes=9,8", "--set", "activations=relu,elu", "--dataset", small]
    path, results = tmp_path / "c.json", tmp_path / "results"
    assert main(["certify", str(path), "--steps", "4", *workload]) == 0
    assert f"{path}: " in capsys.readouterr().out
    assert main(["verify", str(path), "--results", str(results), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "verified: all bits equal over 4 steps (portable/1); confirms L1 (this machine)" in out
    (own,) = results.rglob("certificates/*.json")
    assert main(["verify", str(path), str(own)]) == 0
    assert main(["certify", "--steps", "2", "--results", str(results), *workload]) == 0
    assert len(list(results.rglob("certificates/*.json"))) == 2


def test_verify_writes_nothing_where_it_is_not_told(tmp_path, original, monkeypatch, capsys):
    path = tmp_path / "c.json"
    certificate.write(path, original)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["verify", str(path)]) == 0
    assert list((tmp_path / "here").iterdir()) == []
    assert main(["verify", str(path), "--results", "mine"]) == 0
    (saved,) = (tmp_path / "here").rglob("*.json")
    assert f"This run was saved as: {saved.relative_to(tmp_path / 'here')}" in capsys.readouterr().out


@needs_compiler
def test_another_engine_of_the_same_arithmetic_verifies(tmp_path, original, capsys):
    path = tmp_path / "c.json"
    certificate.write(path, original)
    assert main(["verify", str(path), "--engine", "portable_fused", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "engine: certificate portable, this run portable_fused" in out
    assert "confirms L1 (this machine)" in out
    assert main(["verify", str(path), "--engine", "eager", "--results", str(tmp_path)]) == 2
    assert "cannot compare: the certificates use different engines (portable, eager)" in capsys.readouterr().err


def test_verify_names_the_first_stage_that_differs(tmp_path, config, original, capsys):
    path = tmp_path / "c.json"
    with pytest.MonkeyPatch.context() as patch:
        stage, other = injected(patch, config, Flip("update", 1, "linear1.bias", 3, 22))
    certificate.write(path, other)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"diverged at {stage}: 1 of the 8 sampled values differs" in out
    assert "machine and software stack are the same" in out
    assert "parameters after step 5 differ by " in out
    assert "test accuracy: " in out


def test_only_common_steps_are_called_verified(config, original, tmp_path, capsys):
    paths = [tmp_path / name for name in ("long.json", "short.json")]
    for path, one in zip(paths, (original, certify(config, 2)), strict=True):
        certificate.write(path, one)
    assert main(["verify", *map(str, paths)]) == 0
    assert "verified: all bits equal over the first 2 of 6 steps" in capsys.readouterr().out


def test_run_that_cannot_run_here_ends_with_2(tmp_path, original, capsys):
    path = tmp_path / "c.json"
    certificate.write(path, replace(original, config=replace(original.config, dataset="unheard_of")))
    assert main(["verify", str(path)]) == 2
    assert "unknown dataset 'unheard_of'" in capsys.readouterr().err


def test_config_too_large_for_this_machine_ends_with_2(original, tmp_path, monkeypatch, capsys):
    def no_memory(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mlpbench.certifying.certify.Trainer", no_memory)
    path = tmp_path / "c.json"
    certificate.write(path, original)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 2
    assert "cannot be built on this machine" in capsys.readouterr().err


def test_impossible_output_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("mlpbench.certifying.certify.Trainer", None)
    assert main(["certify", str(tmp_path / "file" / "c.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_certificate_of_cuda_is_verified_on_the_cpu_without_a_gpu(tmp_path, original, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "c.json"
    certificate.write(path, replace(original, config=replace(original.config, device="cuda")))
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "L6 (CPU and GPU)" in captured.out
    assert "verifying on the cpu" in captured.err
