"""The most memory that an operation holds: a pass of its own, since watching memory costs time."""

import gc
from pathlib import Path

import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine.clock import now
from mlpbench.records.kinds import Memory
from mlpbench.training.trainer import Trainer

CALLS = 3  # the second finds what the first has left, for example an optimizer's buffers
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(operation: str, config: RunConfig, session_id: str) -> Memory:
    """Call the operation a few times; to be run in a fresh process, which has held nothing else.

    On the CPU the high-water mark of the resident set (proc(5): VmHWM, set back beforehand), libraries, data and model
    included; on a GPU that of PyTorch's allocator.

    Raises:
        InputError: on a system that does not tell.
    """
    trainer = Trainer(config)
    trainer.prepare(operation)
    gc.collect()
    before, source = _reset(trainer.config.device)
    call = trainer.operation(operation)
    for _ in range(CALLS):
        call()
    return Memory(
        session=session_id,
        operation=operation,
        config=trainer.config,
        peak_bytes=_peak(trainer.config.device),
        before_bytes=before,
        source=source,
    )


def _reset(device: str) -> tuple[int, str]:
    if device == "cuda":
        now()  # waits for the device
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), "CUDA allocator"
    try:
        _CLEAR.write_text("5")
    except OSError:
        raise InputError("the peak of the resident set can be read on Linux only") from None
    return _kib("VmRSS") * 1024, "resident set"


def _peak(device: str) -> int:
    if device == "cuda":
        now()
        return torch.cuda.max_memory_allocated()
    return _kib("VmHWM") * 1024


def _kib(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise InputError(f"this system does not tell {name}")
