"""Judge NEW against BASE; the exit code is the gate."""

import argparse
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
    new, machine, problems = _load_side(parsed.new, None, parsed.results)
    base, _, base_problems = _load_side(parsed.base, machine, parsed.results)
    note_problems(parsed, problems + base_problems)
    for benchmark in base.keys() & new.keys():
        ones, others = base[benchmark].processes, new[benchmark].processes
        if benchmark.metric is Metric.SECONDS and any(ones[key] == others[key] for key in ones.keys() & others.keys()):
            raise InputError(
                f"{parsed.new} contains the same measurements as {parsed.base} (nothing to compare): {benchmark.name}"
            )
    judgement = judge(base, new, margins_of(parsed, _noise_ratio(parsed.results, machine)))
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


def _load_side(text: str, machine: str | None, root: Path) -> "tuple[dict[Benchmark, Evidence], str | None, list[str]]":
    """Load a path, or the baseline of `machine`.

    Returns:
        The evidence of each benchmark, the name of the machine, and a line for each damaged file.
    """
    from mlpbench.judging import baseline, formats
    from mlpbench.judging.evidence import collect
    from mlpbench.records.store import load

    if text == "baseline" and not Path(text).exists():
        if machine is None:
            raise InputError("`baseline` belongs to one machine: NEW must be mlpbench results; give a file as BASE")
        path = baseline.find(root, machine)
    else:
        path = Path(text)
    foreign = formats.json_files(path)
    if foreign and not (path.is_dir() and any(path.rglob("*.jsonl"))):
        return formats.load_pytest_benchmark(foreign), None, []
    results = load([path])
    return collect(results), results.newest_session.environment.machine, list(results.problems)


def _noise_ratio(root: Path, machine: str | None) -> float:
    """Return the noise floor of the machine's last `aa`, as a ratio; 1 if it has none."""
    from mlpbench.records.store import load

    folder = root / (machine or "")
    if machine is None or next(folder.rglob("*.jsonl"), None) is None:
        return 1.0
    results = load([folder])
    last = max(results.noises, key=lambda noise: results.sessions[noise.session].started_at, default=None)
    return max((noise.floor_ratio for noise in results.noises if last and noise.session == last.session), default=1.0)
