"""Gather the hooks and fixtures of the suite, for a `conftest.py` that takes them all with `import *`."""

from mlpbench.measuring.suite.fixtures import (
    measure_memory,
    suite,
    time_first_step,
    time_interleaved,
    time_operation,
)
from mlpbench.measuring.suite.hooks import (
    pytest_benchmark_update_machine_info,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from mlpbench.measuring.suite.options import pytest_addoption

__all__ = [
    "measure_memory",
    "pytest_addoption",
    "pytest_benchmark_update_machine_info",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "suite",
    "time_first_step",
    "time_interleaved",
    "time_operation",
]
