"""Test that the sentinels read what else the machine does, from the files of Linux."""

import sys
import time
from pathlib import Path

import pytest

from mlpbench.machine import sentinels
from mlpbench.machine.sentinels import Flag, Sentinels

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Give a test its own /proc, two CPUs, and a function that advances the counters by seconds.

    `tick(wall, own, busy, steal, waited)`
    """
    (tmp_path / "self" / "task" / "1").mkdir(parents=True)
    counters = dict.fromkeys(("wall", "own", "busy", "steal", "waited"), 0.0)

    def tick(**seconds: float) -> None:
        for name, value in seconds.items():
            counters[name] += value
        ticks = [round(counters["busy"] * 100), 0, 0, 10**6, 0, 0, 0, round(counters["steal"] * 100), 0, 0]
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 0\n")
        (tmp_path / "self" / "task" / "1" / "schedstat").write_text(f"1 {round(counters['waited'] * 1e9)} 1\n")

    monkeypatch.setattr(sentinels, "_PROC", tmp_path)
    monkeypatch.setattr(sentinels.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sentinels, "core_latency", lambda: None)
    monkeypatch.setattr(sentinels.os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(sentinels.time, "perf_counter", lambda: counters["wall"])
    monkeypatch.setattr(sentinels.time, "process_time", lambda: counters["own"])
    tick()
    return tick


def flags_of(proc, blocks: int = 1, **seconds: float) -> tuple[str, ...]:
    """Return the flags of the last of some equal blocks."""
    watch = Sentinels.start(has_gpu=True)
    for _ in range(blocks):
        watch.begin()
        proc(**seconds)
        flags = watch.end()
    return flags


def test_flags_are_plain_text_for_the_records(proc):
    assert {str(flag) for flag in Flag} == {"waited", "busy", "steal", "throttled"}
    assert [type(flag) for flag in flags_of(proc, wall=0.3, busy=0.6, waited=0.1)] == [str, str]


def test_quiet_machine_sets_no_flag(proc):
    assert flags_of(proc, wall=0.3, own=0.6, busy=0.6) == ()


@pytest.mark.parametrize(("busy", "expected"), [(0.65, ()), (0.7, ("busy",))])
def test_other_processes_set_busy(proc, busy, expected):
    assert flags_of(proc, wall=0.3, own=0.6, busy=busy) == expected


@pytest.mark.parametrize(("steal", "expected"), [(0.01, ()), (0.02, ("steal",))])
def test_time_of_other_virtual_machines_sets_steal(proc, steal, expected):
    assert flags_of(proc, wall=0.3, own=0.5, busy=0.5, steal=steal) == expected


@pytest.mark.parametrize(("waited", "expected"), [(0.0009, ()), (0.0011, ("waited",))])
def test_threads_without_a_cpu_set_waited_in_a_single_block(proc, waited, expected):
    assert flags_of(proc, wall=0.02, own=0.04, busy=0.04, waited=waited) == expected


def test_ticks_are_counted_over_several_blocks(proc):
    assert flags_of(proc, blocks=4, wall=0.02, own=0.02, busy=0.04) == ()
    assert flags_of(proc, blocks=6, wall=0.02, own=0.02, busy=0.04) == ("busy",)


def test_restart_forgets_earlier_blocks(proc):
    watch = Sentinels.start()
    watch.begin()
    proc(wall=0.2, busy=0.4)
    assert watch.end() == ("busy",)
    watch.restart()
    watch.begin()
    proc(wall=0.02, own=0.04, busy=0.04)
    assert watch.end() == ()


def test_time_between_blocks_sets_no_flag(proc):
    watch = Sentinels.start()
    for _ in range(20):
        proc(wall=0.1, busy=0.2)
        watch.begin()
        proc(wall=0.02, own=0.04, busy=0.04)
        assert watch.end() == ()


def test_conditions_describe_all_blocks_without_the_time_between(proc):
    watch = Sentinels.start()
    for _ in range(2):
        proc(wall=1.0, busy=2.0)
        watch.begin()
        proc(wall=0.5, own=0.25, busy=0.5, steal=0.05)
        watch.end()
    conditions = watch.conditions("s")
    assert conditions.session == "s"
    assert conditions.other_share == pytest.approx(0.25)
    assert conditions.steal_share == pytest.approx(0.05)


def test_system_without_proc_sets_no_flag(proc, monkeypatch, tmp_path):
    monkeypatch.setattr(sentinels, "_PROC", tmp_path / "absent")
    assert flags_of(proc, wall=0.3, own=0.1, busy=0.6, waited=0.3) == ()
    conditions = Sentinels.start().conditions("s")
    assert (conditions.other_share, conditions.steal_share) == (None, None)


@linux
def test_real_neighbour_process_sets_busy():
    import subprocess

    watch = Sentinels.start()
    spin = "import time\nend = time.time() + 5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as neighbour:
        time.sleep(0.1)
        watch.begin()
        time.sleep(0.5)
        flags = watch.end()
        neighbour.kill()
    assert "busy" in flags
    assert watch.conditions("s").other_share > 0.1


@linux
def test_core_latency_is_a_time_or_none():
    import os

    before = os.sched_getaffinity(0)
    latency_s = sentinels.core_latency(trips=200)
    assert os.sched_getaffinity(0) == before
    if len(before) < 2:
        assert latency_s is None
    else:
        assert latency_s is None or 0 < latency_s < 0.01


def test_core_latency_is_none_if_the_other_process_ends(monkeypatch):
    monkeypatch.setattr(sentinels, "_cpus", lambda: [0, 0])
    monkeypatch.setattr(sentinels, "_ANSWER", "raise SystemExit(1)")
    assert sentinels.core_latency(trips=10) is None


class FakeNvml:
    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    reasons = 0

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, _: int) -> str:  # noqa: N802
        return "gpu"

    def nvmlDeviceGetClockInfo(self, handle: str, _: int) -> int:  # noqa: N802
        assert handle == "gpu"
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:  # noqa: N802
        return self.reasons


@pytest.mark.parametrize(
    ("reasons", "names"), [(0, ()), (0x1, ()), (0x4, ("sw power cap",)), (0x48, ("hw slowdown", "hw thermal"))]
)
def test_slower_gpu_sets_throttled_and_has_reasons(proc, monkeypatch, reasons, names):
    fake = FakeNvml()
    fake.reasons = reasons
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert flags_of(proc, wall=0.3, own=0.6, busy=0.6) == (("throttled",) if names else ())
    conditions = Sentinels.start(has_gpu=True).conditions("s")
    assert conditions.gpu_clock_hz == 1.98e9
    assert conditions.gpu_throttle == names


def test_governors_and_frequency_are_empty_if_not_available(monkeypatch, tmp_path):
    monkeypatch.setattr(sentinels, "_cpus", lambda: [0])
    monkeypatch.setattr(sentinels, "Path", lambda path: tmp_path / Path(path).name)
    assert sentinels.governors() == set()
    assert sentinels.frequency() is None
    (tmp_path / "scaling_governor").write_text("powersave\n")
    (tmp_path / "scaling_cur_freq").write_text("2500000\n")
    assert sentinels.governors() == {"powersave"}
    assert sentinels.frequency() == 2.5e9
