"""Train a grid of configs over several seeds, one run after the other or several at once.

Several at once on the CPU: each run has a process, by default with one thread, and the bits of a separate run. Several
at once on a GPU: the seeds of a config are one batched model, with their separate curves up to rounding (see
`batched_seeds.py`). The times of such runs are those of runs that share the machine.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Protocol

import torch

from mlpbench.config import RunConfig, grid
from mlpbench.errors import InputError, choose
from mlpbench.machine import environment
from mlpbench.records.kinds import EpochResult, TrainResult
from mlpbench.training import batched_seeds, checkpoint
from mlpbench.training.resume import Start
from mlpbench.training.study_worker import Note, Worker
from mlpbench.training.trainer import Trainer, check_names
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS

MOST_RUNS = 10_000
TUTORIAL = ("relu", "tanh", "elu")
"""The activations of the tutorial's three hidden layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Describe a grid of configs: activations x optimizers x seeds, with all other fields from a base."""

    base: RunConfig
    activations: tuple[tuple[str, ...], ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    has_usual_lr: bool = True
    """True if an optimizer gets its usual learning rate, where the learning rate of the base would be unfair."""

    def configs(self) -> list[RunConfig]:
        """Return the configs of the grid, seed by seed, so that a slow time of the machine affects all of them.

        Raises:
            InputError: if there are too many, or for a value out of range.
        """
        num_runs = len(self.seeds) * len(self.activations) * len(self.optimizers)
        if num_runs > MOST_RUNS:
            raise InputError(f"a study has at most {MOST_RUNS:,} runs, not {num_runs:,}; take fewer seeds")
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
    # The tutorial itself, with its data set and its number of epochs.
    "tutorial": Study(base=RunConfig(dataset="mnist"), activations=(TUTORIAL,), optimizers=("sgd",), seeds=(0,)),
}


def check(configs: Iterable[RunConfig]) -> None:
    """Check that every config can run here, before anything is trained or written. This loads the data sets.

    Raises:
        InputError: for an unknown name, or if the device or the data set is not available.
    """
    for config in configs:
        check_names(config)
        datasets.load(config.dataset)


class Observer(Protocol):
    """Receive the events of a study."""

    def start(self, config: RunConfig, num_done: int = 0) -> None:
        """Receive the start of a run, which goes on after `num_done` epochs."""

    def epoch(self, epoch: EpochResult, config: RunConfig | None = None) -> None:
        """Receive an epoch of a run. Without a config, it belongs to the run that started last."""

    def failure(self, config: RunConfig, reason: str) -> None:
        """Receive the end of a run that has no result."""

    def note(self, text: str) -> None:
        """Receive what a person should know of a run."""


class FailedRunsError(InputError):
    """Report runs without a result."""

    def __init__(self, message: str, results: list[TrainResult]) -> None:
        super().__init__(message)
        self.results = results
        """The results of the other runs."""


Emit = Callable[[EpochResult | TrainResult], None]
StartOf = Callable[[RunConfig], Start | None]


def default_jobs(configs: Sequence[RunConfig]) -> int:
    """Return how many runs to train at once: on the CPU as many as there are CPUs, on a GPU all seeds of a config.

    A config with several threads counts as so many CPUs.
    """
    if any(_is_on_gpu(config) for config in configs):
        return max(len({config.seed for config in configs}), 1)
    num_threads = max((config.num_threads or 1 for config in configs), default=1)
    return max(environment.current().stack.num_allowed_cpus // num_threads, 1)


def side_by_side(configs: Sequence[RunConfig], jobs: int) -> list[RunConfig]:
    """Return the configs as up to `jobs` runs at once have them: on the CPU each with one thread, if it sets none."""
    if min(jobs, len(configs)) <= 1:
        return list(configs)
    return [c if _is_on_gpu(c) else replace(c, num_threads=c.num_threads or 1) for c in configs]


def run(
    configs: Iterable[RunConfig],
    session_id: str,
    emit: Emit,
    observer: Observer,
    *,
    jobs: int = 1,
    start_of: StartOf = lambda _: None,
) -> list[TrainResult]:
    """Train every config, up to `jobs` at once, and emit each epoch and each result as soon as it exists.

    With 1 job, or a single config, the runs are trained one after the other in this process. A config that sets no
    thread count then gets PyTorch's own.

    With more jobs, runs on the CPU are trained in processes side by side. A config that sets no thread count then gets
    1, and its record says so. Runs on a GPU that differ only in their seed are trained as one batched model if
    `batched_seeds.can_train`, else one after the other. The other runs go on if a run has no result.

    `start_of` gives a run its start: where it stores its state, and where it was interrupted. The seeds of a batched
    model store none, and always begin from their initial parameters.

    Returns:
        The results, in the order of the configs.

    Raises:
        FailedRunsError: at the end, if a run has no result, because its config cannot run or its process was killed.
    """
    study = _StudyRun(side_by_side(list(configs), jobs), session_id, emit, observer, start_of)
    jobs = min(jobs, len(study.configs))
    on_gpu = [index for index, config in enumerate(study.configs) if _is_on_gpu(config)]
    on_cpu = [index for index in range(len(study.configs)) if index not in on_gpu]
    if jobs <= 1:
        study.one_by_one(range(len(study.configs)))
    else:
        study.side_by_side(on_cpu, jobs)
        study.batched(on_gpu, jobs)
    return study.end()


def _is_on_gpu(config: RunConfig) -> bool:
    return config.device != "cpu" and torch.cuda.is_available()


class _StudyRun:
    """Run a study. Its runs are identified by their index."""

    def __init__(
        self, configs: list[RunConfig], session_id: str, emit: Emit, observer: Observer, start_of: StartOf
    ) -> None:
        self.configs = configs
        self._start_of = start_of
        self._session_id = session_id
        self._emit = emit
        self._observer = observer
        self._results: dict[int, TrainResult] = {}
        self._failures: dict[int, str] = {}
        self._unwritten: InputError | None = None

    def one_by_one(self, indices: Iterable[int]) -> None:
        """Train these runs in this process, one after the other."""
        for index in indices:
            config = self.configs[index]
            start = self._begin(config)
            try:
                result = Trainer(config).fit(self._session_id, self._add_epoch, start, self._observer.note)
            except InputError as error:
                self._check_written(error)
                self._add_failure(index, str(error))
            else:
                self._add_result(index, result)

    def side_by_side(self, indices: Iterable[int], jobs: int) -> None:
        """Train these runs in up to `jobs` processes; a worker gets its next run when it has answered."""
        waiting = deque(indices)
        running: dict[Worker, int] = {}

        def start_next(worker: Worker) -> None:
            running[worker] = waiting.popleft()
            config = self.configs[running[worker]]
            worker.send(config, self._session_id, self._begin(config))

        with ExitStack() as stack:
            while waiting and len(running) < jobs:
                start_next(stack.enter_context(Worker.start()))
            while running:
                ready = connection.wait([worker.connection for worker in running])
                for worker in [worker for worker in running if worker.connection in ready]:
                    message = worker.receive()
                    if isinstance(message, EpochResult):
                        self._add_epoch(message, self.configs[running[worker]])
                        continue
                    if isinstance(message, Note):
                        self._observer.note(message.text)
                        continue
                    index = running.pop(worker)
                    if isinstance(message, TrainResult):
                        self._add_result(index, message)
                    else:
                        self._add_failure(index, message)
                    if waiting and not worker.has_ended:
                        start_next(worker)
                # While others run, a process that ended is not replaced: most likely there is too little memory.
                if waiting and not running:
                    start_next(stack.enter_context(Worker.start()))

    def batched(self, indices: Iterable[int], jobs: int) -> None:
        """Train these runs as batched models of up to `jobs` seeds of a config."""
        groups: dict[RunConfig, list[int]] = {}
        for index in indices:
            groups.setdefault(replace(self.configs[index], seed=0), []).append(index)
        for group in groups.values():
            for first in range(0, len(group), jobs):
                self._train_batched(group[first : first + jobs])

    def _train_batched(self, indices: list[int]) -> None:
        """Train these runs as one batched model if possible, else one after the other."""
        configs = [self.configs[index] for index in indices]
        if len(configs) == 1 or not batched_seeds.can_train(configs[0]):
            self.one_by_one(indices)
            return
        for config in configs:
            self._observer.start(config)
        try:
            results = batched_seeds.fit(configs, self._session_id, self._add_epoch)
        except InputError as error:
            self._check_written(error)
            for index in indices:
                self._add_failure(index, str(error))
        else:
            for index, result in zip(indices, results, strict=True):
                self._add_result(index, result)

    def _begin(self, config: RunConfig) -> Start | None:
        try:
            start = self._start_of(config)
        except InputError:
            # The trainer reports what is wrong with the config.
            start = None
        self._observer.start(config, start.num_done if start else 0)
        return start

    def _add_epoch(self, epoch: EpochResult, config: RunConfig | None = None) -> None:
        try:
            self._emit(epoch)
        except InputError as error:
            self._unwritten = error
            raise
        self._observer.epoch(epoch, config)

    def _check_written(self, error: InputError) -> None:
        """Raise the error if it is that of a record which could not be written: it ends the study, not the run."""
        if error is self._unwritten:
            raise error

    def _add_result(self, index: int, result: TrainResult) -> None:
        self._results[index] = result
        self._emit(result)
        start = self._start_of(self.configs[index])
        if start:
            checkpoint.remove(start.path)

    def _add_failure(self, index: int, reason: str) -> None:
        self._failures[index] = reason
        self._observer.failure(self.configs[index], reason)

    def end(self) -> list[TrainResult]:
        """Return the results, or report the runs without a result."""
        results = [self._results[index] for index in sorted(self._results)]
        for index, reason in self._failures.items():
            if len(self.configs) == 1:
                raise FailedRunsError(reason, results)
            raise FailedRunsError(
                f"{len(self._failures)} of {len(self.configs)} runs have no result; the first, "
                f"{self.configs[index]}: {reason}",
                results,
            )
        return results
