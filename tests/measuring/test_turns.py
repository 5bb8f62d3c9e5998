"""Plans of fresh processes: their order, what a cut leaves, what resuming adds; then with real processes."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.evidence import sides
from mlpbench.measuring import turns
from mlpbench.measuring.side import Side, parse_side
from mlpbench.measuring.worker import rest
from mlpbench.records import store
from mlpbench.records.kinds import Ending, Measurement, Session
from tests.paths import ROOT
from tests.strategies import ENVIRONMENT, blocks, measurement, plan, results, session

AB = ["ab", "forward", "--rounds", "2", "--set", "batch_size=10"]


# --- sides ------------------------------------------------------------------------------------------------------------


def test_a_side_is_settings_variables_interpreter_and_commit(monkeypatch):
    monkeypatch.setattr("mlpbench.measuring.side._git", lambda *arguments: f"hash of {arguments[-1]}")
    settings = ["lr=0.1", "env:OMP_NUM_THREADS=1", "python=/opt/python", "commit=HEAD~1", "env:X=a=b"]
    side = parse_side(settings, RunConfig())
    assert side.settings == ("lr=0.1",)
    assert side.variables == {"OMP_NUM_THREADS": "1", "X": "a=b"}
    assert (side.interpreter, side.commit) == ("/opt/python", "hash of HEAD~1^{commit}")


def test_a_side_goes_on_top_of_the_settings_of_both():
    base = RunConfig(activations=("relu",))
    side = parse_side(["hidden_sizes=512,512"], base)
    assert side.settings == ("hidden_sizes=512,512",)
    log, _ = run(plan(config=base, pairs=1), side=side)
    assert log[0].startswith("start")
    assert FakeProcess.job_of_last["settings"] == ["hidden_sizes=512,512", "activations=relu,relu"]


def test_no_path_gets_into_the_record():
    side = parse_side(["env:LD_PRELOAD=/usr/lib/libjemalloc.so", "python=/home/me/bin/python"], RunConfig())
    assert side.labels == ("env:LD_PRELOAD=(a path)", "python=(a path)")


@pytest.mark.parametrize("setting", ["lr", "=3", "unknown=1", "lr=fast", "batch_size=0"])
def test_a_side_that_cannot_be_is_refused(setting):
    with pytest.raises(InputError):
        parse_side([setting], RunConfig())


# --- order ------------------------------------------------------------------------------------------------------------


class FakeProcess:
    """A process that records what it is told at once."""

    log: list[str]
    count = itertools.count()
    job_of_last: dict

    def __init__(self, side, source, job, emit):
        self.side, self.job, self.emit = side, job, emit
        name = f"p{job['process']}-{next(FakeProcess.count)}"
        self.session = session(name, run=job["run"], process=job["process"], side=job["side"])
        FakeProcess.job_of_last = job
        FakeProcess.log.append(f"start {job['side']}{job['process']}")

    @classmethod
    def start(cls, *arguments):
        return cls(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        self.emit(self.session)

    def ask(self, name, *arguments):
        FakeProcess.log.append(f"{name} {self.job['side']}" + "".join(f" {a}" for a in arguments))
        operations = self.job["operations"]
        if name == "warm":
            for index, operation in enumerate(operations):
                m = f"{self.session.id}-{index}"
                self.emit(
                    measurement(m, session=self.session.id, operation=operation, suite="ab", rounds=self.job["rounds"])
                )
        if name == "block":
            index, round_index, _ = arguments
            self.emit(*blocks(f"{self.session.id}-{index}", {round_index: 1.0}))


def run(wanted, done=None, stop_after=None, emit=None, side=None):
    """Run a plan with fake processes; its log and records."""
    FakeProcess.log = []
    found = results(wanted)
    side = side or Side()

    def on_pair(count):
        return f"stopped after {count}" if count == stop_after else None

    turns.run_plan(
        wanted, {"a": side, "b": side}, done or {}, emit or found.add, preset="ab", warm_up_s=0, on_pair=on_pair
    )
    return FakeProcess.log, found


@pytest.fixture(autouse=True)
def fake(request, monkeypatch):
    if "real" not in request.keywords:
        monkeypatch.setattr("mlpbench.measuring.turns.WorkerProcess", FakeProcess)


@pytest.mark.parametrize(("first", "turns"), [("a", "abbaab"), ("b", "baabba")])
def test_turns_are_abba_from_the_side_that_was_drawn(first, turns):
    log, _ = run(plan(pairs=1, rounds=3, first=first))
    assert "".join(line.split()[1] for line in log if line.startswith("block")) == turns


@pytest.mark.parametrize(("first", "starts"), [("a", ["a0", "b1", "b2", "a3"]), ("b", ["b0", "a1", "a2", "b3"])])
def test_pairs_are_abba_too(first, starts):
    log, _ = run(plan(pairs=2, first=first))
    assert [line.split()[1] for line in log if line.startswith("start")] == starts


def test_both_are_warm_before_the_first_block_and_one_is_warmed_up_at_a_time():
    log, _ = run(plan(pairs=1))
    names = [line.split()[0] for line in log]
    assert names == ["start", "start", "warm", "warm", *["block"] * 4, "end", "end"]


def test_every_operation_is_timed_in_every_round():
    log, found = run(plan(pairs=1, rounds=2, operations=("forward", "epoch")))
    assert sum(line.startswith("block") for line in log) == 8
    assert len(found.blocks) == 8


def test_blocked_measures_one_side_whole_and_then_the_other():
    log, found = run(plan(pairs=3, rounds=2, interleaved=False, first="b"))
    turns = "".join(line.split()[1] for line in log if line.startswith("block"))
    assert turns == "bbbbbbaaaaaa"
    assert sorted(s.process for s in found.sessions.values()) == list(range(6))


def test_the_first_side_is_drawn():
    def draw():
        return turns.make_plan(
            Side(), Side(), command="", operations=["forward"], config=RunConfig(), pairs=1,
            rounds=1, interleaved=True,
        ).first  # fmt: skip

    assert {draw() for _ in range(40)} == {"a", "b"}


def test_why_it_stopped_is_recorded():
    assert run(plan(pairs=3))[1].endings["r"] == Ending(plan="r", reason="all 3 pairs measured")
    log, found = run(plan(pairs=3), stop_after=2)
    assert found.endings["r"].reason == "stopped after 2"
    assert sum(line.startswith("start") for line in log) == 4


# --- cut and resumed --------------------------------------------------------------------------------------------------


class CutError(Exception):
    pass


@given(st.integers(0, 60), st.sampled_from([True, False]), st.sampled_from(["a", "b"]))
def test_a_plan_that_was_cut_anywhere_resumes_to_the_same_design_without_a_duplicate(cut, interleaved, first):
    wanted = plan(pairs=3, rounds=2, interleaved=interleaved, first=first, operations=("forward", "backward"))
    written = []

    def emit(record):
        if len(written) >= cut:
            raise CutError
        written.append(record)

    try:
        run(wanted, emit=emit)
    except CutError:
        before = results(wanted, written)
        assert turns.same_design(before, replace(wanted, id="other")) == wanted
        done = turns.finished(before, wanted)
        run(wanted, done=done, emit=before.add)
    else:
        before = results(wanted, written)
    whole = turns.finished(before, wanted)
    assert sorted(whole) == list(range(6))
    for process, found in whole.items():
        order = [one + other for one, other in itertools.islice(turns.orders(first), 3)]
        expected = (
            order[process // 2][process % 2] if interleaved else first if process % 2 == 0 else "ab"[first == "a"]
        )
        assert found.side == expected
    for identity_samples in sides(before, wanted):
        assert {len(s.processes) for s in identity_samples.values()} == {3}
        assert all(p.num_blocks == 2 for s in identity_samples.values() for p in s.processes.values())


def test_verdicts_are_not_read_again_for_pairs_that_were_there_before_the_cut():
    wanted = plan(pairs=3)
    _, found = run(wanted)
    done = {place: s for place, s in turns.finished(found, wanted).items() if place < 4}
    _, again = run(wanted, done=done, stop_after=2)
    assert again.endings["r"].reason == "all 3 pairs measured"


def test_only_the_same_design_is_resumed():
    old = plan()
    found = results(old)
    assert turns.same_design(found, replace(old, id="new")) == old
    for change in ({"pairs": 4}, {"rounds": 3}, {"b": ("lr=1",)}, {"config": RunConfig(seed=1)}):
        assert turns.same_design(found, replace(old, id="new", **change)) is None


# --- real processes ---------------------------------------------------------------------------------------------------


def workers() -> int:
    """Worker processes that are there, of whoever; 0 where that cannot be read."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += b"mlpbench.measuring.worker" in path.read_bytes()
    return found


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*-ab-*.jsonl")
    return path


@pytest.mark.real
def test_ab_measures_two_settings_in_fresh_processes(tmp_path, capsys):
    code = main(
        [
            *AB,
            "--a",
            "hidden_sizes=8,8,8",
            "--b",
            "hidden_sizes=1024,1024,1024",
            "--pairs",
            "2",
            "--results",
            str(tmp_path),
        ]
    )
    printed = capsys.readouterr().out
    found = store.load([only_file(tmp_path)])
    assert code in (0, 1)  # which one is the machine's to say
    assert "ab/forward" in printed
    assert [s.side for s in sorted(found.sessions.values(), key=lambda s: s.process)] in (list("abba"), list("baab"))
    assert len({s.run for s in found.sessions.values()}) == 1
    assert {m.rounds for m in found.measurements.values()} == {2}
    assert len(found.blocks) == 8
    assert all(block.control_ns for block in found.blocks)
    assert len(found.conditions) == 4
    assert found.peaks
    assert found.problems == []


@pytest.mark.real
def test_aa_stores_the_noise_floor_of_this_machine(tmp_path, capsys):
    assert main(["aa", *AB[1:], "--pairs", "5", "--results", str(tmp_path)]) == 0
    (noise,) = store.load([only_file(tmp_path)]).noises
    assert noise.operation == "forward"
    assert (noise.processes, noise.comparisons) == (5, 1)
    assert "differ by at most" in capsys.readouterr().out


def test_a_floor_from_too_few_processes_is_not_stored(tmp_path, capsys):
    assert main(["aa", "--pairs", "4", "--results", str(tmp_path)]) == 2
    assert "at least 5 pairs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_a_side_of_variables_runs_under_them(tmp_path):
    main([*AB, "--b", "env:OMP_NUM_THREADS=1", "--pairs", "1", "--results", str(tmp_path)])
    found = store.load([only_file(tmp_path)])
    variables = {s.side: dict(s.environment.variables).get("OMP_NUM_THREADS") for s in found.sessions.values()}
    assert variables["b"] == "1"
    assert variables["a"] == os.environ.get("OMP_NUM_THREADS")


@pytest.mark.real
def test_a_side_that_is_a_commit_runs_its_source(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    cloned = subprocess.run([*git, "clone", "-q", str(ROOT), "clone"], cwd=tmp_path, check=False)
    if cloned.returncode or not (tmp_path / "clone" / "mlpbench" / "worker.py").exists():
        pytest.skip("needs a git checkout with these sources committed")
    clone = tmp_path / "clone"
    version = clone / "mlpbench" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    subprocess.run([*git, "commit", "-qam", "another version"], cwd=clone, check=True)
    monkeypatch.chdir(clone)
    arguments = ["--a", "commit=HEAD~1", "--b", "commit=HEAD", "--pairs", "1", "--results", str(tmp_path / "results")]
    main([*AB, *arguments])
    found = store.load([only_file(tmp_path / "results")])
    of_side = {s.side: s.environment for s in found.sessions.values()}
    assert of_side["b"].mlpbench == f"9.{of_side['a'].mlpbench}"
    assert of_side["a"].commit != of_side["b"].commit
    assert (
        subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout.count("\n") == 1
    )


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--b", "python=/no/such/python"], "cannot run /no/such/python"),
        (["--b", "commit=no-such-commit"], "no-such-commit"),
        (["--b", "device=cpu"], "same"),
        (["--b", "optimizer=none"], "unknown optimizer"),
        (["--b", "dataset=nothing"], "unknown dataset"),
        ([], "same"),
        (["--b", "lr=.1", "--resume"], "nothing to resume"),
        (["--b", "lr=.1", "--blocked", "--time-limit", "3"], "--time-limit"),
        (["--b", "lr=.1", "--html", "no/such/v.html"], "no folder"),
    ],
)
def test_a_side_that_cannot_run_ends_with_one_line_and_2(tmp_path, capsys, arguments, told):
    code = main([*AB, *arguments, "--pairs", "1", "--results", str(tmp_path)])
    errors = capsys.readouterr().err
    assert (code, len(errors.splitlines())) == (2, 1)
    assert told in errors


@pytest.mark.real
def test_an_interpreter_without_torch_says_so(tmp_path, capsys):
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    code = main([*AB, "--b", f"python={python}", "--pairs", "1", "--results", str(tmp_path)])
    assert code == 2
    assert "No module named" in capsys.readouterr().err


@pytest.mark.real
def test_a_killed_ab_leaves_no_process_and_resumes(tmp_path, capsys):
    command = [*AB, "--b", "batch_size=20", "--pairs", "2", "--results", str(tmp_path)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "mlpbench", *command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list(tmp_path.rglob("*-ab-*.jsonl"))
        if files and '"kind":"block"' in files[0].read_text():
            break
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = only_file(tmp_path).read_bytes()
    while time.monotonic() < deadline and workers():
        time.sleep(0.05)
    assert workers() == 0
    assert main([*command, "--resume"]) in (0, 1)
    assert only_file(tmp_path).read_bytes().startswith(before.rsplit(b"\n", 1)[0])
    found = store.load([only_file(tmp_path)])
    (whole,) = found.plans.values()
    assert sorted(turns.finished(found, whole)) == [0, 1, 2, 3]
    assert found.endings[whole.id].reason == "all 2 pairs measured"
    assert main([*command, "--resume"]) == 2
    assert "it is complete" in capsys.readouterr().err


def test_a_process_rests_when_it_uses_no_cpu_and_says_if_it_never_does():
    assert rest(limit_s=5) is True
    spinning = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(spinning.is_set, True)])
    thread.start()
    try:
        assert rest(limit_s=0.05) is False
    finally:
        spinning.set()
        thread.join()


@pytest.mark.real
def test_a_worker_refuses_another_protocol():
    job = {"protocol": 99, "command": "", "preset": "", "run": "r", "process": 0, "side": "a", "suite": "ab",
           "settings": [], "operations": ["forward"], "rounds": 1, "warm_up_s": 0, "has_peaks": False,
           "takes_turns": True}  # fmt: skip
    worker = subprocess.run(
        [sys.executable, "-m", "mlpbench.measuring.worker"],
        input=json.dumps(job) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    (answer,) = map(json.loads, worker.stdout.splitlines())
    assert "protocol" in answer["answer"]["refused"]


def test_records_of_the_sides_are_of_their_own_types():
    _, found = run(plan(pairs=1))
    assert {type(r) for r in found.sessions.values()} == {Session}
    assert {type(r) for r in found.measurements.values()} == {Measurement}
    assert {s.environment for s in found.sessions.values()} == {ENVIRONMENT}
