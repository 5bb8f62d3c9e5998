"""Judge NEW against BASE; the exit code is the gate."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlpbench.cli.exits import Answer
from mlpbench.cli.gate import add_gate, margins_of, show, show_plan
from mlpbench.cli.options import RESULTS
from mlpbench.errors import InputError

if TYPE_CHECKING:
    from mlpbench.judging.evidence import Evidence
    from mlpbench.judging.metrics import Benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("base", metavar="BASE", help="results (files, folders), pytest-benchmark JSON, or `baseline`")
    parser.add_argument("new", metavar="NEW", nargs="?", help="the same; leave it out for a file that `ab` wrote")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="where baselines and the noise floor are kept"
    )
    add_gate(parser)


def run(parsed: argparse.Namespace) -> Answer:
    """Load both sides, judge them, and return the answer of the gate."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import check_outputs, note_problems
    from mlpbench.judging.metrics import Metric
    from mlpbench.judging.verdict import judge

    if parsed.new is None:
        return _judge_plan(parsed)
    check_outputs(parsed)
    new = _load_side(parsed.new, None, parsed.results)
    base = _load_side(parsed.base, new.machine, parsed.results)
    note_problems(parsed, new.problems + base.problems)
    for benchmark in base.evidence.keys() & new.evidence.keys():
        ones, others = base.evidence[benchmark].processes, new.evidence[benchmark].processes
        if benchmark.metric is Metric.SECONDS and any(ones[key] == others[key] for key in ones.keys() & others.keys()):
            raise InputError(
                f"{parsed.new} contains the same measurements as {parsed.base} (nothing to compare): {benchmark.name}"
            )
    judgement = judge(base.evidence, new.evidence, margins_of(parsed, _noise_ratio(parsed.results, new.machine)))
    left_out = tuple(f"{name}: {side.left_out}" for name, side in (("BASE", base), ("NEW", new)) if side.left_out)
    judgement = replace(judgement, left_out=left_out, remarks=base.remarks + new.remarks)
    command = command_of(parsed, keep_paths=True)
    return show(parsed, judgement, f"{parsed.new} against {parsed.base}", (command,))


def _judge_plan(parsed: argparse.Namespace) -> Answer:
    from mlpbench.cli.output import check_outputs, read

    check_outputs(parsed)
    results = read(parsed, [Path(parsed.base)])
    if len(results.plans) != 1:
        raise InputError(f"{parsed.base} holds {len(results.plans)} runs of `mlpbench ab`, not one; give BASE and NEW")
    (plan,) = results.plans.values()
    return show_plan(parsed, results, plan, Path(parsed.base))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """Hold what was loaded of one side."""

    evidence: "dict[Benchmark, Evidence]"
    machine: str | None = None
    """The name of the machine; None if the files do not tell it."""
    problems: tuple[str, ...] = ()
    """A line for each damaged file."""
    left_out: str | None = None
    """How many processes are not judged, and why."""
    remarks: tuple[str, ...] = ()
    """The reasons for which a baseline was accepted only by force."""


def _load_side(text: str, machine: str | None, root: Path) -> _Side:
    """Load a path, or the baseline of `machine`."""
    from mlpbench.judging import baseline, formats
    from mlpbench.judging.evidence import collect, left_out
    from mlpbench.records.store import load

    if text == "baseline" and not Path(text).exists():
        if machine is None:
            raise InputError("`baseline` belongs to one machine: NEW must be mlpbench results; give a file as BASE")
        path = baseline.find(root, machine)
    else:
        path = Path(text)
    foreign = formats.json_files(path)
    if foreign and not (path.is_dir() and any(path.rglob("*.jsonl"))):
        return _Side(evidence=formats.load_pytest_benchmark(foreign))
    results = load([path])
    return _Side(
        evidence=collect(results),
        machine=results.newest_session.environment.machine,
        problems=tuple(results.problems),
        left_out=left_out(results),
        remarks=baseline.remarks_of(results),
    )


def _noise_ratio(root: Path, machine: str | None) -> float:
    """Return the noise floor of the machine's last `aa`, as a ratio; 1 if it has none."""
    from mlpbench.records.store import load

    folder = root / (machine or "")
    if machine is None or next(folder.rglob("*.jsonl"), None) is None:
        return 1.0
    results = load([folder])
    noises = [noise for noise in results.noises if results.sessions[noise.session].environment.machine == machine]
    last = max(noises, key=lambda noise: results.time_of(noise.session), default=None)
    return max((noise.floor_ratio for noise in noises if last and noise.session == last.session), default=1.0)
