"""Read what else the machine does during a block, and flag disturbed blocks.

Everything is read outside the timed regions. A disturbed block stays in the records, and is marked wherever it is
shown. Linux provides all readings. On other systems a reading that is not available is None, and sets no flag.
"""

import importlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from mlpbench.records.kinds import Conditions

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class Flag(StrEnum):
    """Name the disturbances of a block.

    `waited` describes the block alone. The others describe the last tenth of a second of blocks, because the kernel
    counts too coarsely for one block.
    """

    WAITED = "waited"
    """Threads of this process were ready to run, but waited for a CPU, for more than 5 % of the block."""
    BUSY = "busy"
    """Other processes used more than 10 % of the CPUs' time."""
    STEAL = "steal"
    """The host gave more than 2 % of the CPUs' time to other virtual machines."""
    THROTTLED = "throttled"
    """The GPU ran slower than it could, for a reason such as heat or power."""


WAITED_SHARE = 0.05
BUSY_SHARE = 0.10
STEAL_SHARE = 0.02

WINDOW_S = 0.1
"""Time of blocks over which the CPUs' time is counted. The kernel counts in ticks of 10 ms: too coarse for a block."""

_PROC = Path("/proc")

# NVML's names of the reasons that slow the GPU down. Idleness and clocks that the user has set are not among them.
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
    """Hold the counters of the system at one moment. None: not available here."""

    at_s: float
    own_s: float
    """CPU time of this process."""
    busy_s: float | None
    """CPU time of all processes."""
    steal_s: float | None
    """CPU time that the host gave to other virtual machines."""
    waited_s: float | None
    """Time that the threads of this process were ready to run, but had no CPU."""
    switches: int | None
    """Involuntary context switches of this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _CpuTime:
    """Hold the CPU time within some intervals of wall time. None: not available here."""

    wall_s: float = 0.0
    other_s: float | None = 0.0
    """CPU time of other processes."""
    steal_s: float | None = 0.0
    """CPU time that the host gave to other virtual machines."""

    def plus(self, start: _Reading, end: _Reading) -> "_CpuTime":
        """Return the sum with one more interval."""
        busy_s, steal_s = _difference(end.busy_s, start.busy_s), _difference(end.steal_s, start.steal_s)
        other_s = None if busy_s is None else busy_s - (end.own_s - start.own_s)
        return _CpuTime(
            wall_s=self.wall_s + end.at_s - start.at_s,
            other_s=None if self.other_s is None or other_s is None else self.other_s + other_s,
            steal_s=None if self.steal_s is None or steal_s is None else self.steal_s + steal_s,
        )

    @property
    def other_share(self) -> float | None:
        """Return the share of all CPUs' time that other processes used."""
        return self._share(self.other_s)

    @property
    def steal_share(self) -> float | None:
        """Return the share of all CPUs' time that the host gave to other virtual machines."""
        return self._share(self.steal_s)

    def _share(self, seconds: float | None) -> float | None:
        available_s = self.wall_s * (os.cpu_count() or 1)
        return None if seconds is None or available_s <= 0 else min(max(seconds / available_s, 0.0), 1.0)

    def flags(self) -> set[Flag]:
        """Return the flags for these shares."""
        shares = ((Flag.BUSY, self.other_share, BUSY_SHARE), (Flag.STEAL, self.steal_share, STEAL_SHARE))
        return {flag for flag, share, limit in shares if share is not None and share > limit}


class Gpu(NamedTuple):
    """Hold NVML and its handle of a GPU."""

    nvml: Any
    handle: Any


class Sentinels:
    """Watch a process that measures: `begin` and `end` around each block, `conditions` after the last block."""

    def __init__(self, *, core_latency_s: float | None, gpu: Gpu | None) -> None:
        self._core_latency_s = core_latency_s
        self._gpu = gpu
        self._first_reading = self._start_reading = _read()
        self._total = _CpuTime()
        self.restart()

    @classmethod
    def start(cls, *, has_gpu: bool = False) -> Self:
        """Measure the core latency, which starts a second process, connect to NVML for a GPU, and take a reading."""
        return cls(core_latency_s=core_latency(), gpu=_first_gpu() if has_gpu else None)

    def restart(self) -> None:
        """Forget earlier blocks; call this before the first block of another benchmark."""
        self._window = _CpuTime()
        self._window_flags: set[Flag] = set()

    def begin(self) -> None:
        """Take a reading right before a block."""
        self._start_reading = _read()

    def end(self) -> tuple[str, ...]:
        """Take a reading right after the block, and return the values of its flags, in the order of the alphabet."""
        start, end = self._start_reading, _read()
        if self._window.wall_s >= WINDOW_S:
            self._window = _CpuTime()
        self._window = self._window.plus(start, end)
        self._total = self._total.plus(start, end)
        if self._window.wall_s >= WINDOW_S:
            self._window_flags = self._window.flags()
            if self._gpu is not None and _gpu_clock(self._gpu)[1]:
                self._window_flags.add(Flag.THROTTLED)
        waited_s = _difference(end.waited_s, start.waited_s)
        has_waited = waited_s is not None and waited_s > WAITED_SHARE * (end.at_s - start.at_s)
        return tuple(sorted(map(str, self._window_flags | ({Flag.WAITED} if has_waited else set()))))

    def conditions(self, session_id: str) -> Conditions:
        """Return the conditions during the blocks. Context switches are counted from the start of the sentinels."""
        clock_hz, throttle = _gpu_clock(self._gpu) if self._gpu is not None else (None, ())
        return Conditions(
            session=session_id,
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            steal_share=self._total.steal_share,
            other_share=self._total.other_share,
            involuntary_switches=_difference(_read().switches, self._first_reading.switches),
            frequency_hz=frequency(),
            core_latency_s=self._core_latency_s,
            gpu_clock_hz=clock_hz,
            gpu_throttle=throttle,
        )


def _read() -> _Reading:
    """Read all counters now."""
    busy_s, steal_s = _cpu_seconds()
    return _Reading(
        at_s=time.perf_counter(),
        own_s=time.process_time(),
        busy_s=busy_s,
        steal_s=steal_s,
        waited_s=_waited_s(),
        switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else None,
    )


def _cpu_seconds() -> tuple[float | None, float | None]:
    """Return the busy seconds of all CPUs together, and the seconds that the host took (see proc(5), /proc/stat)."""
    try:
        line = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line[1:9])
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks_per_s, steal / ticks_per_s


def _waited_s() -> float | None:
    """Return the seconds for which the threads of this process waited for a CPU.

    It is the sum over the second number of each thread's `schedstat`.
    """
    total_ns = 0
    try:
        for thread in (_PROC / "self" / "task").iterdir():
            try:
                total_ns += int((thread / "schedstat").read_text().split()[1])
            # The thread has just ended.
            except (FileNotFoundError, ProcessLookupError):
                continue
    except (OSError, IndexError):
        return None
    return total_ns / 1e9


def _difference(end: N | None, start: N | None) -> N | None:
    return None if end is None or start is None else end - start


def frequency() -> float | None:
    """Return the frequency of the slowest CPU in use, in hertz; None if not available (most virtual machines)."""
    try:
        return min((_frequency(cpu) for cpu in _cpus()), default=None)
    except (OSError, ValueError):
        return None


def _frequency(cpu: int) -> float:
    return int(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").read_text()) * 1e3


def governors() -> set[str]:
    """Return the frequency governors of the CPUs in use; empty if not available."""
    names = set()
    for cpu in _cpus():
        try:
            names.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").read_text().strip())
        except OSError:
            return set()
    return names


def _cpus() -> list[int]:
    """Return the CPUs that this process may use; empty if the system cannot bind a process to a CPU."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


# The program of the second process: it answers by setting the byte back to 0.
_ANSWER = """
import mmap, os, signal, sys
# If the first process is killed, nobody answers any more, and nobody else ends this one.
signal.alarm(8)
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
    """Return the seconds that a cache line takes from the first CPU in use to the last and back.

    Two interpreters, each bound to its CPU, spin on one byte; the result is the median of five runs. It includes a few
    dozen nanoseconds of the interpreter. So it tells near cores from far ones, and shows a change from hour to hour,
    but it is no absolute figure. None with one CPU, if the system cannot bind a process to a CPU, or if there is no
    room for a temporary file.
    """
    cpus = _cpus()
    if len(cpus) < 2:
        return None
    try:
        return _core_latency(cpus, trips)
    except OSError:
        return None


def _core_latency(cpus: list[int], trips: int) -> float | None:
    runs = 5
    with tempfile.NamedTemporaryFile() as file:
        # Without reserved room, a full disk would end the process at its first write to the mapped file.
        os.posix_fallocate(file.fileno(), 0, 4096)
        line = mmap.mmap(file.fileno(), 4096)
        command = [sys.executable, "-S", "-c", _ANSWER, file.name, str(cpus[-1]), str(runs * trips)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:  # noqa: S603
            # This binds the current thread only. The threads of libraries that compute stay where they are.
            os.sched_setaffinity(0, {cpus[0]})
            try:
                seconds = [_trips(line, trips, other) for _ in range(runs)]
            finally:
                os.sched_setaffinity(0, cpus)
                other.kill()
    return None if None in seconds else sorted(s for s in seconds if s is not None)[runs // 2]


def _trips(line: mmap.mmap, trips: int, other: subprocess.Popen[bytes]) -> float | None:
    """Return the seconds of one trip; None if the other process has ended or does not answer."""
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


def _first_gpu() -> Gpu | None:
    """Return the first GPU of NVML; None without nvidia-ml-py (`pip install mlpbench[nvml]`) or without a driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(0))
    except Exception:  # noqa: BLE001 (NVML has an exception class for every reason why it is not available)
        return None


def _gpu_clock(gpu: Gpu) -> tuple[float | None, tuple[str, ...]]:
    """Return the clock of the GPU's multiprocessors in hertz, and the reasons why it is lower than it could be."""
    nvml, handle = gpu
    try:
        clock_hz = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except nvml.NVMLError:
        return None, ()
    return clock_hz, tuple(name for name, bit in _THROTTLES.items() if reasons & bit)
