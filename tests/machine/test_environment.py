"""Check that the description of this machine is complete, private, and read once."""

import json
import re
import socket
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
import torch

from mlpbench.errors import InputError
from mlpbench.machine import source
from mlpbench.machine.environment import current, resolve_device, start_session


def current_uncached():
    """Read the environment as it is now."""
    return current.__wrapped__()


def test_environment_has_no_host_name_user_name_or_home(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/somebody")
    for name in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(name, "somebody")
    text = json.dumps(asdict(current_uncached()))
    assert "somebody" not in text
    assert re.search(rf"(?<!\w){re.escape(socket.gethostname())}(?!\w)", text) is None


def test_environment_is_read_once():
    assert current() is current()


def test_environment_describes_this_machine_and_software():
    environment = current()
    assert torch.__version__ == environment.stack.torch
    assert environment.stack.num_allowed_cpus >= 1
    assert environment.hardware.memory_bytes > 2**20
    assert environment.hardware.cpu_model
    assert torch.cuda.is_available() == environment.hardware.has_gpu
    assert re.fullmatch(r"[0-9a-f]{12}|source-[0-9a-f]{12}", environment.commit)


def test_machine_is_a_slug():
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", current().machine)


def test_warning_says_that_the_commit_is_not_known_unless_the_package_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(source, "current", lambda: source.Source(commit="source-0", dirty=False, problem="no git"))
    assert current_uncached().commit == "source-0"
    line = "mlpbench: the commit of this source is not known (no git); results name it source-0\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr(source, "is_installed", lambda: True)
    current_uncached()
    assert capsys.readouterr().err == ""


# --- devices


@pytest.mark.parametrize("name", ["", "CPU", "gpu", "cuda:0"])
def test_unknown_device_raises_with_the_known_devices(name):
    with pytest.raises(InputError, match=re.escape(f"unknown device {name!r}; known: cpu, cuda, auto")):
        resolve_device(name)


@pytest.mark.parametrize(("built_for", "reason"), [("13.0", "no CUDA device is visible"), (None, "built without CUDA")])
def test_cuda_without_a_cuda_device_raises_with_the_reason(built_for, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(InputError, match=reason) as error:
        resolve_device("cuda")
    assert "use device cpu or auto" in str(error.value)


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_is_cuda_if_available_and_other_names_are_that_device(name, available, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert torch.device(expected) == resolve_device(name)


# --- sessions


def test_session_holds_command_preset_environment_and_utc_time():
    before = datetime.now(UTC)
    session = start_session("mlpbench train", "quick")
    assert ("mlpbench train", "quick", current()) == (session.command, session.preset, session.environment)
    started_at = datetime.fromisoformat(session.started_at)
    assert timedelta(0) == started_at.utcoffset()
    assert before.replace(microsecond=0) <= started_at <= datetime.now(UTC)


def test_every_session_has_a_new_id():
    assert len({start_session("test").id for _ in range(100)}) == 100
