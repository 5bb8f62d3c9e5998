"""Train runs of a study in another process."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Self

import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine.parent import end_with_parent
from mlpbench.records.kinds import EpochResult, TrainResult
from mlpbench.training.resume import Start
from mlpbench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Hold a text that a person should know of a run."""

    text: str


class Worker:
    """Hold a process that trains: `send` a run, then `receive` its epochs and its result, within a `with` block."""

    def __init__(self, process: SpawnProcess, connection: Connection) -> None:
        self._process, self.connection = process, connection
        self.has_ended = False

    @classmethod
    def start(cls) -> Self:
        """Start a process."""
        # PyTorch's threads do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        connection, process_end = spawn.Pipe()
        process = spawn.Process(target=_work, args=(process_end, os.getpid()))
        with _interrupts_ignored():
            process.start()
        process_end.close()
        return cls(process, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def send(self, config: RunConfig, session_id: str, start: Start | None = None) -> None:
        """Start a run in the process."""
        # After the end of the process, `receive` finds out the reason.
        with suppress(OSError):
            self.connection.send((config, session_id, start))

    def receive(self) -> EpochResult | Note | TrainResult | str:
        """Wait for the next epoch or note; after the last, for the result or the reason why there is no result."""
        try:
            message: EpochResult | Note | TrainResult | str = self.connection.recv()
        except (EOFError, OSError):
            self.has_ended = True
            self._process.join()
            return _end_reason(self._process.exitcode or 0)
        return message


def _end_reason(exit_code: int) -> str:
    """Return a text for an exit code, which is a signal if it is negative."""
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    advice = ", which happens if there is too little memory: use fewer --jobs" if -exit_code == signal.SIGKILL else ""
    return f"its process was ended by signal {-exit_code} ({signal.strsignal(-exit_code)}){advice}"


def _work(connection: Connection, parent: int) -> None:
    """Train every run that arrives, until the study `parent` ends or this process is killed."""
    # An epoch can last for hours.
    end_with_parent(parent)
    # A trainer sets its own thread count. This one is for the work before, such as reading the data.
    torch.set_num_threads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            config, session_id, start = connection.recv()
            answer: TrainResult | str
            try:
                answer = Trainer(config).fit(
                    session_id, connection.send, start, lambda text: connection.send(Note(text=text))
                )
            except InputError as error:
                answer = str(error)
            connection.send(answer)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that start within the block ignore Ctrl-C, which a terminal sends to all; the study ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
