"""Measure the peak memory of an operation, apart from its time: watching the memory takes time."""

import gc
from pathlib import Path

import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine.clock import now
from mlpbench.records.kinds import Memory
from mlpbench.training.trainer import Trainer

CALLS = 3
"""Calls of the operation. A later call holds what the first one created, for example an optimizer's buffers."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(operation: str, config: RunConfig, session_id: str) -> Memory:
    """Call the operation `CALLS` times, and return the peak. Run this in a fresh process, whose memory is still small.

    On the CPU this is the high-water mark of the resident set, set back before the calls (VmHWM in proc(5)). It
    includes libraries, data and model. On a GPU it is the peak of PyTorch's allocator.

    Raises:
        InputError: on a system other than Linux, for the CPU.
    """
    trainer = Trainer(config)
    trainer.prepare(operation)
    gc.collect()
    before_bytes, source = _reset(trainer.config.device)
    call = trainer.operation(operation)
    for _ in range(CALLS):
        call()
    return Memory(
        session=session_id,
        operation=operation,
        config=trainer.config,
        peak_bytes=_peak_bytes(trainer.config.device),
        before_bytes=before_bytes,
        source=source,
    )


def _reset(device: str) -> tuple[int, str]:
    """Set the peak back. Return the bytes in use now, and the name of their source."""
    if device == "cuda":
        # Reading the clock waits for the device.
        now()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), "CUDA allocator"
    try:
        # 5 sets VmHWM back to the memory in use (proc(5)).
        _CLEAR.write_text("5")
    except OSError:
        raise InputError("peak memory of the CPU can be measured on Linux only") from None
    return _status_bytes("VmRSS"), "resident set"


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        now()
        return torch.cuda.max_memory_allocated()
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    """Read a line of /proc/self/status, which is in KiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"peak memory cannot be measured: {_STATUS} of this system has no {name}")
