"""Rules about the source that no linter checks."""

import ast
import re
from pathlib import Path

import pytest

from tests.paths import ROOT

MODULES = sorted((ROOT / "mlpbench").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "bench").glob("test_*.py"))


def imported(path: Path) -> set[str]:
    """The names of the modules that a file imports, at its top or anywhere else."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_sources_are_found():
    assert {"kinds.py", "build.py", "timing.py"} <= {path.name for path in MODULES}
    assert len(BENCHMARKS) >= 5


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module_has_at_most_400_lines(path):
    assert num_lines(path) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module_is_named_after_its_job(path):
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}


def test_package_reexports_nothing():
    assert imported(ROOT / "mlpbench" / "__init__.py") == set()


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_is_short(path):
    assert num_lines(path) <= 40


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_leaves_torch_time_and_loops_to_its_fixtures(path):
    assert {name.split(".")[0] for name in imported(path)} & {"torch", "time", "timeit"} == set()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [node for node in nodes if isinstance(node, ast.For | ast.While)]


def test_only_timing_synchronises_the_device():
    calls = re.compile(r"\bsynchronize\b")
    sources = [*MODULES, *(ROOT / "bench").glob("*.py")]
    users = {path.name for path in sources if calls.search(path.read_text(encoding="utf-8"))}
    assert users == {"clock.py"}
