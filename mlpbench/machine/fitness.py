"""Check whether this machine is fit to time on: measure for some seconds, and report what would spoil a time.

The verb `check` prints these findings.
"""

import os
import statistics
import time
from dataclasses import dataclass

import torch

from mlpbench.machine.clock import now
from mlpbench.machine.control_workload import Control
from mlpbench.machine.environment import current
from mlpbench.machine.sentinels import BUSY_SHARE, STEAL_SHARE, Sentinels, governors
from mlpbench.records.kinds import Conditions

SECONDS = 3.0
"""How long the control workload runs."""

IDLE_S = 1.0
"""How long this process is idle, to see the other processes."""

STEADY_SHARE = 0.05
"""The largest drift of a steady machine. The spread from tenth to tenth may be twice as large."""

# Variables that make everything slower, as debugging aids do, and the reason.
_SLOW_VARIABLES = {
    "PYTHONDEVMODE": "Python's development mode",
    "PYTHONMALLOC": "a debugging allocator",
    "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before",
    "TORCH_LOGS": "PyTorch writes logs",
    "LD_PRELOAD": "a preloaded library",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Hold the result of one check."""

    name: str
    """The property of the machine that was checked."""
    is_fit: bool | None
    """None: cannot be checked here."""
    observation: str
    advice: str = ""
    """The remedy, if the machine is not fit."""


def check(device: torch.device) -> list[Finding]:
    """Watch the machine idle and under the control workload, and read its settings."""
    control = Control(device, now)
    idle = Sentinels.start()
    idle.begin()
    time.sleep(IDLE_S)
    idle.end()
    other_share = idle.conditions("-").other_share
    times_s: list[float] = []
    busy = Sentinels.start(has_gpu=device.type == "cuda")
    busy.begin()
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS or len(times_s) < 20:
        times_s.append(control() / 1e9)
    busy.end()
    conditions = busy.conditions("-")
    return [
        Finding(
            name="other processes",
            is_fit=_is_below(other_share, BUSY_SHARE),
            observation=_share_text(other_share, "of the CPUs' time while this process was idle"),
            advice="stop other programs; `top` lists them",
        ),
        Finding(
            name="other virtual machines",
            is_fit=_is_below(conditions.steal_share, STEAL_SHARE),
            observation=_share_text(conditions.steal_share, "of the CPUs' time went to other virtual machines"),
            advice="use a machine that you share with nobody, or compare interleaved only (`mlpbench ab`)",
        ),
        *_speed_findings(times_s),
        *_setting_findings(conditions),
    ]


def _speed_findings(times_s: list[float]) -> list[Finding]:
    """Judge the times of the control workload, in the order in which they were measured."""
    tenth, *_, ninetieth = statistics.quantiles(times_s, n=10)
    spread = ninetieth / tenth - 1
    middle = len(times_s) // 2
    medians = [statistics.median(part) for part in (times_s[:middle], times_s[middle:])]
    drift = max(medians) / min(medians) - 1
    return [
        Finding(
            name="steady speed",
            is_fit=spread < 2 * STEADY_SHARE,
            observation=f"the control workload takes {statistics.median(times_s) * 1e6:.0f} µs; "
            f"its slowest tenth takes {spread:.0%} longer than its fastest tenth",
            advice="the other findings may show the cause; compare interleaved only (`mlpbench ab`)",
        ),
        Finding(
            name="no drift",
            is_fit=drift < STEADY_SHARE,
            observation=f"first and second half of {SECONDS:.0f} s differ by {drift:.1%}",
            advice="let the machine warm up or cool down; compare interleaved only (`mlpbench ab`)",
        ),
    ]


def _setting_findings(conditions: Conditions) -> list[Finding]:
    """Judge the settings of the CPUs, the GPU and the process."""
    names = governors()
    clock_text = "not slowed down" if conditions.gpu_clock_hz else "not available (needs a GPU and nvidia-ml-py)"
    stack = current().stack
    return [
        Finding(
            name="frequency governor",
            is_fit=names <= {"performance"} if names else None,
            observation=", ".join(sorted(names)) or "not available (common in virtual machines)",
            advice="`sudo cpupower frequency-set -g performance`",
        ),
        Finding(
            name="GPU clocks",
            is_fit=not conditions.gpu_throttle if conditions.gpu_clock_hz else None,
            observation=", ".join(conditions.gpu_throttle) or clock_text,
            advice="lock the clocks (`nvidia-smi --lock-gpu-clocks`), cool the GPU",
        ),
        Finding(
            name="threads",
            is_fit=stack.num_threads <= stack.num_allowed_cpus,
            observation=f"{stack.num_threads} threads on {stack.num_allowed_cpus} CPUs",
            advice="use fewer threads: --set num_threads=N or the variable OMP_NUM_THREADS",
        ),
        *(
            Finding(name=name, is_fit=False, observation=f"is set: {reason}", advice=f"unset {name}")
            for name, reason in _SLOW_VARIABLES.items()
            if os.environ.get(name, "0") not in ("", "0")
        ),
    ]


def _is_below(share: float | None, limit: float) -> bool | None:
    return None if share is None else share < limit


def _share_text(share: float | None, meaning: str) -> str:
    return "not available here" if share is None else f"{share:.1%} {meaning}"
