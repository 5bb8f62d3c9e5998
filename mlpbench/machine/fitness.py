"""Is this machine fit to time on? Measures a few seconds, and says in plain words what would spoil a time."""

import os
import statistics
import time
from dataclasses import dataclass

import torch

from mlpbench.machine import sentinels
from mlpbench.machine.clock import now
from mlpbench.machine.control_workload import Control
from mlpbench.machine.environment import current

SECONDS, IDLE_S = 3.0, 1.0
STEADY_SHARE = 0.05

# Variables that slow everything down, as debugging aids do.
_SLOWING = {
    "PYTHONDEVMODE": "Python's development mode",
    "PYTHONMALLOC": "a debugging allocator",
    "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before",
    "TORCH_LOGS": "PyTorch writes logs",
    "LD_PRELOAD": "a preloaded library",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_fit: bool | None  # None: cannot be told here
    found: str
    advice: str = ""


def check(device: torch.device) -> list[Finding]:
    """Run the control workload for some seconds, idle for one, and look at the settings."""
    control = Control(device, now)
    idle = sentinels.Sentinels()
    idle.begin()
    time.sleep(IDLE_S)
    idle.end()
    alone = idle.conditions("-")
    times: list[float] = []
    meanwhile = sentinels.Sentinels(has_gpu=device.type == "cuda")
    meanwhile.begin()
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS or len(times) < 20:
        times.append(control() / 1e9)
    meanwhile.end()
    conditions = meanwhile.conditions("-")
    tenth, _, _, _, _, _, _, _, ninetieth = statistics.quantiles(times, n=10)
    spread = ninetieth / tenth - 1
    halves = [statistics.median(part) for part in (times[: len(times) // 2], times[len(times) // 2 :])]
    drift = max(halves) / min(halves) - 1
    governors = sentinels.governors()
    environment = current()
    return [
        Finding(
            what="other processes",
            is_fit=_below(alone.other_share, sentinels.BUSY_SHARE),
            found=_share(alone.other_share, "of the CPUs' time while this process was idle"),
            advice="stop what else runs; `top` shows it",
        ),
        Finding(
            what="other virtual machines",
            is_fit=_below(conditions.steal_share, sentinels.STEAL_SHARE),
            found=_share(conditions.steal_share, "of the CPUs' time was given to others by the host"),
            advice="use a machine of your own, or compare only in turns (`mlpbench ab`)",
        ),
        Finding(
            what="steady speed",
            is_fit=spread < 2 * STEADY_SHARE,
            found=f"the control workload takes {statistics.median(times) * 1e6:.0f} µs; its slowest tenth is "
            f"{spread:.0%} above its fastest",
            advice="look at the other lines for why; compare only in turns (`mlpbench ab`)",
        ),
        Finding(
            what="no drift",
            is_fit=drift < STEADY_SHARE,
            found=f"the two halves of {SECONDS:.0f} s differ by {drift:.1%}",
            advice="let the machine warm up or cool down; compare only in turns (`mlpbench ab`)",
        ),
        Finding(
            what="frequency governor",
            is_fit=governors <= {"performance"} if governors else None,
            found=", ".join(sorted(governors)) or "not told, as in most virtual machines",
            advice="`sudo cpupower frequency-set -g performance`",
        ),
        Finding(
            what="GPU clocks",
            is_fit=not conditions.gpu_throttle if conditions.gpu_clock_hz else None,
            found=", ".join(conditions.gpu_throttle) or ("not slowed" if conditions.gpu_clock_hz else "no NVML"),
            advice="lock the clocks (`nvidia-smi --lock-gpu-clocks`), cool the GPU",
        ),
        Finding(
            what="threads",
            is_fit=environment.num_threads <= environment.num_cpus,
            found=f"{environment.num_threads} threads on {environment.num_cpus} CPUs",
            advice="--set num_threads, or OMP_NUM_THREADS",
        ),
        *(
            Finding(what=name, is_fit=False, found=f"is set: {what}", advice=f"unset {name}")
            for name, what in _SLOWING.items()
            if os.environ.get(name, "0") not in ("", "0")
        ),
    ]


def _below(share: float | None, limit: float) -> bool | None:
    return None if share is None else share < limit


def _share(share: float | None, what: str) -> str:
    return "not told here" if share is None else f"{share:.1%} {what}"
