"""Measure how often comparing unchanged code with itself ends with `slower` or `faster`.

    python docs/evidence/false_alarms.py measure FOLDER --runs 22   # run the suite again and again
    python docs/evidence/false_alarms.py judge FOLDER               # compare every two of the runs

Each run is `pytest bench/ -k operations --preset default`: six benchmarks, 5 fresh processes of 10 blocks. Nothing
changes between runs, so every `slower` and `faster` is false. Two other rules judge the same recorded runs:
pytest-benchmark's own (`--benchmark-compare-fail=median:5%`, on the JSON that it wrote), and a plain Mann-Whitney test
on blocks.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from pytest_benchmark.utils import PercentageRegressionCheck
from scipy.stats import mannwhitneyu

from mlpbench.judging.evidence import collect
from mlpbench.judging.judgement import Margins
from mlpbench.judging.metrics import Metric
from mlpbench.judging.noise import as_evidence
from mlpbench.judging.verdict import judge
from mlpbench.records import store


def measure(folder: Path, num_runs: int) -> None:
    """Run the suite again and again; skip a run that is there already."""
    for number in range(num_runs):
        place = folder / f"run-{number:02}"
        if not (place / "benchmark.json").exists():
            command = ["pytest", "bench/", "-q", "-k", "operations", "--preset", "default", "--device", "cpu"]
            command += ["--results", str(place), "--benchmark-json", str(place / "benchmark.json")]
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
            print(f"run {number + 1} of {num_runs}", flush=True)


def any_alarm_of_pytest_benchmark(base: dict, new: dict) -> bool:
    """True if pytest-benchmark's rule fails for the two runs, in either order."""
    one, other = ({b["fullname"]: b["stats"] for b in run["benchmarks"]} for run in (base, new))
    check = PercentageRegressionCheck("median", 5)
    return any(check.fails(other[name], one[name]) or check.fails(one[name], other[name]) for name in one)


def any_alarm_of_mann_whitney(base: dict, new: dict) -> bool:
    """True if the blocks of any benchmark differ with p < 0.05, taken as independent."""

    def blocks(side: dict) -> dict:
        return {i: [t for p in s.processes.values() for t in p.rounds.values()] for i, s in side.items()}

    one, other = blocks(base), blocks(new)
    return any(mannwhitneyu(one[i], other[i]).pvalue < 0.05 for i in one)


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=22)
    parsed = parser.parse_args()
    if parsed.what == "measure":
        measure(parsed.folder, parsed.runs)
        return
    folders = sorted(p.parent for p in parsed.folder.rglob("benchmark.json"))
    runs = [collect(store.load([folder])) for folder in folders]
    times = [{b: evidence for b, evidence in run.items() if b.metric == Metric.SECONDS} for run in runs]
    reports = [json.loads((folder / "benchmark.json").read_text()) for folder in folders]
    pairs = list(itertools.combinations(range(len(folders)), 2))
    judgements = [judge(times[i], times[j], Margins()) for i, j in pairs]
    verdicts = [[c.verdict for c in j.comparisons] for j in judgements]
    without_control = [judge(_without_control(times[i]), _without_control(times[j]), Margins()) for i, j in pairs]
    rules = {
        "mlpbench compare": [any(v in ("slower", "faster") for v in vs) for vs in verdicts],
        "mlpbench compare, control workload ignored": [
            any(c.verdict in ("slower", "faster") for c in j.comparisons) for j in without_control
        ],
        "pytest-benchmark, median:5%": [any_alarm_of_pytest_benchmark(reports[i], reports[j]) for i, j in pairs],
        "Mann-Whitney on blocks, p < 0.05": [any_alarm_of_mann_whitney(times[i], times[j]) for i, j in pairs],
    }
    print(f"{len(folders)} suite runs, {len(pairs)} comparisons of two, {len(verdicts[0])} benchmarks in each")
    # No intervals, because the comparisons share their runs.
    for name, alarms in rules.items():
        print(f"| {name} | {sum(alarms)} of {len(alarms)} | {sum(alarms) / len(alarms):.1%} |")
    print(resampled(times))
    all_verdicts = list(itertools.chain(*verdicts))
    print({str(v): all_verdicts.count(v) for v in sorted(set(all_verdicts))})
    ratios = [abs(math.log(c.ratio)) for j in judgements for c in j.comparisons]
    detectable = [math.log(c.detectable_ratio) for j in judgements for c in j.comparisons]
    with contextlib.suppress(IndexError):
        print(f"ratios: median distance from 1 {np.median(ratios):.1%}, largest {max(ratios):.1%}")
        print(f"smallest detectable change (found 4 times out of 5): median {np.median(detectable):.1%}")


def resampled(runs: list[dict], count: int = 2000) -> str:
    """Count false alarms for windows of 5 successive processes, which begin anywhere, also across the ends of runs."""
    processes = [
        {i: s.processes[key] for i, s in run.items()} for run in runs for key in next(iter(run.values())).processes
    ]
    starts = range(len(processes) - 4)
    pairs = [(i, j) for i, j in itertools.combinations(starts, 2) if j - i >= 5]
    alarms = 0
    for one, other in random.Random(0).sample(pairs, min(count, len(pairs))):
        base, new = (as_evidence(processes[first : first + 5]) for first in (one, other))
        alarms += any(c.verdict in ("slower", "faster") for c in judge(base, new, Margins()).comparisons)
    return f"windows of 5 processes: {alarms} of {min(count, len(pairs))}"


def _without_control(side: dict) -> dict:
    return {
        i: replace(s, processes={k: replace(p, control_s=None) for k, p in s.processes.items()})
        for i, s in side.items()
    }


if __name__ == "__main__":
    main()
