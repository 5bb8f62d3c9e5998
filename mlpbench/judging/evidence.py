"""Collect the evidence of records: the value that each process measured for each benchmark."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.records.environment import Environment, Texts
from mlpbench.records.kinds import Block, Measurement, Plan, Session
from mlpbench.records.results import Results

# An accuracy of 0 has no logarithm.
_LEAST_ACCURACY = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessEvidence:
    """Hold what one process measured for one benchmark."""

    value: float
    """Seconds per call, bytes, or a fraction, as the metric has it."""
    control_s: float | None = None
    """The median of the control workload, in seconds; None if it did not run beside every block."""
    rounds: Mapping[int, float] = field(default_factory=dict)
    """The times of the blocks behind the value, by round."""
    num_blocks: int = 1
    num_flagged: int = 0
    """The number of disturbed blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Hold what all processes measured for one benchmark."""

    environment: Texts
    """The facts about machine and stack; those that are unknown are left out."""
    processes: Mapping[str, ProcessEvidence]
    """By a key for each process; processes with equal keys on both sides are a pair. Empty: nothing is usable."""
    omissions: tuple[str, ...] = ()
    """A remark for each kind of measurement of this benchmark that does not count, with the reason."""
    is_older: bool = False
    """True if only another machine, stack or source, or an older run of uncommitted source, has measured it."""


def benchmark_name(measurement: Measurement) -> str:
    """Return `suite/operation workload`, the name that the globs of thresholds match.

    The workload is left out if it is the default. The clock is added if it is not throughput.
    """
    name = _with_workload(f"{measurement.suite}/{measurement.operation}", measurement.config)
    return name if measurement.clock == "throughput" else f"{name} ({measurement.clock})"


def _with_workload(name: str, config: RunConfig) -> str:
    return f"{name} {config}".removesuffix(" default")


def collect(results: Results) -> dict[Benchmark, Evidence]:
    """Collect the processes of every benchmark from complete measurements of the newest environment and commit.

    Uncommitted source is not one source, so that only its last run counts. Nothing is dropped in silence: `omissions`
    counts the measurements that do not count, and `left_out` the processes of another machine, stack or source. A
    benchmark that only those have measured has no processes.
    """
    sessions = newest_sessions(results)
    entries = times(results, (session for session in results.sessions.values() if not session.side))
    for memory in results.memories:
        value = ProcessEvidence(value=float(memory.peak_bytes))
        name = _with_workload(f"memory/{memory.operation}", memory.config)
        entries.setdefault(Benchmark(Metric.PEAK_BYTES, name), []).append(
            (results.sessions[memory.session], memory.session, value)
        )
    diverged: Counter[Benchmark] = Counter()
    for result in results.train_results:
        accuracy = result.test_accuracy[-1]
        benchmark = Benchmark(
            Metric.TEST_ACCURACY, _with_workload("training", replace(result.config, seed=RunConfig().seed))
        )
        # A run that diverged has learnt nothing. Without it, a change that makes runs diverge would look better.
        diverged[benchmark] += result.session in sessions and not math.isfinite(accuracy)
        value = ProcessEvidence(value=max(accuracy, _LEAST_ACCURACY) if math.isfinite(accuracy) else _LEAST_ACCURACY)
        entries.setdefault(benchmark, []).append(
            (results.sessions[result.session], f"seed {result.config.seed}", value)
        )
    for rerun in results.checks:
        value = ProcessEvidence(value=float(rerun.first_difference is None))
        name = _with_workload(f"determinism/{rerun.name}", rerun.config)
        entries.setdefault(Benchmark(Metric.EQUAL_BITS, name), []).append(
            (results.sessions[rerun.session], rerun.session, value)
        )
    cut = _cut_short(results, sessions.values())
    environment = next(iter(sessions.values())).environment.texts() if sessions else {}
    evidence = {}
    for benchmark in dict.fromkeys([*entries, *cut]):
        current = [(key, value) for session, key, value in entries.get(benchmark, []) if session.id in sessions]
        processes = dict(current)
        remarks = {
            "processes that were cut short": cut[benchmark],
            "measurements that the same process or seed has repeated": len(current) - len(processes),
            "runs that diverged, whose accuracy counts as 0": diverged[benchmark],
        }
        evidence[benchmark] = Evidence(
            environment=environment,
            processes=processes,
            omissions=tuple(f"{text}: {count}" for text, count in remarks.items() if count),
            is_older=not processes and not cut[benchmark],
        )
    return evidence


def _cut_short(
    results: Results, sessions: Iterable[Session], name: Callable[[Measurement], str] = benchmark_name
) -> Counter[Benchmark]:
    """Count the incomplete measurements of these sessions, by benchmark."""
    whole = results.whole()
    ids = {session.id for session in sessions}
    return Counter(
        Benchmark(Metric.SECONDS, name(m))
        for m in results.measurements.values()
        if m.session in ids and m.id not in whole
    )


def newest_sessions(results: Results) -> dict[str, Session]:
    """Return the sessions of the newest machine, stack and source, by id.

    The sides of `ab` are left out and judged separately. If the source is not known, only the last run counts.
    """
    sessions = [session for session in results.sessions.values() if not session.side]
    if not sessions:
        return {}
    last = max(sessions, key=lambda session: results.time_of(session.id))
    facts = last.environment.measuring_facts()
    return {
        s.id: s
        for s in sessions
        if s.environment.measuring_facts() == facts and (last.environment.is_source_known or s.run == last.run)
    }


def left_out(results: Results) -> str | None:
    """Say how many processes `collect` leaves out, and in which facts they differ; None if it uses all of them."""
    newest = newest_sessions(results)
    others = [s for s in results.sessions.values() if not s.side and s.id not in newest]
    if not others:
        return None
    used = next(iter(newest.values())).environment
    reasons: dict[str, None] = {}
    for environment in dict.fromkeys(session.environment for session in others):
        reasons |= dict.fromkeys(_differing_facts(used, environment) or ["run of unknown source"])
    return (
        f"{len(others)} of {len(others) + len(newest)} processes, which differ from the newest in: {', '.join(reasons)}"
    )


def _differing_facts(one: Environment, other: Environment) -> list[str]:
    """Return the facts for which two environments are not one; a fact that only one of them has is such a fact."""
    ours, theirs = one.measuring_facts(), other.measuring_facts()
    return [name for name in dict.fromkeys((*ours, *theirs)) if ours.get(name) != theirs.get(name)]


def sides(results: Results, plan: Plan) -> tuple[dict[Benchmark, Evidence], dict[Benchmark, Evidence]]:
    """Collect the evidence of both sides of a plan; processes with equal keys are a pair.

    Raises:
        InputError: if the processes of a side had different environments, for example because the source changed
            before a resume.
    """
    both: list[dict[Benchmark, Evidence]] = []
    for side in ("a", "b"):
        sessions = [s for s in results.sessions.values() if s.run == plan.id and s.side == side]
        for environment in dict.fromkeys(session.environment for session in sessions):
            facts = _differing_facts(sessions[0].environment, environment)
            if facts:
                raise InputError(
                    f"side {side} was measured in different environments ({', '.join(facts)}): the source or the "
                    "machine changed in between; measure again from the start"
                )
        entries = times(results, sessions, _operation_name)
        # A process that was cut short and measured again is complete.
        complete = {session.process for values in entries.values() for session, _, _ in values}
        cut = _cut_short(results, [s for s in sessions if s.process not in complete], _operation_name)
        both.append(
            {
                benchmark: Evidence(
                    environment=sessions[-1].environment.texts(),
                    processes={str(session.process // 2): value for session, _, value in entries.get(benchmark, [])},
                    omissions=(f"processes that were cut short: {cut[benchmark]}",) if cut[benchmark] else (),
                )
                for benchmark in dict.fromkeys([*entries, *cut])
            }
        )
    return both[0], both[1]


def _operation_name(measurement: Measurement) -> str:
    """Return the name of a side's benchmark: without the workload, which is the subject of the comparison."""
    return f"{measurement.suite}/{measurement.operation}"


def times(
    results: Results, sessions: Iterable[Session], name: Callable[[Measurement], str] = benchmark_name
) -> dict[Benchmark, list[tuple[Session, str, ProcessEvidence]]]:
    """Return the complete measurements of these sessions: for each benchmark the session, a key and the evidence."""
    blocks = results.whole()
    ids = {session.id for session in sessions}
    entries: dict[Benchmark, list[tuple[Session, str, ProcessEvidence]]] = {}
    for m in results.measurements.values():
        if m.session in ids and m.id in blocks:
            session = results.sessions[m.session]
            entries.setdefault(Benchmark(Metric.SECONDS, name(m)), []).append(
                (session, session.id, _process_evidence(blocks[m.id]))
            )
    return entries


def _process_evidence(blocks: Sequence[Block]) -> ProcessEvidence:
    rounds = {block.round: block.wall_ns / block.iterations / 1e9 for block in blocks}
    control = [block.control_ns / 1e9 for block in blocks if block.control_ns is not None]
    return ProcessEvidence(
        value=statistics.median(rounds.values()),
        control_s=statistics.median(control) if len(control) == len(blocks) else None,
        rounds=rounds,
        num_blocks=len(blocks),
        num_flagged=sum(bool(block.flags) for block in blocks),
    )
