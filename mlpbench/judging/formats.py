"""Read and write the formats of other tools: pytest-benchmark's JSON, and the input of github-action-benchmark.

A file of pytest-benchmark is one process. Nothing is guessed: a time that nothing can have taken is left out with a
remark. A file of another shape is refused.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from mlpbench.errors import InputError
from mlpbench.judging.evidence import Evidence, ProcessEvidence, benchmark_name, collect, newest_sessions
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.records.facts import vector_flags
from mlpbench.records.kinds import Block, Measurement, Session
from mlpbench.records.results import Results

T = TypeVar("T")
PYTEST_BENCHMARK = "5.3.1"
"""The version whose format is written."""
# Times within these bounds have finite ratios and logarithms. No real call takes less or more, whatever the unit.
SHORTEST_S, LONGEST_S = 1e-18, 1e18
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
_HINT = "`pytest --benchmark-json=FILE` writes pytest-benchmark's JSON"


def json_files(path: Path) -> list[Path]:
    """Return the JSON files of a path: itself, or all files under a folder; empty for any other path.

    Raises:
        InputError: if the path cannot be examined.
    """
    try:
        if path.is_dir():
            return sorted(file for file in path.rglob("*.json") if file.is_file())
    except OSError as error:
        raise InputError(f"cannot read {_one_line(str(path))}: {error.strerror}; give a file or a folder") from None
    return [path] if path.suffix == ".json" else []


def load_pytest_benchmark(paths: Sequence[Path]) -> dict[Benchmark, Evidence]:
    """Return the seconds per call of every benchmark.

    A file is a process, and a copy of a file is not another process. The key of a process is the position of its file.
    A benchmark has the processes whose files have usable times of it; `omissions` tells about the others.

    Raises:
        InputError: if a file cannot be read, is not in pytest-benchmark's format or has no benchmark; or if the files
            are of different machines, Pythons or commits.
    """
    contents: dict[bytes, str] = {}
    for path in paths:
        where = _one_line(str(path))
        try:
            contents.setdefault(path.read_bytes(), where)
        # A ValueError means a path that no file can have.
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"cannot read {where}: {reason}; {_HINT}") from None
    if not contents:
        raise InputError(f"no files to read; {_HINT}")
    environment: dict[str, str] = {}
    # The file that gave each field of the environment.
    source: dict[str, str] = {}
    processes: dict[str, dict[str, ProcessEvidence]] = {}
    # The files in which something of a benchmark is left out, by the benchmark and the remark.
    remarks: dict[str, dict[str, list[str]]] = {}
    for position, (content, where) in enumerate(contents.items()):
        document = _document(content, where)
        for field, value in _environment(document).items():
            source.setdefault(field, where)
            if (first := environment.setdefault(field, value)) != value:
                hint = "give files of one machine, one Python and one commit"
                raise InputError(f"{where}: {field} is {value}, but {first} in {source[field]}; {hint}")
        for name, (evidence, remark) in _benchmarks(document["benchmarks"], where).items():
            by_position = processes.setdefault(name, {})
            if evidence:
                by_position[str(position)] = evidence
            if remark:
                remarks.setdefault(name, {}).setdefault(remark, []).append(Path(where).name)
    facts = {name: value for name, value in environment.items() if name != "commit"}
    return {
        Benchmark(Metric.SECONDS, name): Evidence(
            environment=facts,
            processes=by_position,
            omissions=tuple(f"{text} ({_some(files)})" for text, files in remarks.get(name, {}).items()),
        )
        for name, by_position in processes.items()
    }


def _one_line(text: str) -> str:
    """Return the text, with escapes if it has characters that cannot be printed."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _some(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others.

    >>> _some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _document(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    # json also raises ValueError for a number of too many digits.
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not JSON; {_HINT}") from None
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise InputError(f"{where} has no list of benchmarks; {_HINT}")
    return document


def _member(holder: Any, name: str, kind: type[T], where: str) -> T | None:
    """Return the value of that name, of that type; None if the object has no such value.

    Raises:
        InputError: if `holder` is not an object, or the value has another type.
    """
    if not isinstance(holder, dict):
        raise InputError(f"{where} is not an object; {_HINT}")
    value = holder.get(name)
    if value is None or type(value) is kind:
        return value
    raise InputError(f"{where}: {name} is not {_KINDS[kind]}; {_HINT}")


def _environment(document: dict[str, Any]) -> dict[str, str]:
    """Return the facts about the machine, under the names by which results are compared, and the commit.

    Hooks of other projects may write anything here. So a value of another type is unknown, and refuses no file.
    """
    info = _object(document.get("machine_info"))
    # A hook may give the name of the processor in place of its description.
    cpu = _object(info.get("cpu")) or {"brand_raw": info.get("cpu")}
    flags = cpu.get("flags")
    is_list = isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)
    facts = {
        "cpu_model": _first(str, cpu.get("brand_raw"), cpu.get("brand"), info.get("processor"), info.get("machine")),
        "cpu_vendor": _first(str, cpu.get("vendor_id_raw"), cpu.get("vendor_id")),
        "cpu_family": _first(int, cpu.get("family")),
        "cpu_model_number": _first(int, cpu.get("model")),
        "cpu_stepping": _first(int, cpu.get("stepping")),
        "architecture": _first(str, info.get("machine")),
        "num_cpus": _first(int, cpu.get("count")) or None,
        "vector_flags": " ".join(vector_flags(flags)) if is_list and flags else None,
        "cpuinfo_l2_cache": _first(int, cpu.get("l2_cache_size")),
        "cpuinfo_l3_cache": _first(int, cpu.get("l3_cache_size")),
        "python": _first(str, info.get("python_version")),
        "commit": _first(str, _object(document.get("commit_info")).get("id")),
    }
    return {name: _one_line(str(value)) for name, value in facts.items() if value is not None}


def _object(value: Any) -> dict[str, Any]:
    """Return the value if it is an object of JSON, else an empty one."""
    return value if isinstance(value, dict) else {}


def _first(kind: type[T], *values: Any) -> T | None:
    """Return the first value of that type that is not empty; None if there is none. Zero is a number."""
    return next((value for value in values if type(value) is kind and value != ""), None)


def _benchmarks(benchmarks: list[Any], where: str) -> dict[str, tuple[ProcessEvidence | None, str]]:
    """Return the evidence of every benchmark of a file, by full name, as `_process_evidence` does."""
    by_name: dict[str, tuple[ProcessEvidence | None, str]] = {}
    for number, benchmark in enumerate(benchmarks, start=1):
        place = f"{where}: benchmark {number}"
        name = _one_line(_member(benchmark, "fullname", str, place) or "")
        if not name:
            raise InputError(f"{place} has no fullname; {_HINT}")
        if name in by_name:
            raise InputError(f"{place} has the same fullname as another benchmark, {name}; use one file per process")
        by_name[name] = _process_evidence(benchmark.get("stats"))
    if not by_name:
        raise InputError(f"{where} has no benchmark; {_HINT}")
    return by_name


def _process_evidence(stats: object) -> tuple[ProcessEvidence | None, str]:
    """Return the evidence of a benchmark's statistics, and a remark on what is left out; None if nothing is usable.

    Most of the times must be usable. Otherwise the median of the rest would be that of a selection.
    """
    if not isinstance(stats, dict):
        return None, "no statistics" if stats is None else "its statistics are not an object"
    data, median, rounds = stats.get("data"), stats.get("median"), stats.get("rounds")
    # Without --benchmark-save-data, the file has only the median.
    if not data or not isinstance(data, list):
        remark = "its data are not a list of times" if data else ""
        if not _is_time(median):
            return None, remark or f"its median {_fault(median)}"
        num_blocks = rounds if type(rounds) is int and rounds > 0 else 1
        return ProcessEvidence(value=float(median), num_blocks=num_blocks), remark and f"{remark}; its median counts"
    times = {number: float(value) for number, value in enumerate(data) if _is_time(value)}
    faults = [value for value in data if not _is_time(value)]
    remark = f"{len(faults)} of {len(data)} times left out; the first {_fault(faults[0])}" if faults else ""
    if 2 * len(times) <= len(data):
        return None, remark
    return ProcessEvidence(value=statistics.median(times.values()), rounds=times, num_blocks=len(times)), remark


def _is_time(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and SHORTEST_S <= value <= LONGEST_S


def _fault(value: object) -> str:
    """Tell why a value is not a usable time."""
    if value is None:
        return "is missing"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "is not a number"
    if not -sys.float_info.max <= value <= sys.float_info.max:
        return "is not finite"
    return f"is {value:g} s, not above 0" if value <= 0 else f"is {value:g} s, which no call can take"


def to_pytest_benchmark(results: Results) -> dict[str, Any]:
    """Return a document of pytest-benchmark's JSON, with the newest complete process of every benchmark.

    It is one process, because the format cannot express several. All processes are of the newest environment. The two
    sides of `ab` and `aa` are left out, because they have the same names.

    Raises:
        InputError: if no measurement is complete.
    """
    finished = _finished(results)
    if not finished:
        raise InputError("no finished measurements to export; `pytest bench/` measures some")
    last, env = finished[-1][0], finished[-1][0].environment
    newest = {benchmark_name(m): (s, m, blocks) for s, m, blocks in finished}
    hardware, stack = env.hardware, env.stack
    system, _, release = stack.os.partition(" ")
    python = {"python_version": stack.python, "python_implementation": "", "python_compiler": "", "python_build": []}
    machine = {"node": "", "processor": "", "machine": hardware.architecture, "system": system, "release": release}
    # As py-cpuinfo names them.
    cpu = {
        "brand_raw": hardware.cpu_model,
        "vendor_id_raw": hardware.cpu_vendor,
        "family": hardware.cpu_family,
        "model": hardware.cpu_model_number,
        "stepping": hardware.cpu_stepping,
        "arch": hardware.architecture,
        "count": hardware.num_cpus or stack.num_allowed_cpus,
        "flags": None if hardware.vector_flags is None else list(hardware.vector_flags),
    }
    commit = {"id": env.commit, "time": None, "author_time": None, "dirty": env.dirty}
    return {
        "machine_info": machine | python | {"cpu": {name: value for name, value in cpu.items() if value is not None}},
        "commit_info": commit | {"project": "mlpbench", "branch": "(unknown)"},
        "benchmarks": [_benchmark(name, *newest[name]) for name in sorted(newest)],
        "datetime": last.started_at,
        "version": PYTEST_BENCHMARK,
    }


def _finished(results: Results) -> list[tuple[Session, Measurement, list[Block]]]:
    """Return the complete measurements of the newest environment, the newest session last."""
    blocks, sessions = results.whole(), newest_sessions(results)
    finished = [
        (sessions[m.session], m, blocks[m.id])
        for m in results.measurements.values()
        if m.id in blocks and m.session in sessions
    ]
    return sorted(finished, key=lambda entry: results.time_of(entry[0].id))


def _benchmark(name: str, session: Session, measurement: Measurement, blocks: list[Block]) -> dict[str, Any]:
    by_round = {block.round: block.wall_ns / block.iterations / 1e9 for block in blocks}
    times = _statistics([by_round[number] for number in sorted(by_round)])
    ids = {"session": session.id, "measurement": measurement.id}
    protocol = {"clock": measurement.clock, "samples_per_call": measurement.samples_per_call}
    flagged = len({block.round for block in blocks if block.flags})
    label = {"group": measurement.suite, "name": name, "fullname": name, "params": None, "param": None}
    return label | {
        "options": {},
        "extra_info": ids | protocol | {"workload": str(measurement.config), "flagged_rounds": flagged},
        "stats": times | {"iterations": statistics.median_low(block.iterations for block in blocks)},
    }


def _statistics(data: list[float]) -> dict[str, Any]:
    """Return the statistics of times by pytest-benchmark's own rules (pytest_benchmark/stats.py)."""
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
    """Return the quartile at the start of the list."""
    index, rest = divmod(len(ordered), 4)
    if rest == 1:
        return 0.25 * ordered[max(index - 1, 0)] + 0.75 * ordered[index]
    if rest == 3:
        return 0.75 * ordered[index] + 0.25 * ordered[index + 1]
    return statistics.median(ordered[: len(ordered) // 2])


def to_github_action_benchmark(results: Results) -> list[dict[str, Any]]:
    """Return the list that its tool `customSmallerIsBetter` reads: times in ms, then peak memory in MiB.

    A value is the median over processes. The range is their standard deviation; for a single process it is that of
    its rounds. A single value has no range.

    Raises:
        InputError: if there are neither times nor memory.
    """
    evidence = {benchmark: of_one for benchmark, of_one in collect(results).items() if of_one.processes}
    entries = []
    for metric, unit, scale in ((Metric.SECONDS, "ms", 1e3), (Metric.PEAK_BYTES, "MiB", 2.0**-20)):
        for name in sorted(benchmark.name for benchmark in evidence if benchmark.metric is metric):
            processes = evidence[Benchmark(metric, name)].processes
            env = results.sessions[next(iter(processes))].environment
            values, unit_of_range = [process.value * scale for process in processes.values()], "processes"
            entry = {"name": name, "unit": unit, "value": float(f"{statistics.median(values):.6g}")}
            extra = f"{env.machine}; torch {env.stack.torch}; processes: {len(values)}"
            if len(values) == 1:
                (process,) = processes.values()
                values, unit_of_range = [time * scale for time in process.rounds.values()], "rounds"
            if len(values) > 1:
                entry["range"] = f"± {float(f'{statistics.stdev(values):.3g}'):g}"
                extra += f"; ± is the standard deviation of {unit_of_range}"
            entries.append({**entry, "extra": extra})
    if not entries:
        raise InputError("no finished measurements and no memory to export; `pytest bench/` measures some")
    return entries
