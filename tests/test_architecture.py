"""Rules about the source that no linter checks."""

import ast
import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "mlpbench"
MODULES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "bench").glob("test_*.py"))
SOURCES = sorted(
    path
    for folder in ("mlpbench", "bench", "tests", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cpp", ".h", ".jinja", ".sh"}
)
FOLDERS = sorted({path.parent for path in MODULES})
# Participles that name how a value came about, not what it is.
NO_NOUNS = {"made", "found", "told", "said", "kept", "shown", "wanted", "spoken", "drawn", "raced", "tried", "begun"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Return the names of the modules that a file imports, at its top or anywhere else."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def bound_names(path: Path) -> set[str]:
    """Return the names of variables and arguments of a file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in nodes if isinstance(node, ast.arg)}


def test_sources_are_found():
    assert {"kinds.py", "build.py", "timing.py"} <= {path.name for path in MODULES}
    assert {"fused.cpp", "native.h", "report.html.jinja"} <= {path.name for path in SOURCES}
    assert len(BENCHMARKS) >= 5
    assert len(FOLDERS) >= 12


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_file_has_at_most_400_lines(path):
    assert num_lines(path) <= 400


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_package_has_at_most_ten_modules(folder):
    modules = [path.name for path in folder.glob("*.py") if path.stem not in {"__init__", "__main__"}]
    assert len(modules) <= 10 or folder == PACKAGE / "cli"


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_package_says_in_a_sentence_what_it_holds(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_folder_stands_in_the_map(folder):
    maps = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/architecture.md"))
    assert f"{folder.relative_to(PACKAGE)}/" in maps or folder == PACKAGE


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=named)
def test_module_stands_in_the_map_of_its_folder(path):
    assert re.search(rf"\b{re.escape(path.name)}\b", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_readme_has_fewer_than_130_lines():
    assert num_lines(ROOT / "README.md") < 130


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_module_is_named_after_its_job(path):
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}


@pytest.mark.parametrize("path", [*MODULES, *BENCHMARKS], ids=named)
def test_variables_are_nouns(path):
    assert bound_names(path) & NO_NOUNS == set()


def test_package_reexports_five_names_and_loads_them_late():
    import mlpbench

    assert sorted(mlpbench.__all__) == ["InputError", "RunConfig", "Trainer", "grid", "load"]
    assert {name.split(".")[0] for name in imported(PACKAGE / "__init__.py")} <= {"typing", "mlpbench", "importlib"}


@pytest.mark.parametrize("path", BENCHMARKS, ids=named)
def test_benchmark_is_short(path):
    assert num_lines(path) <= 40


def test_conftest_of_the_suite_takes_the_plugin_in_a_line_or_two():
    code = [
        line
        for line in (ROOT / "bench" / "conftest.py").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", '"""'))
    ]
    assert len(code) <= 2


@pytest.mark.parametrize("path", BENCHMARKS, ids=named)
def test_benchmark_leaves_torch_time_and_loops_to_its_fixtures(path):
    assert {name.split(".")[0] for name in imported(path)} & {"torch", "time", "timeit"} == set()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [node for node in nodes if isinstance(node, ast.For | ast.While)]


def test_only_the_clock_synchronises_the_device():
    calls = re.compile(r"\bsynchronize\b")
    sources = [*MODULES, *(ROOT / "bench").glob("*.py")]
    users = {path.name for path in sources if calls.search(path.read_text(encoding="utf-8"))}
    assert users == {"clock.py"}
