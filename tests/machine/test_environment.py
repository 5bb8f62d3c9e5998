import re
import socket
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.errors import InputError
from mlpbench.machine.environment import VARIABLES, current, resolve_device, start_session


def current_uncached():
    """Read the environment as it is now."""
    return current.__wrapped__()


def test_environment_has_no_host_name_user_name_or_home(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/somebody")
    for name in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(name, "somebody")
    text = "\n".join(str(value) for value in asdict(current_uncached()).values())
    assert "somebody" not in text
    assert re.search(rf"(?<!\w){re.escape(socket.gethostname())}(?!\w)", text) is None


def test_environment_is_read_once():
    assert current() is current()


def test_environment_describes_this_machine_and_software():
    environment = current()
    assert torch.__version__ == environment.torch
    assert environment.num_cpus >= 1
    assert environment.memory_bytes > 2**20
    assert environment.cpu_model
    assert torch.cuda.is_available() == (environment.gpu_model is not None)
    assert re.fullmatch(r"[0-9a-f]{12}|v[0-9.]+", environment.commit)


def test_machine_is_a_slug():
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", current().machine)


@given(st.text(), st.integers(1, 512), st.none() | st.text())
def test_machine_is_a_slug_for_every_name_of_the_hardware(cpu_model, num_cpus, gpu_model):
    machine = replace(current(), cpu_model=cpu_model, num_cpus=num_cpus, gpu_model=gpu_model).machine
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", machine)
    assert f"{num_cpus}cpu" in machine


def test_machine_depends_on_the_hardware_only():
    other = replace(current(), torch="0", os="other", python="0", num_threads=99, commit="v0", variables=())
    assert current().machine == other.machine
    assert current().machine != replace(current(), gpu_model="GPU X").machine


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", ["/home/somebody/lib.so", "here/there", "C:\\Users\\somebody", "a:/b"])
def test_path_in_a_variable_is_left_out(name, value, monkeypatch):
    # git would run with the variable.
    monkeypatch.setattr("mlpbench.machine.environment._commit", lambda: ("v0", False))
    monkeypatch.setenv(name, value)
    assert dict(current_uncached().variables)[name] == "(a path)"


def test_only_the_listed_variables_are_recorded(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    assert current_uncached().variables == (("OMP_NUM_THREADS", "3"),)


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
