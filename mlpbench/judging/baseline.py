"""Keep the accepted baseline of each machine: a results file that only `accept` replaces."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlpbench.errors import InputError
from mlpbench.judging.evidence import Evidence, collect
from mlpbench.judging.judgement import Margins
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import judge
from mlpbench.records import files
from mlpbench.records.codec import encode
from mlpbench.records.kinds import Acceptance
from mlpbench.records.results import Results
from mlpbench.records.store import load

FOLDER = "baselines"
# With more disturbed blocks than that, the times are mostly those of something else.
_MOST_FLAGGED = 0.5
# A baseline that could only show that a time has doubled shows nothing that nobody sees without it.
_LARGEST_DETECTABLE = 2.0
_ADVICE = "measure with `pytest bench/ --preset default` on a quiet machine (`mlpbench check` tells)"


def path_of(root: Path, machine: str) -> Path:
    """Return the path of a machine's baseline, whether it exists or not."""
    return root / FOLDER / f"{machine}.jsonl"


def accept(root: Path, paths: Sequence[Path], *, is_forced: bool = False) -> Path:
    """Make results of one machine its baseline; the old baseline is replaced completely or not at all.

    Args:
        root: the folder of results.
        paths: the results.
        is_forced: accept results from which hardly a verdict can follow; the baseline then says so.

    Returns:
        The path of the baseline.

    Raises:
        InputError: if the results come from several machines, are damaged, or have no complete measurement; if hardly a
            verdict could follow from them, unless forced; or if the baseline cannot be written.
    """
    results = load(paths)
    if results.problems:
        raise InputError(f"{results.problems[0]}; a baseline must be complete, so nothing was accepted")
    machines = {session.environment.machine for session in results.sessions.values()}
    if len(machines) > 1:
        raise InputError(f"results of several machines ({', '.join(sorted(machines))}); accept them one by one")
    evidence = collect(results)
    reasons = weaknesses(evidence)
    is_empty = not any(of_one.processes for of_one in evidence.values())
    if reasons and (is_empty or not is_forced):
        way_out = "" if is_empty else ", or add --force"
        raise InputError(f"nothing was accepted: {'; '.join(reasons)}; {_ADVICE}{way_out}")
    if reasons:
        results.add(Acceptance(session=results.newest_session.id, reasons=reasons))
    path = path_of(root, machines.pop())
    files.write(path, "".join(f"{encode(record)}\n" for record in results.records()))
    return path


def weaknesses(evidence: Mapping[Benchmark, Evidence]) -> tuple[str, ...]:
    """Return the reasons why hardly a verdict can follow from this evidence; empty if verdicts can."""
    measured = {i: e for i, e in evidence.items() if e.processes and i.metric.is_statistical}
    if not measured:
        return ("no benchmark of these results ran completely, but a verdict needs two processes",)
    replicated = {i: e for i, e in measured.items() if len(e.processes) > 1}
    reasons = []
    if not replicated:
        reasons.append("no benchmark of these results ran in two processes, but a verdict needs two")
    elif 2 * len(replicated) < len(measured):
        reasons.append(
            f"{len(measured) - len(replicated)} of {len(measured)} benchmarks ran in one process, "
            "but a verdict needs two"
        )
    processes = [p for i, e in measured.items() if i.metric is Metric.SECONDS for p in e.processes.values()]
    flagged = sum(p.num_flagged for p in processes) / max(sum(p.num_blocks for p in processes), 1)
    if flagged > _MOST_FLAGGED:
        reasons.append(f"{flagged:.0%} of the blocks were disturbed by something else on the machine")
    # The changes that another run with the same noise could show.
    smallest = [c.detectable_ratio for c in judge(replicated, replicated, Margins()).comparisons]
    if smallest and statistics.median(smallest) > _LARGEST_DETECTABLE:
        reasons.append("the processes differ so much that most changes below a doubling of the time would not be found")
    return tuple(reasons)


def remarks_of(results: Results) -> tuple[str, ...]:
    """Return a sentence for each reason for which these results became a baseline only by force."""
    return tuple(
        f"the baseline was accepted by force, although {reason}"
        for acceptance in results.of(Acceptance)
        for reason in acceptance.reasons
    )


def find(root: Path, machine: str) -> Path:
    """Return the path of a machine's baseline.

    Raises:
        InputError: if no baseline was accepted for this machine.
    """
    path = path_of(root, machine)
    if not path.exists():
        raise InputError(f"no baseline of {machine}; `mlpbench baseline accept RESULTS` makes one")
    return path
