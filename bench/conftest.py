"""The suite's options, and the fixtures `timed` and `checked` that its files are made of.

pytest-benchmark runs and shows; every round is also appended to `results/` as a block, the moment it is over.
"""

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from mlpbench.certifying import certificate, reruns
from mlpbench.certifying.certify import certify
from mlpbench.config import Operation, RunConfig, override
from mlpbench.errors import InputError, choose
from mlpbench.machine import environment, peaks
from mlpbench.machine.clock import waiting
from mlpbench.measuring import first_step, memory, timing
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.measuring.suite.round_timer import RoundTimer
from mlpbench.records import store
from mlpbench.records.kinds import Check, Record, Session, Skip
from mlpbench.training.trainer import Trainer, check_names
from mlpbench.workload import datasets

SUITE = pytest.StashKey["Suite"]()
NUM_CERTIFIED_STEPS = 20
RUN = "MLPBENCH_RUN"  # <run>:<process>, for the processes after the first
# Options that name files of pytest-benchmark's, which are of the first process.
OF_THE_FIRST = ("--benchmark-json", "--benchmark-save", "--benchmark-histogram", "--junitxml", "--junit-xml")
# Options whose values are paths, which no record may hold, and which change nothing that is measured.
PRIVATE = ("--results", "--benchmark-json", "--benchmark-storage", "--benchmark-histogram", "--basetemp", "--rootdir",
           "--junitxml", "--junit-xml", "-c", "--config-file", "--confcutdir")  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Name the workload and how much of it to measure; everything else is pytest-benchmark's."""
    group = parser.getgroup("mlpbench")
    group.addoption("--preset", default="quick", help=f"how much to measure: {', '.join(timing.PRESETS)}")
    group.addoption("--device", help="cpu, cuda or auto; without it CPU and CUDA side by side")
    group.addoption("--dataset", help="digits, mnist, fashion_mnist or kmnist")
    group.addoption("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the workload")
    group.addoption("--results", metavar="DIR", help="where results are appended (default: results/)")


class Suite:
    """One run of the suite: its workload, how much it measures, and where it writes."""

    def __init__(self, config: pytest.Config) -> None:
        self.preset_name = config.getoption("preset")
        self.preset = choose(timing.PRESETS, self.preset_name, "preset")
        named = {name: config.getoption(name) for name in ("dataset", "device")}
        settings = [*(f"{name}={value}" for name, value in named.items() if value), *config.getoption("set")]
        self.base = override(RunConfig(), settings)
        check_names(self.base)
        one_device = any(setting.startswith("device=") for setting in settings)
        self.devices = [environment.resolve_device(self.base.device).type] if one_device else ["cpu", "cuda"]
        is_distributed = config.getoption("dist", "no") != "no" or hasattr(config, "workerinput")
        self.is_recording = not (config.getoption("benchmark_disable") or is_distributed)
        # Set by `pytest_sessionfinish` in the processes that it starts.
        self.run, _, process = os.environ.get(RUN, "").partition(":")
        self.process = int(process or 0)
        self.results = Path(config.getoption("results") or config.rootpath / "results")
        self.min_rounds = config.getoption("benchmark_min_rounds") if is_said(config, "--benchmark-min-rounds") else 0
        self.checks: list[Check] = []
        self.file: Path | None = None
        self._command = command(config)
        self._session: Session | None = None
        self._watches: dict[str, timing.Watch] = {}

    @property
    def session(self) -> Session:
        """The session; it begins, in the file, when the first record needs it."""
        if self._session is None:
            session = environment.start_session(
                self._command, self.preset_name, run=self.run or None, process=self.process
            )
            self.file = store.results_file(self.results, session.environment, datetime.now(UTC).date())
            self.append(session)
            self._session = session
            if self.process == 0:
                for device in self.devices:
                    if device == "cpu" or torch.cuda.is_available():
                        for peak in peaks.measure(session.id, torch.device(device)):
                            self.append(peak)
        return self._session

    def rounds(self, operation: str) -> int:
        """How many blocks of an operation: the preset's, or what the user says; of a long one no fewer than that."""
        if Operation(operation).is_long:
            return max(self.preset.epoch_rounds, self.min_rounds)
        return self.min_rounds or self.preset.rounds

    def watch(self, device: str) -> timing.Watch:
        """What runs beside the blocks of a device."""
        if device not in self._watches:
            self._watches[device] = timing.Watch(torch.device(device))
        return self._watches[device]

    def append(self, record: Record) -> None:
        """Write a record; if that cannot be, stop, since what is measured from here on would be lost."""
        assert self.file is not None, "a record names its session, which opens the file"
        try:
            store.append(self.file, record)
        except OSError as error:
            pytest.exit(f"mlpbench: cannot write {self.file}: {error.strerror}; choose another --results", returncode=2)

    def skip(self, operation: str, config: RunConfig, reason: str) -> NoReturn:
        """Skip this test, on record."""
        if self.is_recording:
            self.append(Skip(session=self.session.id, operation=operation, config=config, reason=reason))
        pytest.skip(reason)


def is_said(config: pytest.Config, *flags: str) -> bool:
    """Whether the user gave one of these options, be it with its default value."""
    said = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    return any(str(argument).split("=")[0] in flags for argument in said)


def arguments_without(config: pytest.Config, options: Container[str]) -> Iterator[str]:
    """The arguments of this run but for these options and their values."""
    arguments = iter(map(str, config.invocation_params.args))
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name not in options:
            yield argument
        elif not equals:
            next(arguments, None)


def command(config: pytest.Config) -> str:
    """The command that measures this again, without what names a place on this machine."""
    kept = []
    for argument in arguments_without(config, PRIVATE):
        if Path(argument.rpartition("=")[2]).is_absolute() and "=" in argument:
            continue  # any other option's path
        if not Path(argument).is_absolute():
            kept.append(argument)
        elif Path(argument).is_relative_to(config.rootpath):
            kept.append(str(Path(argument).relative_to(config.rootpath)))
    return shlex.join(["pytest", *kept])


TIMER = RoundTimer()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot run before anything does."""
    environment.current()  # before a workload changes the number of threads
    try:
        config.stash[SUITE] = Suite(config)
    except InputError as error:
        pytest.exit(f"mlpbench: {error}", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give our benchmarks our clock, and our protocol where neither the user nor the benchmark's own mark has one."""
    ours: dict[str, Any] = {}
    if not is_said(config, "--benchmark-min-rounds"):
        ours["min_rounds"] = config.stash[SUITE].preset.rounds
    if not is_said(config, "--benchmark-min-time"):
        ours["min_time"] = timing.MIN_BLOCK_S
    if not is_said(config, "--benchmark-calibration-precision"):
        ours["calibration_precision"] = 100  # estimate from a block of 1 ms, not by growing tenfold to 10 ms
    if not is_said(config, "--benchmark-max-time", "--benchmark-precision"):
        ours["max_time"] = 0.0  # so many rounds and no more
    for item in items:
        if Path(__file__).parent in item.path.parents:
            marked = item.get_closest_marker("benchmark")
            kwargs = ours | (marked.kwargs if marked else {}) | {"timer": TIMER}
            item.add_marker(pytest.mark.benchmark(**kwargs), append=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A run that selects nothing has measured nothing, which nobody wants to learn from an empty report."""
    is_distributed = session.config.getoption("dist", "no") != "no" or hasattr(session.config, "workerinput")
    if not session.items and not is_distributed:
        pytest.exit(
            "mlpbench: nothing is selected; `pytest bench/ --collect-only -q` lists what there is", returncode=2
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A benchmark that takes a device runs on each that was asked for."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.stash[SUITE].devices)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Suite:
    """The suite, its data loaded; without data nothing can run."""
    suite = request.config.stash[SUITE]
    try:
        datasets.load(suite.base.dataset)
    except InputError as error:
        pytest.exit(f"mlpbench: {error}", returncode=2)
    return suite


@pytest.fixture
def timed(request: pytest.FixtureRequest, suite: Suite, benchmark: Any) -> Callable[..., None]:
    """`timed(operation, clock=..., **fields)`: time an operation of the suite's workload with these fields changed."""
    name = request.path.stem.removeprefix("test_")

    def run(operation: str, clock: str = "throughput", **fields: Any) -> None:
        config = suite.base
        try:
            config = dataclasses.replace(suite.base, **fields)
            trainer = Trainer(config)
            timing.check_clock(clock, operation, trainer.config.device)
            call = trainer.operation(operation)
        except InputError as error:
            benchmark.skipped = True  # or pytest-benchmark warns of an unused fixture
            suite.skip(operation, config, str(error))
        if clock == "latency":
            call = waiting(call)
        benchmark.group = f"{name} {operation} {trainer.config.device}"
        if not suite.is_recording or benchmark.disabled:
            trainer.prepare(operation)
            benchmark(call)
            return
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
        if clock == "device":  # pytest-benchmark knows one clock: it gets a call to show, and we time
            for index in range(rounds):
                block = timing.observe(
                    measurement, trainer, iterations=iterations, round_index=index, order=0, watch=watch
                )
                suite.append(block)
            benchmark.pedantic(call)
            return
        TIMER.follow(benchmark, measurement.id, watch, suite.append)
        try:
            if Operation(operation).is_long:

                def prepare() -> None:
                    TIMER.flush()
                    trainer.prepare(operation)

                benchmark.pedantic(call, setup=prepare, rounds=rounds)
            else:
                benchmark(call)
        finally:
            TIMER.flush()

    return run


@pytest.fixture
def raced(suite: Suite, benchmark: Any) -> Callable[..., None]:
    """`raced(operation, engines, **fields)`: time an operation of several engines in turns, round by round.

    What cannot run here is skipped, on record. pytest-benchmark, which times one call, gets the first engine's to show.
    """

    def run(operation: str, engines: Sequence[str], **fields: Any) -> None:
        trainers, reason = [], "no engine was asked for"
        for engine in engines:
            config = suite.base
            try:
                config = dataclasses.replace(suite.base, engine=engine, **fields)
                trainer = Trainer(config)
                trainer.prepare(operation)
                trainers.append(trainer)
            except InputError as error:
                reason = str(error)
                if suite.is_recording and not suite.run:
                    suite.append(Skip(session=suite.session.id, operation=operation, config=config, reason=reason))
        if not trainers:
            benchmark.skipped = True
            pytest.skip(reason)
        benchmark.group = f"engines {operation} {trainers[0].config.device}, {trainers[0].config.engine} alone"
        if suite.is_recording and not benchmark.disabled:
            timing.measure(
                operation,
                trainers,
                session=suite.session,
                suite="engines",
                rounds=suite.rounds(operation),
                warm_up_s=suite.preset.warm_up_s,
                emit=suite.append,
                watch=suite.watch(trainers[0].config.device),
            )
        trainers[0].prepare(operation)
        benchmark.pedantic(trainers[0].operation(operation))

    return run


@pytest.fixture
def started(suite: Suite) -> Callable[..., None]:
    """`started(**fields)`: the first step of a fresh process with empty caches."""

    def run(**fields: Any) -> None:
        if suite.run:
            pytest.skip("the first process has measured it")
        config = suite.base
        try:
            config = dataclasses.replace(suite.base, **fields)
            Trainer(config)  # what cannot run at all need not be tried in another process
            records = first_step.measure(config, suite.session.id if suite.is_recording else "-")
        except InputError as error:
            suite.skip(first_step.OPERATION, config, str(error))
        for record in records if suite.is_recording else ():
            suite.append(record)

    return run


@pytest.fixture
def remembered(suite: Suite) -> Callable[..., None]:
    """`remembered(operation, **fields)`: the most memory that it holds, in a fresh process."""

    def run(operation: str, **fields: Any) -> None:
        config = dataclasses.replace(suite.base, **fields)
        session_id = suite.session.id if suite.is_recording else "-"
        try:
            environment.resolve_device(config.device)
            record = in_fresh_process(memory.measure, operation, config, session_id)
        except InputError as error:
            suite.skip(f"memory of {operation}", config, str(error))
        assert record.peak_bytes >= record.before_bytes > 0
        if suite.is_recording:
            suite.append(record)

    return run


@pytest.fixture
def checked(suite: Suite) -> Callable[..., None]:
    """`checked(name, **fields)`: compare two runs bit for bit; a difference is a result, not a failure."""

    def run(name: str, **fields: Any) -> None:
        config = dataclasses.replace(suite.base, **fields)
        try:
            record = reruns.check(name, config, suite.session.id if suite.is_recording else "-")
        except InputError as error:
            suite.skip(f"check {name}", config, str(error))
        suite.checks.append(record)
        if suite.is_recording:
            suite.append(record)

    return run


@pytest.fixture
def certified(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`certified(variables, **fields)`: a certificate, from a fresh process with these environment variables."""

    def run(variables: Mapping[str, str], **fields: Any) -> None:
        if suite.run:
            pytest.skip("the first process has made them: bits are no statistic")
        config = dataclasses.replace(suite.base, **fields)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        try:
            made = in_fresh_process(certify, config, NUM_CERTIFIED_STEPS)
        except InputError as error:
            suite.skip("certificate", config, str(error))
        if not suite.is_recording:
            return
        path = certificate.place(suite.results, made)
        assert suite.session, "the run is on record, so that a report of it can be made"
        try:
            certificate.write(path, made)
        except InputError as error:
            pytest.exit(f"mlpbench: {error}; choose another --results", returncode=2)

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Measure again in as many fresh processes as the preset asks for: one process describes itself only."""
    suite = session.config.stash.get(SUITE, None)
    if suite is None or suite.file is None or suite.run or exitstatus != pytest.ExitCode.OK:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    arguments = [a for a in arguments_without(session.config, OF_THE_FIRST) if a != "--benchmark-autosave"]
    for process in range(1, suite.preset.processes):
        if reporter:
            reporter.write_line(f"\nfresh process {process + 1} of {suite.preset.processes}")
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pytest", *arguments],
            env=os.environ | {RUN: f"{suite.session.id}:{process}"}, cwd=session.config.invocation_params.dir,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            if reporter:
                reporter.write_line(done.stdout + done.stderr)
            session.exitstatus = done.returncode
            return


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what the checks found and where the results are."""
    suite = config.stash[SUITE]
    if suite.checks:
        terminalreporter.section("determinism")
    for check in suite.checks:
        found = "equal bits" if check.first_difference is None else f"first difference: {check.first_difference}"
        terminalreporter.line(f"same seed, {check.name} ({check.config.device}, {check.num_steps} steps): {found}")
    if suite.file is not None and suite.file.exists():
        terminalreporter.line(f"results: {suite.file}; `mlpbench report` makes tables and figures of them")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Leave out the host's name and what changes from run to run; add the machine and stack, as plain values."""
    machine_info.pop("node", None)
    for volatile in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(volatile, None)
    fingerprint = dataclasses.asdict(environment.current())
    for of_the_run in ("commit", "dirty", "variables"):
        del fingerprint[of_the_run]
    machine_info["mlpbench"] = fingerprint
