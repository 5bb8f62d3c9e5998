"""Real workers: pairs of processes that `ab` and `aa` start."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlpbench.cli.main import main
from mlpbench.measuring import turns
from mlpbench.measuring.worker import rest
from mlpbench.records import store
from tests.paths import ROOT

AB = ["ab", "forward", "--rounds", "2", "--set", "batch_size=10"]


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
@pytest.mark.slow
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
@pytest.mark.slow
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
@pytest.mark.slow
def test_a_side_of_variables_runs_under_them(tmp_path):
    main([*AB, "--b", "env:OMP_NUM_THREADS=1", "--pairs", "1", "--results", str(tmp_path)])
    found = store.load([only_file(tmp_path)])
    variables = {s.side: dict(s.environment.variables).get("OMP_NUM_THREADS") for s in found.sessions.values()}
    assert variables["b"] == "1"
    assert variables["a"] == os.environ.get("OMP_NUM_THREADS")


@pytest.mark.real
@pytest.mark.slow
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
@pytest.mark.slow
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
