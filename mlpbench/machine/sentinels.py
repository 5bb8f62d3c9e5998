"""What the machine does beside the work that is timed. Everything is read outside the timed regions.

A block gets a flag for what happened while it ran, or in the last tenth of a second of blocks where only that can be
told (all but `waited`). A flagged block is kept, and marked wherever it is shown:

- `waited`: threads of this process were ready to run, and waited for a CPU, for more than 5 % of the block
- `busy`: other processes used more than a tenth of the CPUs
- `steal`: the host gave more than 2 % of the CPUs' time to other virtual machines
- `throttled`: the GPU ran slower than it could, for a reason such as heat or power

Linux tells all of it; elsewhere what cannot be read is None, and raises no flag.
"""

import importlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlpbench.records.kinds import Conditions

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


WAITED_SHARE = 0.05
BUSY_SHARE = 0.10
STEAL_SHARE = 0.02
WINDOW_S = 0.1  # the kernel counts the CPUs' time in ticks of 10 ms: one block is too short to count them in
_PROC = Path("/proc")

# NVML's reasons that slow the GPU down; idle, and clocks that the user has set, are not among them.
_THROTTLES = {
    "sw power cap": 0x4,
    "hw slowdown": 0x8,
    "sync boost": 0x10,
    "sw thermal": 0x20,
    "hw thermal": 0x40,
    "hw power brake": 0x80,
}

N = TypeVar("N", int, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    at_s: float
    own_s: float  # CPU time of this process
    busy_s: float | None  # CPU time of all processes
    steal_s: float | None
    waited_s: float | None  # of this process's threads, ready and without a CPU
    switches: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shares:
    """CPU time over some stretches of wall time; None where the system does not tell."""

    wall_s: float = 0.0
    other_s: float | None = 0.0
    steal_s: float | None = 0.0

    def plus(self, start: _Reading, end: _Reading) -> "_Shares":
        busy_s, steal_s = _difference(end.busy_s, start.busy_s), _difference(end.steal_s, start.steal_s)
        other_s = None if busy_s is None else busy_s - (end.own_s - start.own_s)
        return _Shares(
            wall_s=self.wall_s + end.at_s - start.at_s,
            other_s=None if self.other_s is None or other_s is None else self.other_s + other_s,
            steal_s=None if self.steal_s is None or steal_s is None else self.steal_s + steal_s,
        )

    @property
    def other(self) -> float | None:
        return self._of_all_cpus(self.other_s)

    @property
    def steal(self) -> float | None:
        return self._of_all_cpus(self.steal_s)

    def _of_all_cpus(self, seconds: float | None) -> float | None:
        available_s = self.wall_s * (os.cpu_count() or 1)
        return None if seconds is None or available_s <= 0 else min(max(seconds / available_s, 0.0), 1.0)

    def flags(self) -> set[str]:
        busy = {"busy"} if self.other is not None and self.other > BUSY_SHARE else set()
        return busy | ({"steal"} if self.steal is not None and self.steal > STEAL_SHARE else set())


class Sentinels:
    """Watches one process that measures: `begin` and `end` around each block, `conditions` when it is done."""

    def __init__(self, *, has_gpu: bool = False) -> None:
        self._nvml = _nvml() if has_gpu else None
        self._core_latency_s = core_latency()
        self._first = self._last = _read()
        self._whole = _Shares()
        self.restart()

    def restart(self) -> None:
        """Before the first block of something else: what happened earlier is not its own."""
        self._window = _Shares()
        self._flags: set[str] = set()

    def begin(self) -> None:
        """Right before a block."""
        self._last = _read()

    def end(self) -> tuple[str, ...]:
        """Right after it: its flags."""
        now = _read()
        if self._window.wall_s >= WINDOW_S:
            self._window = _Shares()
        self._window = self._window.plus(self._last, now)
        self._whole = self._whole.plus(self._last, now)
        if self._window.wall_s >= WINDOW_S:
            self._flags = self._window.flags()
            if self._nvml is not None and _gpu(self._nvml)[1]:
                self._flags.add("throttled")
        waited_s = _difference(now.waited_s, self._last.waited_s)
        has_waited = waited_s is not None and waited_s > WAITED_SHARE * (now.at_s - self._last.at_s)
        return tuple(sorted(self._flags | ({"waited"} if has_waited else set())))

    def conditions(self, session_id: str) -> Conditions:
        """The machine during the blocks; context switches since the beginning."""
        now = _read()
        clock_hz, throttle = _gpu(self._nvml) if self._nvml is not None else (None, ())
        return Conditions(
            session=session_id,
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            steal_share=self._whole.steal,
            other_share=self._whole.other,
            involuntary_switches=_difference(now.switches, self._first.switches),
            frequency_hz=frequency(),
            core_latency_s=self._core_latency_s,
            gpu_clock_hz=clock_hz,
            gpu_throttle=throttle,
        )


def _read() -> _Reading:
    busy_s, steal_s = _cpu_seconds()
    return _Reading(
        at_s=time.perf_counter(),
        own_s=time.process_time(),
        busy_s=busy_s,
        steal_s=steal_s,
        waited_s=_waited(),
        switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else None,
    )


def _cpu_seconds() -> tuple[float | None, float | None]:
    """Seconds that all CPUs together have been busy, and that the host has taken (see proc(5), /proc/stat)."""
    try:
        line = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line[1:9])
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks_per_s, steal / ticks_per_s


def _waited() -> float | None:
    """Seconds that this process's threads have waited for a CPU; the second number of each thread's schedstat."""
    total_ns = 0
    try:
        for thread in (_PROC / "self" / "task").iterdir():
            try:
                total_ns += int((thread / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                continue
    except (OSError, IndexError):
        return None
    return total_ns / 1e9


def _difference(now: N | None, before: N | None) -> N | None:
    return None if now is None or before is None else now - before


def frequency() -> float | None:
    """Hertz of the slowest CPU in use; None where the system does not tell (most virtual machines)."""
    found = []
    for cpu in _cpus():
        try:
            found.append(int(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").read_text()) * 1e3)
        except (OSError, ValueError):
            return None
    return min(found, default=None)


def governors() -> set[str]:
    """How the CPUs in use choose their frequency; empty where the system does not tell."""
    found = set()
    for cpu in _cpus():
        try:
            found.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").read_text().strip())
        except OSError:
            return set()
    return found


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


# The other end of the line: answers by setting the byte back.
_ANSWER = """
import mmap, os, sys
os.sched_setaffinity(0, {int(sys.argv[2])})
with open(sys.argv[1], "r+b") as file:
    line = mmap.mmap(file.fileno(), 4096)
line[1] = 1
for _ in range(int(sys.argv[3])):
    while line[0] == 0:
        pass
    line[0] = 0
"""


def core_latency(trips: int = 2000) -> float | None:
    """Seconds that a cache line takes from the first CPU in use to the last and back, median of five runs.

    Measured by two interpreters that spin on one byte, each bound to its CPU, so it includes the interpreter's own few
    dozen ns: good for telling near cores from far ones, and one hour from another, not for absolute figures.
    None on one CPU, and where processes cannot be bound to one.
    """
    cpus = _cpus()
    if len(cpus) < 2:
        return None
    runs = 5
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(4096)
        line = mmap.mmap(file.fileno(), 4096)
        command = [sys.executable, "-S", "-c", _ANSWER, file.name, str(cpus[-1]), str(runs * trips)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:  # noqa: S603
            # of this thread alone: the threads of a library that computes stay where they are
            os.sched_setaffinity(0, {cpus[0]})
            try:
                seconds = [_trips(line, trips, other) for _ in range(runs)]
            finally:
                os.sched_setaffinity(0, cpus)
                other.kill()
    return None if None in seconds else sorted(s for s in seconds if s is not None)[runs // 2]


def _trips(line: mmap.mmap, trips: int, other: subprocess.Popen[bytes]) -> float | None:
    """Seconds per trip; None if the other end is gone."""
    deadline = time.perf_counter() + 5.0
    while line[1] == 0:
        if other.poll() is not None or time.perf_counter() > deadline:
            return None
    start = time.perf_counter()
    for _ in range(trips):
        line[0] = 1
        while line[0] == 1:
            if time.perf_counter() > deadline:
                return None
    return (time.perf_counter() - start) / trips


def _nvml() -> Any | None:
    """NVML's first device, if nvidia-ml-py is installed (`pip install mlpbench[nvml]`) and there is a driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # noqa: BLE001 (NVML has an exception class for every way of not being there)
        return None


def _gpu(device: Any) -> tuple[float | None, tuple[str, ...]]:
    """The clock of the GPU's multiprocessors in hertz, and why it is lower than it could be."""
    nvml, handle = device
    try:
        clock_hz = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except nvml.NVMLError:
        return None, ()
    return clock_hz, tuple(name for name, bit in _THROTTLES.items() if reasons & bit)
