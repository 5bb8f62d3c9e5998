"""Make files of pytest-benchmark: hand-made ones, and the command that makes real ones."""

import json
import os
import statistics
import subprocess
import sys

from mlpbench.judging import formats

NAME = "test_x.py::test_sum"
IDENTITY = ("seconds", NAME)
BENCHMARK_FILE = """
def test_sum(benchmark):
    assert benchmark(lambda: sum(range(100))) == 4950

def test_fails(benchmark):
    benchmark(lambda: 1 / 0)
"""


def run(folder, *command):
    """Run a module of Python in a folder."""
    # With this variable, which xdist sets, pytest-benchmark would not measure anything.
    clean = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def entry(name=NAME, data=(2.0, 1.0, 4.0), **changes):
    stats = {"median": statistics.median(data), "rounds": len(data), "data": list(data), "iterations": 1}
    return {"name": name, "fullname": name, "stats": stats} | changes


def document(*entries, **changes):
    info = {
        "node": "somewhere",
        "processor": "x86_64",
        "machine": "x86_64",
        "python_version": "3.12.4",
        "cpu": {"brand_raw": "Example CPU", "count": 2, "hz_actual_friendly": "2.0 GHz"},
    }
    return {"machine_info": info, "benchmarks": list(entries) or [entry()], "version": "5.3.1"} | changes


def with_info(**changes):
    return document(machine_info=document()["machine_info"] | changes)


def written(folder, *contents):
    """Write a file for each content: bytes unchanged, others as JSON with a bare NaN, as pytest-benchmark writes it."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.json")
        paths[-1].write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return paths


def load(folder, *contents):
    return formats.load_pytest_benchmark(written(folder, *contents))
