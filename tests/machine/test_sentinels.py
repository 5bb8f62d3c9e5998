"""Sentinels: what the machine does meanwhile, read from the files that Linux keeps."""

import sys
import time
from pathlib import Path

import pytest

from mlpbench.machine import sentinels
from mlpbench.machine.sentinels import Sentinels

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc that tests write, two CPUs, and a clock that tests move: `tick(wall, own, busy, steal, waited)`."""
    (tmp_path / "self" / "task" / "1").mkdir(parents=True)
    at = dict.fromkeys(("wall", "own", "busy", "steal", "waited"), 0.0)

    def tick(**seconds: float) -> None:
        for name, value in seconds.items():
            at[name] += value
        ticks = [round(at["busy"] * 100), 0, 0, 10**6, 0, 0, 0, round(at["steal"] * 100), 0, 0]
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 0\n")
        (tmp_path / "self" / "task" / "1" / "schedstat").write_text(f"1 {round(at['waited'] * 1e9)} 1\n")

    monkeypatch.setattr(sentinels, "_PROC", tmp_path)
    monkeypatch.setattr(sentinels.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sentinels, "core_latency", lambda: None)
    monkeypatch.setattr(sentinels.os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(sentinels.time, "perf_counter", lambda: at["wall"])
    monkeypatch.setattr(sentinels.time, "process_time", lambda: at["own"])
    tick()
    return tick


def flags_of(proc, blocks: int = 1, **seconds: float) -> tuple[str, ...]:
    watch = Sentinels(has_gpu=True)
    for _ in range(blocks):
        watch.begin()
        proc(**seconds)
        found = watch.end()
    return found


def test_a_quiet_machine_raises_no_flag(proc):
    assert flags_of(proc, wall=0.3, own=0.6, busy=0.6) == ()


@pytest.mark.parametrize(("busy", "expected"), [(0.65, ()), (0.7, ("busy",))])
def test_other_processes_are_seen_beside_our_own(proc, busy, expected):
    assert flags_of(proc, wall=0.3, own=0.6, busy=busy) == expected


@pytest.mark.parametrize(("steal", "expected"), [(0.01, ()), (0.02, ("steal",))])
def test_time_that_the_host_takes_is_seen(proc, steal, expected):
    assert flags_of(proc, wall=0.3, own=0.5, busy=0.5, steal=steal) == expected


@pytest.mark.parametrize(("waited", "expected"), [(0.0009, ()), (0.0011, ("waited",))])
def test_threads_that_wait_for_a_cpu_are_seen_in_a_single_block(proc, waited, expected):
    assert flags_of(proc, wall=0.02, own=0.04, busy=0.04, waited=waited) == expected


def test_ticks_are_gathered_over_blocks_before_they_mean_anything(proc):
    assert flags_of(proc, blocks=4, wall=0.02, own=0.02, busy=0.04) == ()
    assert flags_of(proc, blocks=6, wall=0.02, own=0.02, busy=0.04) == ("busy",)


def test_what_happened_to_something_else_is_not_told_of_what_follows(proc):
    watch = Sentinels()
    watch.begin()
    proc(wall=0.2, busy=0.4)
    assert watch.end() == ("busy",)
    watch.restart()
    watch.begin()
    proc(wall=0.02, own=0.04, busy=0.04)
    assert watch.end() == ()


def test_what_happens_between_blocks_is_not_the_blocks(proc):
    watch = Sentinels()
    for _ in range(20):
        proc(wall=0.1, busy=0.2)
        watch.begin()
        proc(wall=0.02, own=0.04, busy=0.04)
        assert watch.end() == ()


def test_conditions_are_of_all_blocks_and_of_nothing_between_them(proc):
    watch = Sentinels()
    for _ in range(2):
        proc(wall=1.0, busy=2.0)
        watch.begin()
        proc(wall=0.5, own=0.25, busy=0.5, steal=0.05)
        watch.end()
    conditions = watch.conditions("s")
    assert conditions.session == "s"
    assert conditions.other_share == pytest.approx(0.25)
    assert conditions.steal_share == pytest.approx(0.05)


def test_a_system_that_tells_nothing_raises_no_flag(proc, monkeypatch, tmp_path):
    monkeypatch.setattr(sentinels, "_PROC", tmp_path / "absent")
    assert flags_of(proc, wall=0.3, own=0.1, busy=0.6, waited=0.3) == ()
    conditions = Sentinels().conditions("s")
    assert (conditions.other_share, conditions.steal_share) == (None, None)


@linux
def test_a_real_neighbour_is_told_from_our_own_work():
    import subprocess

    watch = Sentinels()
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
def test_core_latency_is_a_time_or_unknown():
    import os

    before = os.sched_getaffinity(0)
    latency_s = sentinels.core_latency(trips=200)
    assert os.sched_getaffinity(0) == before
    if len(before) < 2:
        assert latency_s is None
    else:
        assert latency_s is None or 0 < latency_s < 0.01


def test_core_latency_gives_up_when_the_other_end_is_gone(monkeypatch):
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
    ("reasons", "named"), [(0, ()), (0x1, ()), (0x4, ("sw power cap",)), (0x48, ("hw slowdown", "hw thermal"))]
)
def test_a_gpu_that_is_slowed_is_flagged_with_its_reasons(proc, monkeypatch, reasons, named):
    fake = FakeNvml()
    fake.reasons = reasons
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert flags_of(proc, wall=0.3, own=0.6, busy=0.6) == (("throttled",) if named else ())
    conditions = Sentinels(has_gpu=True).conditions("s")
    assert conditions.gpu_clock_hz == 1.98e9
    assert conditions.gpu_throttle == named


def test_governors_are_read_where_there_are_any(monkeypatch, tmp_path):
    monkeypatch.setattr(sentinels, "_cpus", lambda: [0])
    monkeypatch.setattr(sentinels, "Path", lambda path: tmp_path / Path(path).name)
    assert sentinels.governors() == set()
    assert sentinels.frequency() is None
    (tmp_path / "scaling_governor").write_text("powersave\n")
    (tmp_path / "scaling_cur_freq").write_text("2500000\n")
    assert sentinels.governors() == {"powersave"}
    assert sentinels.frequency() == 2.5e9
