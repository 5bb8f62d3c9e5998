"""The suite's options, and the fixtures `timed` and `checked` that its files are made of.

pytest-benchmark runs and shows; every round is also appended to `results/` as a block, the moment it is over.
"""

import dataclasses
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlpbench import checks, data, environment, store, timing
from mlpbench.records import Block, Check, InputError, Record, RunConfig, Session, Skip, choose, override
from mlpbench.trainer import Trainer, check_names

PLAIN = (
    "benchmark_min_rounds",
    "benchmark_min_time",
    "benchmark_max_time",
)  # as pytest-benchmark parses them
SUITE = pytest.StashKey["Suite"]()


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
        shown = {"preset": self.preset_name, **named, "k": config.getoption("keyword")}
        options = [f"-{'' if name == 'k' else '-'}{name} {value!s}" for name, value in shown.items() if value]
        sets = [f"--set {setting}" for setting in config.getoption("set")]
        self.command = " ".join(["pytest bench/", *options, *sets])
        is_distributed = config.getoption("dist", "no") != "no" or hasattr(config, "workerinput")
        self.is_recording = not (config.getoption("benchmark_disable") or is_distributed)
        self.results = Path(config.getoption("results") or config.rootpath / "results")
        self.checks: list[Check] = []
        self.file: Path | None = None
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session; it begins, in the file, when the first record needs it."""
        if self._session is None:
            self._session = environment.start_session(self.command, self.preset_name)
            self.file = store.results_file(self.results, environment.current(), datetime.now(UTC).date())
            store.append(self.file, self._session)
        return self._session

    def append(self, record: Record) -> None:
        """Write a record of this session, unless benchmarks are disabled."""
        if self.is_recording:
            assert self.file is not None, "a record names its session, which opens the file"
            store.append(self.file, record)


class RoundTimer:
    """The synchronising clock, as pytest-benchmark reads it; emits a block for every round that it has counted.

    A round is counted after its second reading, so it is emitted at the next reading, before the clock is read: the
    writing stays outside the timed region.
    """

    def __init__(self) -> None:
        self._readings = (0.0, 0.0)
        self._emit: Callable[[Block], None] | None = None

    def __call__(self) -> float:
        """Seconds, once the device is done."""
        self.flush()
        self._readings = (self._readings[1], timing.clock())
        return self._readings[1]

    def follow(self, benchmark: Any, measurement_id: str, emit: Callable[[Block], None]) -> None:
        """Emit the rounds of this fixture from now on."""
        self._benchmark, self._measurement_id, self._emit, self._num_emitted = (
            benchmark,
            measurement_id,
            emit,
            0,
        )

    def flush(self) -> None:
        """Emit the round that was counted last, if it has not been."""
        if self._emit is None or self._benchmark.stats is None:
            return
        if len(self._benchmark.stats.stats.data) > self._num_emitted:
            start, end = self._readings
            block = Block(
                measurement=self._measurement_id,
                round=self._num_emitted,
                order=0,
                iterations=self._benchmark.stats.iterations,
                wall_ns=round((end - start) * 1e9),
            )
            self._num_emitted += 1
            self._emit(block)


TIMER = RoundTimer()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot run before anything does."""
    try:
        config.stash[SUITE] = Suite(config)
    except InputError as error:
        pytest.exit(f"mlpbench: {error}", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give our benchmarks our clock and protocol; what the user said to pytest-benchmark itself goes first."""
    preset = config.stash[SUITE].preset
    protocol = dict(zip(PLAIN, (preset.rounds, timing.MIN_BLOCK_S, 0.0), strict=True))
    usual = dict(zip(PLAIN, (5, 0.000005, 1.0), strict=True))
    ours = {
        name.removeprefix("benchmark_"): value
        for name, value in protocol.items()
        if float(config.getoption(name)) == usual[name]
    }
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.benchmark(timer=TIMER, **ours))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A run that selects nothing has measured nothing, which nobody wants to learn from an empty report."""
    is_controller = session.config.getoption("dist", "no") != "no"
    if not session.items and not is_controller:
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
        data.load(suite.base.dataset)
    except InputError as error:
        pytest.exit(f"mlpbench: {error}", returncode=2)
    return suite


@pytest.fixture
def timed(request: pytest.FixtureRequest, suite: Suite, benchmark: Any) -> Callable[..., None]:
    """`timed(operation, **fields)`: time an operation of the suite's workload with these fields changed."""
    name = request.path.stem.removeprefix("test_")

    def run(operation: str, **fields: Any) -> None:
        config = dataclasses.replace(suite.base, **fields)
        try:
            trainer = Trainer(config)
        except InputError as error:
            benchmark.skipped = True  # or pytest-benchmark warns of an unused fixture
            if suite.is_recording:
                suite.append(Skip(session=suite.session.id, operation=operation, config=config, reason=str(error)))
            pytest.skip(str(error))
        call = trainer.operation(operation)
        benchmark.group = f"{name} {operation} {trainer.config.device}"
        if not suite.is_recording:
            trainer.prepare(operation)
            benchmark(call)
            return
        _, warm_up_s, settled = timing.ready(trainer, operation, suite.preset.warm_up_s)
        measurement = timing.describe(
            trainer,
            operation,
            suite.session,
            suite=name,
            group=uuid.uuid4().hex[:12],
            warm_up_s=warm_up_s,
            settled=settled,
        )
        suite.append(measurement)
        benchmark.extra_info |= {
            "session": suite.session.id,
            "measurement": measurement.id,
            "preset": suite.preset_name,
            "operation": operation,
            "workload": str(trainer.config),
            "clock": measurement.clock,
            "samples_per_call": measurement.samples_per_call,
        }
        TIMER.follow(benchmark, measurement.id, suite.append)
        if operation in timing.LONG_OPERATIONS:
            prepare = lambda: trainer.prepare(operation)  # noqa: E731
            benchmark.pedantic(call, setup=prepare, rounds=suite.preset.epoch_rounds)
        else:
            benchmark(call)
        TIMER.flush()

    return run


@pytest.fixture
def checked(suite: Suite) -> Callable[..., None]:
    """`checked(name, **fields)`: compare two runs bit for bit; a difference is a result, not a failure."""

    def run(name: str, **fields: Any) -> None:
        config = dataclasses.replace(suite.base, **fields)
        try:
            record = checks.check(name, config, suite.session.id if suite.is_recording else "-")
        except InputError as error:
            if suite.is_recording:
                suite.append(
                    Skip(session=suite.session.id, operation=f"check {name}", config=config, reason=str(error))
                )
            pytest.skip(str(error))
        suite.checks.append(record)
        suite.append(record)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what the checks found and where the results are."""
    suite = config.stash[SUITE]
    if suite.checks:
        terminalreporter.section("determinism")
    for check in suite.checks:
        found = "equal bits" if check.first_difference is None else f"first difference: {check.first_difference}"
        terminalreporter.line(f"same seed, {check.name} ({check.config.device}, {check.num_steps} steps): {found}")
    if suite.file is not None:
        terminalreporter.line(f"results: {suite.file}; `mlpbench report` makes tables and figures of them")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Leave out the host's name and what changes from run to run; add our fingerprint, as plain values."""
    machine_info.pop("node", None)
    for volatile in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(volatile, None)
    fingerprint = dataclasses.asdict(environment.current())
    machine_info["mlpbench"] = fingerprint | {"variables": dict(fingerprint["variables"])}
