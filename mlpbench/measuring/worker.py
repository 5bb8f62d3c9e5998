"""Measure on command, in a fresh process: `python -m mlpbench.measuring.worker`, started by `worker_process.py`.

The process reads JSON lines from standard input: first a job, then commands. To standard output it writes records, and
one answer to each line. What libraries print goes to standard error. The process ends when its input ends, so it does
not outlive a driver that was killed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TextIO

from mlpbench.config import Operation, RunConfig, override
from mlpbench.errors import InputError, check_name, choose
from mlpbench.machine import environment, peaks
from mlpbench.measuring import timing
from mlpbench.measuring.worker_process import PROTOCOL
from mlpbench.records.codec import encode
from mlpbench.records.kinds import Measurement, Record, Session
from mlpbench.training.trainer import Trainer

WAKE_S = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Say what to measure, and as which process of which run. The fields are part of the protocol."""

    protocol: int
    command: str
    preset: str
    run: str
    process: int
    side: str
    suite: str
    settings: list[str]
    """Changes of the workload, each as `field=value`."""
    operations: list[str]
    rounds: int
    warm_up_s: float
    has_peaks: bool
    """True if the worker also measures the peak rates of the machine."""
    takes_turns: bool
    """True if another process is interleaved with this one, and must find the CPUs free."""


@dataclass(slots=True)
class _Turn:
    """Hold an operation to time; measurement and iterations are set by the warm-up."""

    operation: str
    measurement: Measurement | None = None
    iterations: int = 1


class Worker:
    """Warm up and time the job's operations, block by block, as the driver commands."""

    def __init__(self, job: Job, trainer: Trainer, session: Session, emit: Callable[[Record], None]) -> None:
        self.session = session
        self._job, self._trainer, self._emit = job, trainer, emit
        self._turns = [_Turn(operation) for operation in job.operations]
        self._watch: timing.Watch | None = None
        self._commands: dict[str, Callable[..., None]] = {"warm": self._warm, "block": self._block, "end": self._end}

    @classmethod
    def start(cls, job: Job, emit: Callable[[Record], None]) -> Self:
        """Build the trainer, and emit the session.

        Raises:
            InputError: for a job of another protocol, or one that cannot run here.
        """
        if job.protocol != PROTOCOL:
            raise InputError(
                f"the worker understands protocol {PROTOCOL}, not {job.protocol}; "
                "compare versions of mlpbench that have the same protocol"
            )
        config = override(RunConfig(), job.settings)
        for operation in job.operations:
            check_name(Operation, operation, "operation")
        trainer = Trainer(config)
        for operation in job.operations:
            trainer.operation(operation)
        trainer.use_threads()
        session = environment.start_session(job.command, job.preset, run=job.run, process=job.process, side=job.side)
        emit(session)
        return cls(job, trainer, session, emit)

    def execute(self, command: str, arguments: Sequence[int]) -> None:
        """Carry out a command of the driver: `warm`, `block` or `end`.

        Raises:
            InputError: for any other command, or if the threads of this process do not rest.
        """
        choose(self._commands, command, "command")(*arguments)

    def _warm(self) -> None:
        """Warm every operation up; the driver lets no other process run during this time."""
        device = environment.resolve_device(self._trainer.config.device)
        if self._job.has_peaks:
            for peak in peaks.measure(self.session.id, device):
                self._emit(peak)
        self._watch = timing.Watch.start(device)
        for turn in self._turns:
            turn.measurement, turn.iterations = timing.begin(
                self._trainer,
                turn.operation,
                self.session,
                suite=self._job.suite,
                rounds=self._job.rounds,
                warm_up_s=self._job.warm_up_s,
            )
            self._emit(turn.measurement)
        self._rest()

    def _block(self, index: int, round_index: int, order: int) -> None:
        """Time one block of the operation at position `index` of the job."""
        turn = self._turns[index]
        assert turn.measurement is not None, "the driver sends `warm` before `block`"
        wake(self._trainer.train_step)
        block = timing.observe(
            turn.measurement,
            self._trainer,
            iterations=turn.iterations,
            round_index=round_index,
            order=order,
            watch=self._watch,
        )
        self._emit(block)
        self._rest()

    def _end(self) -> None:
        """Emit the conditions of the machine during the blocks."""
        assert self._watch is not None, "the driver sends `warm` before `end`"
        self._emit(self._watch.sentinels.conditions(self.session.id))

    def _rest(self) -> None:
        if self._job.takes_turns and not rest():
            raise InputError(
                "its idle threads still use the CPU (is OMP_WAIT_POLICY=ACTIVE set?), "
                "so it cannot be interleaved with another process; use --blocked"
            )


def wake(call: Callable[[], object], spent_s: float = WAKE_S) -> None:
    """Call for a while, because threads that slept start on one CPU, and the kernel spreads them after some ms."""
    start = time.perf_counter()
    while time.perf_counter() - start < spent_s:
        call()


def rest(limit_s: float = 2.0) -> bool:
    """Wait until this process uses no CPU; return False if it still uses one at the limit.

    OpenMP's threads spin for some ms after their work, to be ready for more. That would cost the next process a CPU.
    """
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        before_s, start = time.process_time(), time.perf_counter()
        time.sleep(0.001)
        if time.process_time() - before_s < 0.3 * (time.perf_counter() - start):
            return True
    return False


def serve(commands: Iterator[str], out: TextIO) -> None:
    """Start a worker for the job in the first line, and carry out the commands in the lines after it."""

    def emit(record: Record) -> None:
        print(encode(record), file=out, flush=True)

    def answer(**content: Any) -> None:
        print(json.dumps({"answer": content}), file=out, flush=True)

    try:
        worker = Worker.start(Job(**json.loads(next(commands))), emit)
        answer(done="start")
        for line in commands:
            name, *arguments = json.loads(line)
            worker.execute(name, arguments)
            answer(done=name)
    except InputError as error:
        answer(refused=str(error))


def main() -> None:
    """Serve the driver on standard input and output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        # From here on, standard output goes to standard error: what a library prints must not be read as a record.
        os.dup2(2, 1)
        serve(iter(sys.stdin), out)


if __name__ == "__main__":
    main()
