"""A fresh process that measures on command: `python -m mlpbench.measuring.worker`, started by `worker_process.py`.

It reads a job and then commands, one JSON line each, from standard input; it writes records, and one answer for each
command, to standard output. What libraries print goes to standard error. It ends when its input does, so it does not
outlive a driver that was killed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from mlpbench.config import Operation, RunConfig, override
from mlpbench.errors import InputError, check_name
from mlpbench.machine import environment, peaks
from mlpbench.measuring import timing
from mlpbench.measuring.worker_process import PROTOCOL
from mlpbench.records.codec import encode
from mlpbench.records.kinds import Measurement, Record, Session
from mlpbench.training.trainer import Trainer

WAKE_S = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to measure, and as which process of which run."""

    protocol: int
    command: str
    preset: str
    run: str
    process: int
    side: str
    suite: str
    settings: list[str]  # field=value
    operations: list[str]
    rounds: int
    warm_up_s: float
    has_peaks: bool  # measure the machine's peaks too
    takes_turns: bool  # with another process, which must find the CPUs free


@dataclass(slots=True)
class _Turn:
    trainer: Trainer
    operation: str
    measurement: Measurement | None = None
    iterations: int = 1


class Worker:
    """Builds the job's trainers, then warms up and times them block by block as the driver says."""

    def __init__(self, job: Job, emit: Callable[[Record], None]) -> None:
        if job.protocol != PROTOCOL:
            raise InputError(f"this mlpbench measures by protocol {PROTOCOL}, not {job.protocol}")
        self._job = job
        self._emit = emit
        config = override(RunConfig(), job.settings)
        for operation in job.operations:
            check_name(Operation, operation, "operation")
        trainer = Trainer(config)
        self._turns = [_Turn(trainer, operation) for operation in job.operations]
        trainer.use_threads()
        self.session: Session = environment.start_session(
            job.command, job.preset, run=job.run, process=job.process, side=job.side
        )
        self._device = environment.resolve_device(config.device)
        emit(self.session)

    def warm(self) -> None:
        """Warm every operation up; the driver lets no other process run meanwhile."""
        if self._job.has_peaks:
            for peak in peaks.measure(self.session.id, self._device):
                self._emit(peak)
        self._watch = timing.Watch(self._device)
        for turn in self._turns:
            turn.measurement, turn.iterations = timing.begin(
                turn.trainer,
                turn.operation,
                self.session,
                suite=self._job.suite,
                rounds=self._job.rounds,
                warm_up_s=self._job.warm_up_s,
            )
            self._emit(turn.measurement)
        self._rest()

    def block(self, index: int, round_index: int, order: int) -> None:
        """Time one block of the operation of that index."""
        turn = self._turns[index]
        assert turn.measurement is not None, "warm comes before block"
        wake(turn.trainer.train_step)
        block = timing.observe(
            turn.measurement,
            turn.trainer,
            iterations=turn.iterations,
            round_index=round_index,
            order=order,
            watch=self._watch,
        )
        self._emit(block)
        self._rest()

    def _rest(self) -> None:
        if self._job.takes_turns and not rest():
            raise InputError("its threads never rest (OMP_WAIT_POLICY=ACTIVE?), so it cannot take turns; use --blocked")

    def end(self) -> None:
        """Say what the machine did meanwhile."""
        self._emit(self._watch.sentinels.conditions(self.session.id))


def wake(call: Callable[[], object], spent_s: float = WAKE_S) -> None:
    """Call for a while: threads that slept begin on one CPU, and the kernel takes some ms to spread them over all."""
    start = time.perf_counter()
    while time.perf_counter() - start < spent_s:
        call()


def rest(limit_s: float = 2.0) -> bool:
    """Wait until this process uses no CPU, and say whether it came to that.

    OpenMP's threads spin for some ms after their work, in the hope of more; that would cost the next process a CPU.
    """
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        used_s, start = time.process_time(), time.perf_counter()
        time.sleep(0.001)
        if time.process_time() - used_s < 0.3 * (time.perf_counter() - start):
            return True
    return False


def serve(commands: Iterator[str], out: TextIO) -> None:
    """Do what the commands say until they end; the first is the job."""

    def emit(record: Record) -> None:
        print(encode(record), file=out, flush=True)

    def answer(**content: Any) -> None:
        print(json.dumps({"answer": content}), file=out, flush=True)

    try:
        worker = Worker(Job(**json.loads(next(commands))), emit)
        answer(done="start")
        for line in commands:
            name, *arguments = json.loads(line)
            getattr(worker, name)(*arguments)
            answer(done=name)
    except InputError as error:
        answer(refused=str(error))


def main() -> None:
    """Serve the driver on standard input and output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # what a library prints must not pass for a record
        serve(iter(sys.stdin), out)


if __name__ == "__main__":
    main()
