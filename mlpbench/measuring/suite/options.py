"""Define the options of the suite, and read the command line back: which options are given, and how to run it again."""

import os
import shlex
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from mlpbench.measuring.timing import PRESETS

FIRST_PROCESS_OPTIONS = (
    "--benchmark-json",
    "--benchmark-save",
    "--benchmark-histogram",
    "--junitxml",
    "--junit-xml",
)
"""Options of pytest and pytest-benchmark that name a file. Only the first process of a run writes it."""

PATH_OPTIONS = (
    "--results",
    "--benchmark-json",
    "--benchmark-storage",
    "--benchmark-histogram",
    "--basetemp",
    "--rootdir",
    "--junitxml",
    "--junit-xml",
    "-c",
    "--config-file",
    "--confcutdir",
)
"""Options whose values are paths. They do not change the measurement, and a record must not hold a path."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the workload and for how much to measure; pytest-benchmark has the others."""
    group = parser.getgroup("mlpbench")
    group.addoption("--preset", default="quick", help=f"how much to measure: {', '.join(PRESETS)} (default: quick)")
    group.addoption("--device", help="cpu, cuda or auto; without it, CPU and CUDA side by side")
    group.addoption("--dataset", help="digits, mnist, fashion_mnist or kmnist")
    group.addoption(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the workload, for example batch_size=10; an unknown field lists all of them",
    )
    group.addoption("--results", metavar="DIR", help="where results are appended (default: results/)")


def is_given(config: pytest.Config, *options: str) -> bool:
    """True if one of these options is on the command line, even with its default value."""
    arguments = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    return any(str(argument).split("=")[0] in options for argument in arguments)


def is_distributed(config: pytest.Config) -> bool:
    """True if pytest-xdist runs the tests in several processes, in the main process as well as in a worker."""
    return config.getoption("dist", "no") != "no" or hasattr(config, "workerinput")


def arguments_without(config: pytest.Config, options: Container[str]) -> Iterator[str]:
    """Give the arguments of this run, without these options and their values."""
    arguments = iter(map(str, config.invocation_params.args))
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name not in options:
            yield argument
        elif not equals:
            # The value is the next argument.
            next(arguments, None)


def command(config: pytest.Config) -> str:
    """Return the command that measures the same again, without paths outside the repository."""
    arguments = []
    for argument in arguments_without(config, PATH_OPTIONS):
        if Path(argument.rpartition("=")[2]).is_absolute() and "=" in argument:
            # An option of another plugin, with a path.
            continue
        if not Path(argument).is_absolute():
            arguments.append(argument)
        elif Path(argument).is_relative_to(config.rootpath):
            arguments.append(str(Path(argument).relative_to(config.rootpath)))
    return shlex.join(["pytest", *arguments])
