"""Test real workers: the pairs of processes that `ab` and `aa` start."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from mlpbench.cli.main import main
from mlpbench.measuring import turns
from mlpbench.records import store
from tests.measuring.repository import git
from tests.paths import ROOT

AB = ["ab", "forward", "--rounds", "2", "--set", "batch_size=10"]


def num_workers(session_id: int) -> int:
    """Count the workers in a session of the operating system; 0 on a system without /proc."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            is_worker = b"mlpbench.measuring.worker" in path.read_bytes()
            # After the name in brackets: state, parent, process group, session (proc(5)).
            fields = path.with_name("stat").read_text().rpartition(")")[2].split()
            count += is_worker and int(fields[3]) == session_id
    return count


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*-ab-*.jsonl")
    return path


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """Return a clone of this repository, as the current folder."""
    folder = tmp_path / "clone"
    with contextlib.suppress(subprocess.CalledProcessError):
        git("clone", "-q", str(ROOT), str(folder))
    if not (folder / "mlpbench" / "measuring" / "worker.py").exists():
        pytest.skip("needs a git checkout with these sources committed")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.real
@pytest.mark.slow
def test_ab_measures_two_settings_in_fresh_processes(tmp_path, capsys):
    sides = ["--a", "hidden_sizes=8,8,8", "--b", "hidden_sizes=1024,1024,1024"]
    code = main([*AB, *sides, "--pairs", "2", "--results", str(tmp_path)])
    output = capsys.readouterr().out
    results = store.load([only_file(tmp_path)])
    # The verdict depends on the machine.
    assert code in (0, 1)
    assert "ab/forward" in output
    order = [s.side for s in sorted(results.sessions.values(), key=lambda s: s.process)]
    assert order in (list("abba"), list("baab"))
    assert len({s.run for s in results.sessions.values()}) == 1
    assert {m.rounds for m in results.measurements.values()} == {2}
    assert len(results.blocks) == 8
    assert all(block.control_ns for block in results.blocks)
    assert len(results.conditions) == 4
    assert results.peaks
    assert results.problems == []


@pytest.mark.real
@pytest.mark.slow
def test_aa_stores_the_noise_floor_of_this_machine(tmp_path, capsys):
    assert main(["aa", *AB[1:], "--pairs", "5", "--results", str(tmp_path)]) == 0
    (noise,) = store.load([only_file(tmp_path)]).noises
    assert noise.operation == "forward"
    assert (noise.processes, noise.comparisons) == (5, 1)
    assert "differ by at most" in capsys.readouterr().out


def test_noise_floor_from_too_few_processes_is_not_stored(tmp_path, capsys):
    assert main(["aa", "--pairs", "4", "--results", str(tmp_path)]) == 2
    assert "at least 5 pairs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
@pytest.mark.slow
def test_side_runs_with_its_environment_variables(tmp_path):
    main([*AB, "--b", "env:OMP_NUM_THREADS=1", "--pairs", "1", "--results", str(tmp_path)])
    results = store.load([only_file(tmp_path)])
    variables = {s.side: dict(s.environment.stack.variables).get("OMP_NUM_THREADS") for s in results.sessions.values()}
    assert variables["b"] == "1"
    assert variables["a"] == os.environ.get("OMP_NUM_THREADS")


@pytest.mark.real
@pytest.mark.slow
def test_side_runs_the_source_of_its_commit(tmp_path, clone):
    version = clone / "mlpbench" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    git("commit", "-qam", "another version")
    arguments = ["--a", "commit=HEAD~1", "--b", "commit=HEAD", "--pairs", "1", "--results", str(tmp_path / "results")]
    main([*AB, *arguments])
    results = store.load([only_file(tmp_path / "results")])
    environments = {s.side: s.environment for s in results.sessions.values()}
    assert environments["b"].mlpbench == f"9.{environments['a'].mlpbench}"
    assert environments["a"].commit != environments["b"].commit
    assert len(git("worktree", "list").splitlines()) == 1


@pytest.mark.real
@pytest.mark.slow
def test_commit_from_before_the_packages_can_be_measured(tmp_path, clone):
    removal = git("rev-list", "-1", "HEAD", "--", "mlpbench/worker.py")
    if not removal:
        pytest.skip("needs the history of the repository")
    old = git("rev-parse", f"{removal}^")
    assert "mlpbench/worker.py" in git("ls-tree", "-r", "--name-only", old).splitlines()
    arguments = ["--a", f"commit={old}", "--b", "commit=HEAD", "--pairs", "1", "--results", str(tmp_path / "results")]
    main([*AB, *arguments])
    results = store.load([only_file(tmp_path / "results")])
    commits = {s.side: s.environment.commit for s in results.sessions.values()}
    assert old.startswith(commits["a"])
    assert not old.startswith(commits["b"])
    assert len(results.blocks) == 4


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "message"),
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
@pytest.mark.slow
def test_side_that_cannot_run_ends_with_one_line_and_2(tmp_path, capsys, arguments, message):
    code = main([*AB, *arguments, "--pairs", "1", "--results", str(tmp_path)])
    errors = capsys.readouterr().err
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors


@pytest.mark.real
def test_interpreter_without_torch_is_reported(tmp_path, capsys):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    code = main([*AB, "--b", f"python={python}", "--pairs", "1", "--results", str(tmp_path)])
    assert code == 2
    assert "No module named" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.slow
def test_killed_ab_leaves_no_process_and_resumes(tmp_path, capsys):
    command = [*AB, "--b", "batch_size=20", "--pairs", "2", "--results", str(tmp_path)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "mlpbench", *command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    num_running = 0
    while time.monotonic() < deadline:
        num_running = max(num_running, num_workers(driver.pid))
        files = list(tmp_path.rglob("*-ab-*.jsonl"))
        if files and '"kind":"block"' in files[0].read_text():
            break
        time.sleep(0.05)
    assert num_running == (2 if Path("/proc/self/stat").exists() else 0)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = only_file(tmp_path).read_bytes()
    while time.monotonic() < deadline and num_workers(driver.pid):
        time.sleep(0.05)
    assert num_workers(driver.pid) == 0
    assert main([*command, "--resume"]) in (0, 1)
    assert only_file(tmp_path).read_bytes().startswith(before.rsplit(b"\n", 1)[0])
    results = store.load([only_file(tmp_path)])
    (plan,) = results.plans.values()
    assert sorted(turns.finished(results, plan)) == [0, 1, 2, 3]
    assert results.endings[plan.id].reason == "all 2 pairs measured"
    assert main([*command, "--resume"]) == 2
    assert "it is complete" in capsys.readouterr().err
