"""Train runs of a study in another process."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records.kinds import EpochResult, TrainResult
from mlpbench.training.resume import Start
from mlpbench.training.trainer import Trainer

_PR_SET_PDEATHSIG = 1
"""The number of this function of Linux: it names the signal for the end of the parent."""


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
        process = spawn.Process(target=_work, args=(process_end,))
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


def _work(connection: Connection) -> None:
    """Train every run that arrives, until the study ends or this process is killed."""
    _end_with_parent()
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


def _end_with_parent() -> None:
    """Let the system, or else a thread, end this process when the study ends, however it ends.

    The study can be killed at any moment, and an epoch can last for hours.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by a study"
    with suppress(OSError, AttributeError):
        # A thread would have to wait for an engine in C++, which keeps the interpreter's lock for a whole epoch.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    # It also covers a study that ended before the call above, and other systems than Linux.
    threading.Thread(target=watch, daemon=True).start()


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
