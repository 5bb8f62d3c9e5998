"""Define the pytest hooks of the suite: check its options, set up its benchmarks, run fresh processes, report."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mlpbench.errors import InputError
from mlpbench.machine import environment
from mlpbench.machine.parent import end_with_parent
from mlpbench.measuring.suite.options import FIRST_PROCESS_OPTIONS, arguments_without, is_distributed, is_given
from mlpbench.measuring.suite.suite import RUN_VARIABLE, SUITE, Suite, end_run
from mlpbench.measuring.timing import MIN_BLOCK_S

_CALIBRATION_PRECISION = 100
"""pytest-benchmark estimates the calls of a round from one of 1 ms, and not by growing it tenfold up to 10 ms."""


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before any test runs."""
    if not config.pluginmanager.hasplugin("benchmark"):
        end_run("the suite needs the plugin pytest-benchmark; run it without `-p no:benchmark`")
    if os.environ.get(RUN_VARIABLE):
        end_with_parent()
    # Its number of threads is read here, before a workload changes it.
    environment.current()
    try:
        config.stash[SUITE] = Suite(config)
    except InputError as error:
        end_run(str(error))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the benchmarks of the suite our clock, and our protocol for each option that neither user nor mark sets."""
    suite = config.stash[SUITE]
    protocol: dict[str, Any] = {}
    if not is_given(config, "--benchmark-min-rounds"):
        protocol["min_rounds"] = suite.preset.rounds
    if not is_given(config, "--benchmark-min-time"):
        protocol["min_time"] = MIN_BLOCK_S
    if not is_given(config, "--benchmark-calibration-precision"):
        protocol["calibration_precision"] = _CALIBRATION_PRECISION
    if not is_given(config, "--benchmark-max-time", "--benchmark-precision"):
        # Exactly `min_rounds` rounds.
        protocol["max_time"] = 0.0
    folders = _folders(config)
    for item in items:
        if not folders.isdisjoint(item.path.parents):
            mark = item.get_closest_marker("benchmark")
            kwargs = protocol | dict(mark.kwargs if mark else {}) | {"timer": suite.timer}
            item.add_marker(pytest.mark.benchmark(**kwargs), append=False)


def _folders(config: pytest.Config) -> set[Path]:
    """Return the folder of each `conftest.py` that takes the suite: the tests below it are benchmarks of the suite."""
    hook = pytest_collection_modifyitems
    plugins = config.pluginmanager.get_plugins()
    return {Path(p.__file__).parent for p in plugins if getattr(p, hook.__name__, None) is hook}


def pytest_collection_finish(session: pytest.Session) -> None:
    """End a run that selects no test, because an empty report would hide the mistake."""
    if not session.items and not is_distributed(session.config):
        end_run("nothing is selected; `pytest bench/ --collect-only -q` lists all benchmarks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a benchmark that takes a `device` on each device of the suite."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.stash[SUITE].devices)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which benchmark runs, for the records of what is skipped."""
    suite = item.config.stash[SUITE]
    suite.benchmark, suite.has_recorded_skip = f"{item.path.stem}::{item.name}".replace("test_", ""), False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record that a benchmark was skipped, if it has not done so itself: the report lists everything that was."""
    report = yield
    suite = item.config.stash[SUITE]
    reason = call.excinfo.value if call.excinfo else None
    # The first process has measured what the later ones skip.
    if isinstance(reason, pytest.skip.Exception) and not (suite.has_recorded_skip or suite.run):
        operation = item.name.partition("[")[0].removeprefix("test_")
        suite.record_skip(operation, suite.base, str(reason))
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Measure the same again in the fresh processes of the preset, because a process describes only itself."""
    suite = session.config.stash.get(SUITE, None)
    if suite is None or suite.file is None or suite.run or exitstatus != pytest.ExitCode.OK:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for number in range(1, suite.preset.processes):
        if reporter:
            reporter.write_line(f"\nfresh process {number + 1} of {suite.preset.processes}")
        process = _run_process(session.config, suite, number)
        if process.returncode:
            if reporter:
                reporter.write_line(process.stdout + process.stderr)
            session.exitstatus = process.returncode
            return


def _run_process(config: pytest.Config, suite: Suite, number: int) -> "subprocess.CompletedProcess[str]":
    """Run the same command in a fresh process, which appends to the same run."""
    arguments = [a for a in arguments_without(config, FIRST_PROCESS_OPTIONS) if a != "--benchmark-autosave"]
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", *arguments],
        env=os.environ | {RUN_VARIABLE: f"{suite.session.id}:{number}"}, cwd=config.invocation_params.dir,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the remarks of the fixtures, and where the results are."""
    suite = config.stash[SUITE]
    for title, lines in suite.remarks.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
    if suite.file is not None and suite.file.exists():
        terminalreporter.line(f"results: {suite.file}; `mlpbench report` shows them as tables and figures")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Remove the host's name and values that change from run to run; add the machine and its software as plain values.

    A comparison of pytest-benchmark's files warns if this information differs.
    """
    machine_info.pop("node", None)
    for name in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(name, None)
    current = environment.current()
    others = {"source", *dict(current.stack.variables)}
    facts = {name: text for name, text in current.measuring_facts().items() if name not in others}
    machine_info["mlpbench"] = facts | {"mlpbench": current.mlpbench}
