"""STUDIES: train a grid of configs over several seeds, one run after the other or several at once.

At once: on the CPU each run in a process of its own, by default on one thread, with the bits that the same config has
alone; on a GPU the seeds of a config as one, with their own curves to rounding (see seeds.py). The times of such runs
are those of runs that share the machine.
"""

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Protocol, Self

import torch

from mlpbench.config import RunConfig, grid
from mlpbench.errors import InputError, choose
from mlpbench.machine import environment
from mlpbench.records.kinds import TrainResult
from mlpbench.training import batched_seeds
from mlpbench.training.trainer import Epoch, Trainer, check_names
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS

TUTORIAL = ("relu", "tanh", "elu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A grid: activations x optimizers x seeds on top of a base."""

    base: RunConfig
    activations: tuple[tuple[str, ...], ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    has_usual_lr: bool = True  # an optimizer to which the base's learning rate would do injustice gets its usual one

    def configs(self) -> list[RunConfig]:
        """The grid's configs, seed by seed, so that a slow stretch of the machine does not fall on one alone."""
        configs = grid(self.base, seed=self.seeds, activations=self.activations, optimizer=self.optimizers)
        if not self.has_usual_lr:
            return configs
        kinds = {name: choose(OPTIMIZERS, name, "optimizer") for name in self.optimizers}
        return [replace(config, lr=kinds[config.optimizer].lr(config.lr)) for config in configs]


STUDIES = {
    "quick": Study(
        base=RunConfig(num_epochs=3),
        activations=(TUTORIAL, ("relu",)),
        optimizers=("sgd", "nesterov"),
        seeds=(0, 1, 2),
    ),
    "default": Study(
        base=RunConfig(num_epochs=10),
        activations=(TUTORIAL, ("relu",), ("tanh",), ("elu",), ("gelu",)),
        optimizers=("sgd", "momentum", "nesterov", "adam"),
        seeds=(0, 1, 2, 3, 4),
    ),
    # The tutorial itself: its data, its number of epochs.
    "tutorial": Study(base=RunConfig(dataset="mnist"), activations=(TUTORIAL,), optimizers=("sgd",), seeds=(0,)),
}


def check(configs: Iterable[RunConfig]) -> None:
    """Check that every config can run here, before anything is trained or written.

    Raises:
        InputError: for an unknown name, a device that is not there, or data that is not to be had.
    """
    for config in configs:
        check_names(config)
        datasets.load(config.dataset)


class Observer(Protocol):
    """Who is told how a study goes."""

    def start(self, config: RunConfig) -> None:
        """A run begins."""

    def epoch(self, epoch: Epoch, config: RunConfig | None = None) -> None:
        """An epoch is over: of that run, where several run at once; else of the one that began last."""

    def lost(self, config: RunConfig, reason: str) -> None:
        """A run has ended without a result."""


class LostError(InputError):
    """Runs without a result; `results` are those of the others."""

    def __init__(self, told: str, results: list[TrainResult]) -> None:
        super().__init__(told)
        self.results = results


Emit = Callable[[TrainResult], None]


def default_jobs(configs: Sequence[RunConfig]) -> int:
    """As many runs at once as there are CPUs for their threads; on a GPU all seeds of a config."""
    if any(_is_on_gpu(config) for config in configs):
        return max(len({config.seed for config in configs}), 1)
    num_threads = max((config.num_threads or 1 for config in configs), default=1)
    return max(environment.current().num_cpus // num_threads, 1)


def run(
    configs: Iterable[RunConfig], session_id: str, emit: Emit, observer: Observer, jobs: int = 1
) -> list[TrainResult]:
    """Train every config, up to `jobs` at once; each result is emitted as soon as it exists.

    With 1 job, or a single config, the runs are one after the other in this process, with PyTorch's own number of
    threads. With more, those on the CPU are side by side in processes, a config that sets no number of threads with 1
    (and so recorded); those on a GPU that differ in nothing but their seed are trained as one, where `seeds.can_train`,
    and else one after the other. A run that is lost does not keep the others from theirs.

    Returns:
        The results, in the order of the configs.

    Raises:
        LostError: at the end, if a run was lost: a config that cannot run, a process that was killed.
    """
    study = _Run(list(configs), session_id, emit, observer)
    jobs = min(jobs, len(study.configs))
    on_gpu = [index for index, config in enumerate(study.configs) if _is_on_gpu(config)]
    on_cpu = [index for index in range(len(study.configs)) if index not in on_gpu]
    if jobs <= 1:
        study.one_by_one(range(len(study.configs)))
    else:
        study.side_by_side(on_cpu, jobs)
        study.together(on_gpu, jobs)
    return study.end()


def _is_on_gpu(config: RunConfig) -> bool:
    return config.device != "cpu" and torch.cuda.is_available()


class _Run:
    """A study under way: its runs by their position."""

    def __init__(self, configs: list[RunConfig], session_id: str, emit: Emit, observer: Observer) -> None:
        self.configs = configs
        self._session_id = session_id
        self._emit = emit
        self._observer = observer
        self._results: dict[int, TrainResult] = {}
        self._lost: dict[int, str] = {}

    def one_by_one(self, indices: Iterable[int]) -> None:
        for index in indices:
            config = self.configs[index]
            self._observer.start(config)
            try:
                result = Trainer(config).fit(self._session_id, self._observer.epoch)
            except InputError as error:
                self._lose(index, str(error))
            else:
                self._keep(index, result)

    def side_by_side(self, indices: Iterable[int], jobs: int) -> None:
        """Each worker has a run, and gets the next when it has answered."""
        waiting = deque(indices)
        for index in waiting:
            self.configs[index] = replace(self.configs[index], num_threads=self.configs[index].num_threads or 1)
        running: dict[_Worker, int] = {}

        def give(worker: _Worker) -> None:
            running[worker] = waiting.popleft()
            self._observer.start(self.configs[running[worker]])
            worker.send(self.configs[running[worker]], self._session_id)

        with ExitStack() as stack:
            while waiting and len(running) < jobs:
                give(stack.enter_context(_Worker()))
            while running:
                ready = connection.wait([worker.connection for worker in running])
                for worker in [worker for worker in running if worker.connection in ready]:
                    told = worker.receive()
                    if isinstance(told, Epoch):
                        self._observer.epoch(told, self.configs[running[worker]])
                        continue
                    index = running.pop(worker)
                    if isinstance(told, TrainResult):
                        self._keep(index, told)
                    else:
                        self._lose(index, told)
                    if waiting and not worker.has_ended:
                        give(worker)
                if waiting and not running:  # else go on with fewer: what a process dies of is mostly want of memory
                    give(stack.enter_context(_Worker()))

    def together(self, indices: Iterable[int], jobs: int) -> None:
        """Up to `jobs` seeds of a config at a time."""
        alike: dict[RunConfig, list[int]] = {}
        for index in indices:
            alike.setdefault(replace(self.configs[index], seed=0), []).append(index)
        for group in alike.values():
            for first in range(0, len(group), jobs):
                self._as_one(group[first : first + jobs])

    def _as_one(self, indices: list[int]) -> None:
        configs = [self.configs[index] for index in indices]
        if len(configs) == 1 or not batched_seeds.can_train(configs[0]):
            self.one_by_one(indices)
            return
        for config in configs:
            self._observer.start(config)
        try:
            results = batched_seeds.fit(configs, self._session_id, self._observer.epoch)
        except InputError as error:
            for index in indices:
                self._lose(index, str(error))
        else:
            for index, result in zip(indices, results, strict=True):
                self._keep(index, result)

    def _keep(self, index: int, result: TrainResult) -> None:
        self._results[index] = result
        self._emit(result)

    def _lose(self, index: int, reason: str) -> None:
        self._lost[index] = reason
        self._observer.lost(self.configs[index], reason)

    def end(self) -> list[TrainResult]:
        results = [self._results[index] for index in sorted(self._results)]
        for index, reason in self._lost.items():
            if len(self.configs) == 1:
                raise LostError(reason, results)
            raise LostError(
                f"{len(self._lost)} of {len(self.configs)} runs without a result; the first, "
                f"{self.configs[index]}: {reason}",
                results,
            )
        return results


# --- processes side by side


class _Worker:
    """A process that trains what it is sent; `send` a run, then `receive` its epochs and its result."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
        self.connection, other = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(other,))
        with _interrupts_ignored():
            self._process.start()
        other.close()
        self.has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def send(self, config: RunConfig, session_id: str) -> None:
        with suppress(OSError):  # it has ended: `receive` finds out why
            self.connection.send((config, session_id))

    def receive(self) -> Epoch | TrainResult | str:
        """An epoch; at the end the result, or why there is none."""
        try:
            told: Epoch | TrainResult | str = self.connection.recv()
        except (EOFError, OSError):
            self.has_ended = True
            self._process.join()
            code = self._process.exitcode or 0
            if code >= 0:
                return f"its process ended with exit code {code}"
            advice = ", as it is where memory runs out: use fewer --jobs" if -code == signal.SIGKILL else ""
            return f"its process was ended by signal {-code} ({signal.strsignal(-code)}){advice}"
        return told


def _work(pipe: "connection.Connection") -> None:
    """What a worker does, until its study ends or is killed."""
    torch.set_num_threads(1)  # for what comes before a trainer's own number: reading the data
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            config, session_id = pipe.recv()
            answer: TrainResult | str
            try:
                answer = Trainer(config).fit(session_id, pipe.send)
            except InputError as error:
                answer = str(error)
            pipe.send(answer)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process started meanwhile never heeds Ctrl-C, which a terminal sends to all: the study ends its workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
