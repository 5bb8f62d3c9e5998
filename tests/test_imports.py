"""Test the heavy libraries that importing a module may load."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "sklearn", "pandas", "matplotlib", "seaborn"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("mlpbench", HEAVY | {"numpy", "scipy", "rich"}),
        ("mlpbench.records.kinds", HEAVY | {"numpy", "scipy"}),
        ("mlpbench.records.store", HEAVY | {"numpy", "scipy"}),
        ("mlpbench.cli.main", HEAVY),
        ("mlpbench.judging.statistics", {"torch", "torchvision", "sklearn", "pandas"}),
        ("mlpbench.reporting.page", {"torch", "torchvision", "sklearn"}),
        ("mlpbench.training.trainer", {"pandas", "matplotlib", "seaborn"}),
    ],
)
def test_importing_a_module_loads_no_heavy_library(module, unwanted):
    code = f"import {module}, sys; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in process.stdout.split()
    assert unwanted & set(process.stdout.split()) == set()
