"""Test that a worker carries out the commands of its protocol and no others, and that it waits until it is idle."""

import io
import json
import subprocess
import sys
import threading

import pytest

from mlpbench.measuring.worker import rest, serve

JOB = {
    "protocol": 1,
    "command": "",
    "preset": "ab",
    "run": "r",
    "process": 0,
    "side": "a",
    "suite": "ab",
    "settings": ["batch_size=10"],
    "operations": ["forward"],
    "rounds": 1,
    "warm_up_s": 0,
    "has_peaks": False,
    "takes_turns": True,
}


def lines_of(*lines):
    """Serve these lines in this process, and return the parsed lines of the output."""
    out = io.StringIO()
    serve(map(json.dumps, lines), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_command_that_is_not_in_the_protocol_is_refused(restore_threads):
    *_, started, answer = lines_of(JOB, ["__init__"])
    assert started == {"answer": {"done": "start"}}
    assert answer == {"answer": {"refused": "unknown command '__init__'; known: warm, block, end"}}


def test_each_command_gets_one_answer_after_its_records(restore_threads):
    lines = lines_of(JOB | {"takes_turns": False}, ["warm"], ["block", 0, 0, 0], ["end"])
    kinds = [line.get("kind") or line["answer"]["done"] for line in lines]
    assert kinds == ["session", "start", "measurement", "warm", "block", "block", "conditions", "end"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operations": ["dance"]}, "unknown operation 'dance'"),
        ({"settings": ["engine=steam"]}, "unknown engine 'steam'"),
    ],
)
def test_job_that_cannot_run_is_refused(change, reason):
    (answer,) = lines_of(JOB | change)
    assert answer["answer"]["refused"].startswith(reason)


@pytest.mark.real
def test_worker_refuses_another_protocol():
    worker = subprocess.run(
        [sys.executable, "-m", "mlpbench.measuring.worker"],
        input=json.dumps(JOB | {"protocol": 99}) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    (answer,) = map(json.loads, worker.stdout.splitlines())
    assert "understands protocol 1, not 99" in answer["answer"]["refused"]


def test_rest_ends_when_no_cpu_is_used_and_is_false_if_one_stays_in_use():
    assert rest(limit_s=5) is True
    is_done = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(is_done.is_set, True)])
    thread.start()
    try:
        assert rest(limit_s=0.05) is False
    finally:
        is_done.set()
        thread.join()
