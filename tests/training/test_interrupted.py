"""Real processes that train are stopped at some moment: they go on to the same bits, and their message is true."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlpbench.records import store

pytestmark = pytest.mark.real

SETTINGS = ["--set", "hidden_sizes=16,16,16", "--set", "num_threads=1", "--set", "optimizer=adam"]
TRAIN = ["train", *SETTINGS, "--epochs", "6"]
STUDY = [
    *("study", "--activations", "relu", "--optimizers", "nesterov", "--seeds", "0-2", "--jobs", "2"),
    *("--set", "hidden_sizes=16,16,16", "--set", "num_epochs=4"),
]


def start(command, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "mlpbench", *command, "--results", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The tests may run as a background job of a shell. Such a job ignores Ctrl-C, and so would its processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 (no thread runs)
    )


def stopped(command, folder, pattern, number):
    """Run a command until a line has this pattern, send it a signal, and return its exit code and its last line.

    This returns when all processes of the command have closed the output.
    """
    with start(command, folder) as process:
        assert any(re.search(pattern, line) for line in process.stdout)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    return process.returncode, error


def finished(command, folder):
    with start(command, folder) as process:
        output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return output, error


def bits(folder):
    """Return what the runs in a folder computed, by config; every number but the times."""
    names = ("train_loss", "train_accuracy", "last_loss", "test_loss", "test_accuracy", "digests")
    return {r.config: [getattr(r, name) for name in names] for r in store.load([folder]).train_results}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the bits of the uninterrupted run of `TRAIN`."""
    folder = tmp_path_factory.mktemp("whole")
    finished(TRAIN, folder)
    return bits(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_training_keeps_its_epochs_and_ends_with_the_same_bits(tmp_path, whole, number):
    code, error = stopped(TRAIN, tmp_path, r"^epoch 2/6 ", number)
    results = store.load([tmp_path])
    num_epochs = len(results.epochs)
    assert num_epochs >= 2
    assert (results.train_results, len(results.unfinished())) == ([], 1)
    if number == signal.SIGKILL:
        assert (code, error) == (-number, "")
    else:
        assert code == 130
        assert error == (
            "mlpbench: interrupted; everything that was finished is in the results file: "
            f"{num_epochs} of 6 epochs; the same command with --resume goes on\n"
        )
    output, _ = finished([*TRAIN, "--resume"], tmp_path)
    assert re.search(r"^run 1/1: .*, goes on after epoch [1-5]/6$", output, re.MULTILINE)
    assert bits(tmp_path) == whole
    assert list(tmp_path.rglob("*.ckpt")) == []
    assert store.load([tmp_path]).unfinished() == {}


def test_nothing_to_resume_has_one_line_and_writes_nothing(tmp_path):
    for command in (TRAIN, STUDY):
        with start([*command, "--resume"], tmp_path) as process:
            output, error = process.communicate(timeout=60)
        assert (process.returncode, output) == (2, "")
        assert re.fullmatch(r"mlpbench: nothing to resume: no interrupted run of this command under .*\n", error)
    assert list(tmp_path.rglob("*.jsonl")) == []


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"^run 2/3: ", r"^run 1/3  epoch 3/4 ", r"^run 3/3  epoch 2/4 "])
def test_killed_study_goes_on_to_the_same_bits(tmp_path, pattern):
    stopped(STUDY, tmp_path / "a", pattern, signal.SIGKILL)
    before = store.load([tmp_path / "a"])
    output, _ = finished([*STUDY, "--resume"], tmp_path / "a")
    finished(STUDY, tmp_path / "b")
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    num_left = 3 - len(before.train_results)
    assert f"run 1/{num_left}: " in output
    results = store.load([tmp_path / "a"])
    assert len(results.train_results) == 3
    assert {session.run for session in results.sessions.values()} == set(before.sessions)
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_workers_of_a_killed_study_end_in_the_middle_of_a_long_epoch(tmp_path, engine):
    settings = ["--set", "hidden_sizes=2048,2048,2048", "--set", "num_epochs=2", "--set", f"engine={engine}"]
    command = ["study", "--activations", "relu", "--optimizers", "sgd", "--seeds", "0-1", "--jobs", "2", *settings]
    with start(command, tmp_path) as process:
        assert any(line.startswith("run 2/2") for line in process.stdout)
        workers = [path for path in Path("/proc").glob("[0-9]*") if is_worker_of(path, process.pid)]
        assert len(workers) == 2
        # By then, they train.
        deadline = time.monotonic() + 60
        while min(map(cpu_s, workers)) < 10 and time.monotonic() < deadline:
            time.sleep(0.2)
        process.kill()
        # This returns when the last worker has closed the output.
        process.communicate(timeout=10)


def is_worker_of(path, parent):
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]) == parent and b"spawn_main" in (path / "cmdline").read_bytes()
    except OSError:
        return False


def cpu_s(path):
    """Return the CPU time of a process."""
    fields = (path / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
