"""Read and write other tools' formats: pytest-benchmark's JSON, and what github-action-benchmark takes.

A file of pytest-benchmark is one process. Nothing is guessed: a benchmark without usable times is left out, and a file
that is not what it should be is refused.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from mlpbench.errors import InputError
from mlpbench.judging.evidence import Sample, Samples, benchmark_name, newest_sessions, samples
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.records.kinds import Block, Measurement, Session
from mlpbench.records.results import Results

T = TypeVar("T")
PYTEST_BENCHMARK = "5.3.1"  # the version whose format is written
# Ratios and logarithms of times within these are finite; no call's time lies beyond them, whatever its clock's unit.
SHORTEST_S, LONGEST_S = 1e-18, 1e18
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
_HINT = "`pytest --benchmark-json=FILE` writes pytest-benchmark's JSON"


def json_files(path: Path) -> list[Path]:
    """The JSON files that a path stands for: itself, or all those under a folder; none for anything else.

    Raises:
        InputError: if the path cannot be looked at.
    """
    try:
        if path.is_dir():
            return sorted(file for file in path.rglob("*.json") if file.is_file())
    except OSError as error:
        raise InputError(f"cannot read {_one_line(str(path))}: {error.strerror}; give a file or a folder") from None
    return [path] if path.suffix == ".json" else []


def load_pytest_benchmark(paths: Sequence[Path]) -> dict[Benchmark, Samples]:
    """Every benchmark's seconds per call; a file is a process, and a copy of one is not another.

    Processes are keyed by their file's position. A benchmark has those processes whose files have it.

    Raises:
        InputError: for a file that cannot be read, is not pytest-benchmark's or has no usable times, and for files of
            different machines, Pythons or commits.
    """
    contents: dict[bytes, str] = {}
    for path in paths:
        where = _one_line(str(path))
        try:
            contents.setdefault(path.read_bytes(), where)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"cannot read {where}: {reason}; {_HINT}") from None
    if not contents:
        raise InputError(f"no files to read; {_HINT}")
    environment: dict[str, str] = {}
    source: dict[str, str] = {}  # the file from which a field of the environment is
    processes: dict[str, dict[str, Sample]] = {}
    for position, (content, where) in enumerate(contents.items()):
        document = _document(content, where)
        for field, value in _environment(document, where).items():
            source.setdefault(field, where)
            if (was := environment.setdefault(field, value)) != value:
                hint = "give files of one machine, one Python and one commit"
                raise InputError(f"{where}: {field} is {value}, but {was} in {source[field]}; {hint}")
        for name, sample in _samples(document["benchmarks"], where).items():
            processes.setdefault(name, {})[str(position)] = sample
    return {
        Benchmark(Metric.SECONDS, name): Samples(environment=environment, processes=of)
        for name, of in processes.items()
    }


def _one_line(text: str) -> str:
    """The text, with escapes if it has what cannot be printed."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _document(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # ValueError also for a number of too many digits
        raise InputError(f"{where} is not JSON; {_HINT}") from None
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise InputError(f"{where} has no list of benchmarks; {_HINT}")
    return document


def _member(holder: Any, name: str, kind: type[T], where: str) -> T | None:
    """What an object has under that name; None where that is nothing."""
    if not isinstance(holder, dict):
        raise InputError(f"{where} is not an object; {_HINT}")
    value = holder.get(name)
    if value is None or type(value) is kind:
        return value
    raise InputError(f"{where}: {name} is not {_KINDS[kind]}; {_HINT}")


def _environment(document: dict[str, Any], where: str) -> dict[str, str]:
    """What pytest-benchmark knows of the machine, under the names by which results are compared."""
    info = _member(document, "machine_info", dict, where) or {}
    cpu = _member(info, "cpu", dict, where) or {}
    machine = _member(info, "machine", str, where)
    brand = _member(cpu, "brand_raw", str, where) or _member(cpu, "brand", str, where)
    found = {
        "cpu_model": brand or _member(info, "processor", str, where) or machine,
        "architecture": machine,
        "num_cpus": _member(cpu, "count", int, where),
        "python": _member(info, "python_version", str, where),
        "commit": _member(_member(document, "commit_info", dict, where) or {}, "id", str, where),
    }
    return {field: _one_line(str(value)) for field, value in found.items() if value}


def _samples(benchmarks: list[Any], where: str) -> dict[str, Sample]:
    found: dict[str, Sample | None] = {}
    for number, benchmark in enumerate(benchmarks, start=1):
        place = f"{where}: benchmark {number}"
        name = _one_line(_member(benchmark, "fullname", str, place) or "")
        if not name:
            raise InputError(f"{place} has no fullname; {_HINT}")
        if name in found:
            raise InputError(f"{place} has the fullname of another, {name}; give each process a file of its own")
        found[name] = _sample(_member(benchmark, "stats", dict, place) or {})
    usable = {name: sample for name, sample in found.items() if sample}
    if not usable:
        raise InputError(f"{where} has no benchmark with usable times, all above 0 s; run the benchmarks again")
    return usable


def _sample(stats: dict[str, Any]) -> Sample | None:
    """The process's times of a benchmark; None if any of them cannot be one."""
    data, median, rounds = stats.get("data"), stats.get("median"), stats.get("rounds")
    if not data:  # saved without --benchmark-save-data
        num_blocks = rounds if type(rounds) is int and rounds > 0 else 1
        return Sample(value=float(median), num_blocks=num_blocks) if _is_time(median) else None
    if not isinstance(data, list) or not all(map(_is_time, data)):
        return None
    times = list(map(float, data))
    return Sample(value=statistics.median(times), rounds=dict(enumerate(times)), num_blocks=len(times))


def _is_time(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and SHORTEST_S <= value <= LONGEST_S


def to_pytest_benchmark(results: Results) -> dict[str, Any]:
    """One document of pytest-benchmark's JSON: of every benchmark, the newest process that finished it.

    One process, because the format has no word for several. All are of the newest environment; the two sides of `ab`
    and `aa` are left out, as they share their names.

    Raises:
        InputError: if nothing was measured to its end.
    """
    finished = _finished(results)
    if not finished:
        raise InputError("no finished measurements to export; `pytest bench/` measures some")
    last, env = finished[-1][0], finished[-1][0].environment
    newest = {benchmark_name(m): (s, m, blocks) for s, m, blocks in finished}
    system, _, release = env.os.partition(" ")
    python = {"python_version": env.python, "python_implementation": "", "python_compiler": "", "python_build": []}
    machine = {"node": "", "processor": "", "machine": env.architecture, "system": system, "release": release}
    cpu = {"brand_raw": env.cpu_model, "arch": env.architecture, "count": env.num_cpus}
    commit = {"id": env.commit, "time": None, "author_time": None, "dirty": env.dirty}
    return {
        "machine_info": machine | python | {"cpu": cpu},
        "commit_info": commit | {"project": "mlpbench", "branch": "(unknown)"},
        "benchmarks": [_benchmark(name, *newest[name]) for name in sorted(newest)],
        "datetime": last.started_at,
        "version": PYTEST_BENCHMARK,
    }


def _finished(results: Results) -> list[tuple[Session, Measurement, list[Block]]]:
    """What was measured to its end in the newest environment, the newest session last."""
    whole, sessions = results.whole(), newest_sessions(results)
    found = [
        (sessions[m.session], m, whole[m.id])
        for m in results.measurements.values()
        if m.id in whole and m.session in sessions
    ]
    return sorted(found, key=lambda entry: (entry[0].started_at, entry[0].process))


def _benchmark(name: str, session: Session, measurement: Measurement, blocks: list[Block]) -> dict[str, Any]:
    by_round = {block.round: block.wall_ns / block.iterations / 1e9 for block in blocks}
    times = _statistics([by_round[number] for number in sorted(by_round)])
    ids = {"session": session.id, "measurement": measurement.id}
    how = {"clock": measurement.clock, "samples_per_call": measurement.samples_per_call}
    flagged = len({block.round for block in blocks if block.flags})
    label = {"group": measurement.suite, "name": name, "fullname": name, "params": None, "param": None}
    return label | {
        "options": {},
        "extra_info": ids | how | {"workload": str(measurement.config), "flagged_rounds": flagged},
        "stats": times | {"iterations": statistics.median_low(block.iterations for block in blocks)},
    }


def _statistics(data: list[float]) -> dict[str, Any]:
    """What pytest-benchmark says about times, by its own rules (pytest_benchmark/stats.py)."""
    ordered = sorted(data)
    mean, stddev = statistics.mean(data), statistics.stdev(data) if len(data) > 1 else 0.0
    q1, q3 = _quartile(ordered), _quartile(ordered[::-1])
    inside = [value for value in ordered if q1 - 1.5 * (q3 - q1) <= value <= q3 + 1.5 * (q3 - q1)]
    far, outside = sum(not mean - stddev <= value <= mean + stddev for value in data), len(data) - len(inside)
    return (
        {"min": ordered[0], "max": ordered[-1], "mean": mean, "stddev": stddev, "rounds": len(data)}
        | {"median": statistics.median(data), "iqr": q3 - q1, "q1": q1, "q3": q3}
        | {"iqr_outliers": outside, "stddev_outliers": far, "outliers": f"{far};{outside}"}
        | {"ld15iqr": inside[0], "hd15iqr": inside[-1], "ops": len(data) / sum(data), "total": sum(data), "data": data}
    )


def _quartile(ordered: list[float]) -> float:
    """The quartile at the list's start."""
    whole, rest = divmod(len(ordered), 4)
    if rest == 1:
        return 0.25 * ordered[max(whole - 1, 0)] + 0.75 * ordered[whole]
    if rest == 3:
        return 0.75 * ordered[whole] + 0.25 * ordered[whole + 1]
    return statistics.median(ordered[: len(ordered) // 2])


def to_github_action_benchmark(results: Results) -> list[dict[str, Any]]:
    """The list that its tool `customSmallerIsBetter` reads: times in ms, then peak memory in MiB.

    A value is the median over processes. The range is their standard deviation, or that of the rounds of a single
    process; it is left out where there is one value.

    Raises:
        InputError: if there are neither times nor memory.
    """
    everything = samples(results)
    made = []
    for metric, unit, scale in ((Metric.SECONDS, "ms", 1e3), (Metric.PEAK_BYTES, "MiB", 2.0**-20)):
        for name in sorted(benchmark.name for benchmark in everything if benchmark.metric is metric):
            processes = everything[Benchmark(metric, name)].processes
            env = results.sessions[next(iter(processes))].environment
            values, over = [sample.value * scale for sample in processes.values()], "processes"
            entry = {"name": name, "unit": unit, "value": float(f"{statistics.median(values):.6g}")}
            extra = f"{env.machine}; torch {env.torch}; processes: {len(values)}"
            if len(values) == 1:
                values, over = [v * scale for sample in processes.values() for v in sample.rounds.values()], "rounds"
            if len(values) > 1:
                entry["range"] = f"± {float(f'{statistics.stdev(values):.3g}'):g}"
                extra += f"; ± is the standard deviation of {over}"
            made.append({**entry, "extra": extra})
    if not made:
        raise InputError("no finished measurements and no memory to export; `pytest bench/` measures some")
    return made
