"""Turn results into tidy frames: a row per measurement, rerun, peak or skip.

The names of columns end in their units (`_s`, `_ratio`). A frame holds full numbers; `formatting` rounds them.
"""

import functools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

import pandas as pd

from mlpbench.config import RunConfig, format_value
from mlpbench.judging import statistics as stats
from mlpbench.records.kinds import Measurement, Session
from mlpbench.records.results import Results
from mlpbench.reporting import roofline


def labels(configs: Sequence[RunConfig], *, without: Iterable[str] = ()) -> list[str]:
    """Return a name for each config: the fields in which the configs differ.

    Equal configs are named by the fields in which they differ from the default.

    >>> labels([RunConfig(), RunConfig(batch_size=10)])
    ['batch_size=100', 'batch_size=10']
    >>> labels([RunConfig()])
    ['default']
    """
    names = varying(configs, without)
    if not names:
        names = varying([RunConfig(), *configs], without)
    if not names:
        return ["default"] * len(configs)
    return [" ".join(f"{name}={short(config, name)}" for name in names) for config in configs]


def varying(configs: Sequence[RunConfig], without: Iterable[str] = ()) -> list[str]:
    """Return the fields in which these configs differ."""
    names = [f.name for f in fields(RunConfig) if f.name not in without]
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def short(config: RunConfig, name: str) -> str:
    """Return the value of a field as text; a value that repeats for every layer is named once."""
    value = getattr(config, name)
    if isinstance(value, tuple) and len(set(value)) == 1:
        return format_value(value[:1])
    return format_value(value)


def blocks(results: Results) -> pd.DataFrame:
    """Return a row per timed block, of the newest run of each machine, suite, operation, clock and config.

    Columns: row (the same for all processes of a run), measurement, session, process, machine, torch, commit, suite,
    group, operation, clock, activation and width (of the first hidden layer), config and each of its fields,
    samples_per_call, settled (the warm-up was stable), round, order, iterations, seconds (per call), limit_s (per
    call, at the hardware limit; NaN if that is unknown), control_s, flags.
    """
    newest = _newest(results)
    limits = {m.id: _limit_s(results, m) for m, _ in newest.values()}
    position = {key: index for index, key in enumerate(results.measurements)}
    rows = []
    for block in sorted(results.blocks, key=lambda block: (position[block.measurement], block.round)):
        if block.measurement not in newest:
            continue
        m, row = newest[block.measurement]
        environment = results.sessions[m.session].environment
        rows.append(
            {
                "row": row,
                "measurement": m.id,
                "session": m.session,
                "process": results.sessions[m.session].process,
                "machine": environment.machine,
                "torch": environment.stack.torch,
                "commit": environment.commit,
                "suite": m.suite,
                "group": m.group,
                "operation": m.operation,
                "clock": m.clock,
                **asdict(m.config),
                "config": m.config,
                "activation": m.config.activations[0],
                "width": m.config.hidden_sizes[0],
                "samples_per_call": m.samples_per_call,
                "settled": m.settled,
                "round": block.round,
                "order": block.order,
                "iterations": block.iterations,
                "seconds": block.wall_ns / block.iterations / 1e9,
                "limit_s": limits[m.id],
                "control_s": math.nan if block.control_ns is None else block.control_ns / 1e9,
                "flags": ",".join(block.flags),
            }
        )
    return pd.DataFrame(rows)


def _limit_s(results: Results, m: Measurement) -> float:
    """Return the time of a call at the limit of its hardware, in seconds; NaN if that is unknown."""
    environment = results.sessions[m.session].environment
    peaks = [p for p in results.peaks if results.sessions[p.session].environment.machine == environment.machine]
    peak = roofline.best(peaks, m.config.device, m.config.num_threads or environment.stack.num_threads)
    limit_s = roofline.limit_s(m.operation, m.config, m.samples_per_call, peak) if peak else None
    return math.nan if limit_s is None else limit_s


def _newest(results: Results) -> dict[str, tuple[Measurement, str]]:
    """Return the measurements of the newest run of each benchmark, by id, each with an id for the whole run.

    Interleaved measurements stay together. An incomplete measurement is used only if there is no complete one.
    """
    counts = Counter(block.measurement for block in results.blocks)
    measured = [m for m in results.measurements.values() if counts[m.id] and not results.sessions[m.session].side]
    # Later ones replace earlier ones below, so complete ones come last, and among them the newest.
    measured.sort(key=lambda m: (counts[m.id] >= m.rounds, results.time_of(m.session)))
    groups: dict[str, list[Measurement]] = {}
    for m in measured:
        groups.setdefault(m.group, []).append(m)
    newest: dict[object, list[Measurement]] = {}
    for group in groups.values():
        configs = tuple(m.config for m in group)
        # The position in the group tells two equal configs apart.
        for position, m in enumerate(group):
            session = results.sessions[m.session]
            benchmark = (session.environment.machine, m.suite, m.operation, m.clock, configs, position)
            of_run = newest.setdefault(benchmark, [])
            if of_run and results.sessions[of_run[-1].session].run != session.run:
                of_run.clear()
            of_run.append(m)
    return {m.id: (m, of_run[0].id) for of_run in newest.values() for m in of_run}


def timings(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per benchmark of a `blocks` frame: the median time per call with its interval.

    The interval is over the medians of the processes. If there is only one process, it is over its blocks. They are not
    independent, so this interval describes that process alone.
    """
    rows = []
    for _, part in frame.groupby("row", sort=False):
        first = part.iloc[0]
        medians = part.groupby("measurement", sort=False)["seconds"].median()
        interval = stats.median_interval((medians if len(medians) > 1 else part["seconds"]).tolist())
        rows.append(
            {
                **{
                    name: first[name]
                    for name in ("machine", "torch", "commit", "suite", "operation", "device", "config")
                },
                "median_s": interval.estimate,
                "low_s": interval.low,
                "high_s": interval.high,
                "coverage": interval.coverage,
                "num_processes": len(medians),
                "num_blocks": len(part),
                "flagged_share": float((part["flags"] != "").mean()),
                "roof_share": first["limit_s"] / interval.estimate,
                "samples_per_s": first["samples_per_call"] / interval.estimate,
                "settled": bool(part["settled"].all()),
            }
        )
    return pd.DataFrame(rows)


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per contender of interleaved settings: the median over rounds of its time over the baseline's.

    The baseline is the first setting of a group.
    """
    rows = []
    for _, part in frame.groupby("group", sort=False):
        ids = part["measurement"].unique()
        configs = part.drop_duplicates("measurement")["config"].tolist()
        names = dict(zip(ids, labels(configs), strict=True))
        different_fields = varying(configs)
        by_round = part.pivot_table(index="round", columns="measurement", values="seconds").dropna()
        for contender in ids[1:] if len(by_round) else ():
            interval = stats.ratio_interval(by_round[ids[0]].tolist(), by_round[contender].tolist())
            rows.append(
                {
                    "machine": part["machine"].iloc[0],
                    "operation": part["operation"].iloc[0],
                    "workload": labels(configs[:1], without=different_fields)[0],
                    "baseline": names[ids[0]],
                    "contender": names[contender],
                    "baseline_median_s": float(by_round[ids[0]].median()),
                    "contender_median_s": float(by_round[contender].median()),
                    "time_ratio": interval.estimate,
                    "low_ratio": interval.low,
                    "high_ratio": interval.high,
                    "coverage": interval.coverage,
                    "num_rounds": len(by_round),
                }
            )
    return pd.DataFrame(rows)


def reruns(results: Results) -> pd.DataFrame:
    """Return a row per rerun, the newest of each machine, kind and config."""
    newest = {}
    for rerun in sorted(results.checks, key=lambda c: results.time_of(c.session)):
        machine = results.sessions[rerun.session].environment.machine
        newest[machine, rerun.name, rerun.config] = {
            "machine": machine,
            "check": rerun.name,
            "device": rerun.config.device,
            "workload": str(rerun.config),
            "num_steps": rerun.num_steps,
            "num_stages": rerun.num_stages,
            "equal_bits": rerun.first_difference is None,
            "first_difference": rerun.first_difference,
            "max_abs_difference": rerun.max_abs_difference,
            "final_abs_difference": rerun.final_abs_difference,
        }
    return pd.DataFrame(newest.values())


def memories(results: Results) -> pd.DataFrame:
    """Return a row per operation and config: its peak memory, from the newest session that measured it."""
    newest = {}
    for memory in sorted(results.memories, key=lambda m: results.time_of(m.session)):
        machine = results.sessions[memory.session].environment.machine
        newest[machine, memory.operation, memory.config] = {
            "machine": machine,
            "operation": memory.operation,
            "workload": str(memory.config),
            "device": memory.config.device,
            "peak_bytes": memory.peak_bytes,
            "before_bytes": memory.before_bytes,
            "source": memory.source,
        }
    return pd.DataFrame(newest.values())


def skips(results: Results) -> pd.DataFrame:
    """Return a row per run and reason for skipping, the newest run first: when, by which command, how much and what.

    Processes of a run repeat each other, so what several of them skipped counts once.
    """
    first: dict[str, Session] = {}
    for session in results.in_order(Session):
        first.setdefault(session.run, session)
    # What each process skipped, by run and reason.
    processes: dict[tuple[str, str], dict[str, Counter[tuple[str, str, str]]]] = {}
    for skip in results.skips:
        of_reason = processes.setdefault((results.sessions[skip.session].run, skip.reason), {})
        of_reason.setdefault(skip.session, Counter())[skip.benchmark, skip.operation, str(skip.config)] += 1
    rows = []
    for run, reason in sorted(processes, key=lambda key: results.time_of(first[key[0]].id), reverse=True):
        # The union of counters has the largest count of each.
        entries = functools.reduce(operator.or_, processes[run, reason].values())
        names = Counter(operation for _, operation, _ in entries.elements())
        rows.append(
            {
                "started_at": first[run].started_at,
                "command": first[run].command,
                "reason": reason,
                "num_skipped": entries.total(),
                "num_benchmarks": len({benchmark for benchmark, _, _ in entries if benchmark}) or None,
                "operations": ", ".join(f"{name} ({names[name]})" for name in sorted(names)),
            }
        )
    return pd.DataFrame(rows)


def sessions(results: Results) -> pd.DataFrame:
    """Return a row per run and environment, the newest first: command, time, processes, machine and source."""
    runs: dict[object, list[Session]] = {}
    for session in results.in_order(Session):
        facts = frozenset(session.environment.measuring_facts().items())
        runs.setdefault((session.run, facts), []).append(session)
    return pd.DataFrame(
        {
            "started_at": first.started_at,
            "command": first.command,
            "num_processes": len(of_run),
            "machine": first.environment.machine,
            "source": first.environment.commit + (" (dirty)" if first.environment.dirty else ""),
            "pytorch": first.environment.stack.torch,
            "num_threads": first.environment.stack.num_threads,
        }
        for of_run in reversed(runs.values())
        for first in of_run[:1]
    )


def peaks(results: Results) -> pd.DataFrame:
    """Return a row per machine, device and thread count: the best rates of a large product and a large copy."""
    rows = [
        {
            "machine": results.sessions[peak.session].environment.machine,
            "device": peak.device,
            "num_threads": peak.num_threads,
            "product_gflops": peak.gemm_flops_per_s / 1e9,
            "copy_gb_per_s": peak.copy_bytes_per_s / 1e9,
        }
        for peak in results.peaks
    ]
    if not rows:
        return pd.DataFrame()
    return pd.DataFrame(rows).groupby(["machine", "device", "num_threads"], as_index=False).max()


def commands(results: Results, session_ids: set[str]) -> tuple[str, ...]:
    """Return the commands of these sessions, each once."""
    return tuple(dict.fromkeys(s.command for s in results.sessions.values() if s.id in session_ids))
