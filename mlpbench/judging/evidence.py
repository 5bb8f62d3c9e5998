"""From records to samples: what each process says about each benchmark."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.records.kinds import Block, Environment, Measurement, Plan, Session
from mlpbench.records.results import Results

# What has to agree for two times to be comparable at all.
MACHINE = ("cpu_model", "architecture", "num_cpus", "cpu_capability", "gpu_model")
# What changes the control workload itself, so that it cannot serve as one.
STACK = ("torch", "cuda", "cudnn", "num_threads", "matmul_precision", "variables", "python")
_LEAST_ACCURACY = 1e-6  # none at all has no logarithm


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one process says about one benchmark."""

    value: float  # seconds per call, bytes, a fraction
    control_s: float | None = None
    rounds: Mapping[int, float] = field(default_factory=dict)  # the blocks behind the value
    num_blocks: int = 1
    num_flagged: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What all processes say about it. Keys tell processes apart; equal keys of two sides are a pair."""

    environment: Mapping[str, str]  # what has to agree, and what may differ, as text
    processes: Mapping[str, Sample]


def benchmark_name(measurement: Measurement) -> str:
    """`suite/operation workload`, without the workload where it is the default; what globs of thresholds match."""
    name = _named(f"{measurement.suite}/{measurement.operation}", measurement.config)
    return name if measurement.clock == "throughput" else f"{name} ({measurement.clock})"


def _named(what: str, config: RunConfig) -> str:
    return f"{what} {config}".removesuffix(" default")


def environment_fields(environment: Environment) -> dict[str, str]:
    """The fields that decide whether two measurements compare."""
    return {name: str(getattr(environment, name)) for name in (*MACHINE, *STACK)}


def samples(results: Results) -> dict[Benchmark, Samples]:
    """Every benchmark's processes: of the newest environment and commit, those that measured all they were to.

    What only an older commit or another stack has measured is not there. Of changed source, which has no commit of its
    own, the last run alone counts.
    """
    sessions = newest_sessions(results)
    found = times(results, sessions.values())
    for memory in results.memories:
        sample = Sample(value=float(memory.peak_bytes))
        name = _named(f"memory/{memory.operation}", memory.config)
        found.setdefault(Benchmark(Metric.PEAK_BYTES, name), []).append(
            (results.sessions[memory.session], memory.session, sample)
        )
    for result in results.train_results:
        name = _named("training", replace(result.config, seed=RunConfig().seed))
        accuracy = result.test_accuracy[-1]
        if not math.isfinite(accuracy):
            continue
        sample = Sample(value=max(accuracy, _LEAST_ACCURACY))
        entry = (results.sessions[result.session], f"seed {result.config.seed}", sample)
        found.setdefault(Benchmark(Metric.TEST_ACCURACY, name), []).append(entry)
    for check in results.checks:
        name = _named(f"determinism/{check.name}", check.config)
        sample = Sample(value=float(check.first_difference is None))
        found.setdefault(Benchmark(Metric.EQUAL_BITS, name), []).append(
            (results.sessions[check.session], check.session, sample)
        )
    made = {}
    for benchmark, entries in found.items():
        processes = {key: sample for session, key, sample in entries if session.id in sessions}
        if processes:
            environment = next(iter(sessions.values())).environment
            made[benchmark] = Samples(environment=environment_fields(environment), processes=processes)
    return made


def newest_sessions(results: Results) -> dict[str, Session]:
    """The sessions of the newest environment; of `ab` none, whose sides are judged by themselves."""
    alone = [session for session in results.sessions.values() if not session.side]
    if not alone:
        return {}
    last = max(alone, key=lambda session: session.started_at)
    return {
        s.id: s
        for s in alone
        if s.environment == last.environment and (not last.environment.dirty or s.run == last.run)
    }


def sides(results: Results, plan: Plan) -> tuple[dict[Benchmark, Samples], dict[Benchmark, Samples]]:
    """Both sides of a plan; a key is a pair.

    Raises:
        InputError: if the processes of a side had different environments, as when the source changed before a resume.
    """
    found: list[dict[Benchmark, Samples]] = []
    for side in ("a", "b"):
        sessions = [s for s in results.sessions.values() if s.run == plan.id and s.side == side]
        if any(s.environment != sessions[0].environment for s in sessions):
            raise InputError(f"side {side} was measured in different environments; source or machine changed meanwhile")
        entries = times(results, sessions, name=lambda m: f"{m.suite}/{m.operation}")
        found.append(
            {
                benchmark: Samples(
                    environment=environment_fields(of_side[-1][0].environment),
                    processes={str(session.process // 2): sample for session, _, sample in of_side},
                )
                for benchmark, of_side in entries.items()
            }
        )
    return found[0], found[1]


def times(
    results: Results, sessions: Iterable[Session], name: Callable[[Measurement], str] = benchmark_name
) -> dict[Benchmark, list[tuple[Session, str, Sample]]]:
    """Every finished measurement of these sessions as a sample of its process."""
    whole = results.whole()
    wanted = {session.id for session in sessions}
    found: dict[Benchmark, list[tuple[Session, str, Sample]]] = {}
    for m in results.measurements.values():
        if m.session in wanted and m.id in whole:
            session = results.sessions[m.session]
            found.setdefault(Benchmark(Metric.SECONDS, name(m)), []).append((session, session.id, _sample(whole[m.id])))
    return found


def _sample(blocks: Sequence[Block]) -> Sample:
    rounds = {block.round: block.wall_ns / block.iterations / 1e9 for block in blocks}
    control = [block.control_ns / 1e9 for block in blocks if block.control_ns is not None]
    return Sample(
        value=statistics.median(rounds.values()),
        control_s=statistics.median(control) if len(control) == len(blocks) else None,
        rounds=rounds,
        num_blocks=len(blocks),
        num_flagged=sum(bool(block.flags) for block in blocks),
    )
