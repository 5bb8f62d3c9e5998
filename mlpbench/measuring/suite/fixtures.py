"""Define the fixtures of the suite: functions that a benchmark calls once, with an operation and changes of fields."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlpbench.config import Clock, Operation, RunConfig
from mlpbench.errors import InputError
from mlpbench.machine import environment
from mlpbench.machine.clock import waiting
from mlpbench.measuring import first_step, memory, timing
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.measuring.suite.suite import SUITE, Suite, end_run
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Suite:
    """Return the suite, after loading its data, which every benchmark needs."""
    suite = request.config.stash[SUITE]
    try:
        datasets.load(suite.base.dataset)
    except InputError as error:
        end_run(str(error))
    return suite


@pytest.fixture
def time_operation(request: pytest.FixtureRequest, suite: Suite, benchmark: Any) -> Callable[..., None]:
    """Return `time_operation(operation, clock=..., **fields)`, which times an operation of the changed workload."""
    name = request.path.stem.removeprefix("test_")

    def run(operation: str, clock: str = Clock.THROUGHPUT, **fields: Any) -> None:
        config = suite.base
        try:
            config = dataclasses.replace(suite.base, **fields)
            trainer = Trainer(config)
            timing.check_clock(clock, operation, trainer.config.device)
            call = trainer.operation(operation)
        except InputError as error:
            # Without this, pytest-benchmark warns that its fixture is not used.
            benchmark.skipped = True
            suite.skip(operation, config, str(error))
        if clock == Clock.LATENCY:
            call = waiting(call)
        benchmark.group = f"{name} {operation} {trainer.config.device}"
        if suite.is_recording and not benchmark.disabled:
            _time_and_record(suite, benchmark, trainer, operation, call, name=name, clock=clock)
        else:
            trainer.prepare(operation)
            benchmark(call)

    return run


def _time_and_record(
    suite: Suite,
    benchmark: Any,
    trainer: Trainer,
    operation: str,
    call: Callable[[], object],
    *,
    name: str,
    clock: str,
) -> None:
    """Time an operation, and append its measurement and every block to the results."""
    session = suite.session
    rounds = suite.rounds(operation)
    measurement, iterations = timing.begin(
        trainer,
        operation,
        session,
        suite=name,
        rounds=rounds,
        warm_up_s=suite.preset.warm_up_s,
        clock=clock,
    )
    suite.append(measurement)
    benchmark.extra_info |= {
        "session": session.id,
        "measurement": measurement.id,
        "preset": suite.preset_name,
        "operation": operation,
        "workload": str(trainer.config),
        "clock": measurement.clock,
        "samples_per_call": measurement.samples_per_call,
        "commit": session.environment.commit,
    }
    watch = suite.watch(trainer.config.device)
    if clock == Clock.DEVICE:
        # pytest-benchmark has one clock only. So the blocks are timed here, and it gets one call to show.
        for index in range(rounds):
            block = timing.observe(measurement, trainer, iterations=iterations, round_index=index, order=0, watch=watch)
            suite.append(block)
        benchmark.pedantic(call)
        return
    suite.timer.follow(benchmark, measurement.id, watch, suite.append)

    def prepare() -> None:
        suite.timer.flush()
        trainer.prepare(operation)

    try:
        if Operation(operation).is_long:
            benchmark.pedantic(call, setup=prepare, rounds=rounds)
        else:
            benchmark(call)
    finally:
        suite.timer.flush()


@pytest.fixture
def time_interleaved(suite: Suite, benchmark: Any) -> Callable[..., None]:
    """Return `time_interleaved(operation, engines, **fields)`, which times several engines, interleaved by rounds.

    An engine that cannot run here is skipped, and the reason is recorded. pytest-benchmark times one call only; it gets
    the call of the first engine to show.
    """

    def run(operation: str, engines: Sequence[str], **fields: Any) -> None:
        trainers, reason = [], "the list of engines is empty"
        for engine in engines:
            config = suite.base
            try:
                config = dataclasses.replace(suite.base, engine=engine, **fields)
                trainer = Trainer(config)
                trainer.prepare(operation)
                trainers.append(trainer)
            except InputError as error:
                reason = str(error)
                if not suite.run:
                    suite.record_skip(operation, config, reason)
        if not trainers:
            benchmark.skipped = True
            pytest.skip(reason)
        first = trainers[0]
        benchmark.group = f"engines {operation} {first.config.device}, {first.config.engine} alone"
        if suite.is_recording and not benchmark.disabled:
            timing.measure(
                operation,
                trainers,
                session=suite.session,
                suite="engines",
                rounds=suite.rounds(operation),
                warm_up_s=suite.preset.warm_up_s,
                emit=suite.append,
                watch=suite.watch(first.config.device),
            )
        first.prepare(operation)
        benchmark.pedantic(first.operation(operation))

    return run


@pytest.fixture
def time_first_step(suite: Suite) -> Callable[..., None]:
    """Return `time_first_step(**fields)`, which times the first step of a fresh process with empty caches."""

    def run(**fields: Any) -> None:
        if suite.run:
            pytest.skip("already measured by the first process")
        config = suite.base
        try:
            config = dataclasses.replace(suite.base, **fields)
            # Raises here, at once, what would be raised in the fresh process.
            Trainer(config)
            records = first_step.measure(config, suite.session_id)
        except InputError as error:
            suite.skip(first_step.OPERATION, config, str(error))
        for record in records if suite.is_recording else ():
            suite.append(record)

    return run


@pytest.fixture
def measure_memory(suite: Suite) -> Callable[..., None]:
    """Return `measure_memory(operation, **fields)`, which measures the peak memory in a fresh process."""

    def run(operation: str, **fields: Any) -> None:
        config: RunConfig = dataclasses.replace(suite.base, **fields)
        session_id = suite.session_id
        try:
            environment.resolve_device(config.device)
            record = in_fresh_process(memory.measure, operation, config, session_id)
        except InputError as error:
            suite.skip(f"memory of {operation}", config, str(error))
        assert record.peak_bytes >= record.before_bytes > 0, "a peak is not below the memory in use before"
        if suite.is_recording:
            suite.append(record)

    return run
