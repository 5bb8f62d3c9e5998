"""Describe the machine and its software, and start a session."""

import functools
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import torch

import mlpbench
from mlpbench.errors import InputError
from mlpbench.machine import hardware, source, stack
from mlpbench.records.environment import NONE, Environment
from mlpbench.records.kinds import Session


def resolve_device(name: str) -> torch.device:
    """Return the device for a name: cpu, cuda or auto (CUDA if available, else the CPU).

    Raises:
        InputError: for another name, or for cuda without a CUDA device.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise InputError(f"unknown device {name!r}; known: cpu, cuda, auto")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        built = torch.version.cuda is not None
        reason = "no CUDA device is visible" if built else "this PyTorch was built without CUDA"
        raise InputError(f"device cuda: {reason}; use device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@functools.cache
def current() -> Environment:
    """Describe this machine, its software and the source of mlpbench, as they were at the first call.

    A warning on standard error says if the commit of the source is not known.
    """
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    own = source.current()
    if own.problem and not source.is_installed():
        print(
            f"mlpbench: the commit of this source is not known ({own.problem}); results name it {own.commit}",
            file=sys.stderr,
        )
    return Environment(
        hardware=replace(
            hardware.read(),
            gpu_model=gpu.name if gpu else NONE,
            gpu_memory_bytes=gpu.total_memory if gpu else None,
        ),
        stack=stack.read(),
        mlpbench=mlpbench.__version__,
        commit=own.commit,
        dirty=own.dirty,
        source_digest=own.digest,
    )


def start_session(
    command: str, preset: str = "-", *, run: str | None = None, process: int = 0, side: str = ""
) -> Session:
    """Return a new session of this process. Without `run`, the session is a run by itself."""
    session_id = uuid.uuid4().hex[:12]
    return Session(
        id=session_id,
        run=run or session_id,
        process=process,
        side=side,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        preset=preset,
        environment=current(),
    )
