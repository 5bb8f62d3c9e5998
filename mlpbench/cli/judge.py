"""Verbs that judge what is there: compare, baseline, check."""

import argparse
import shlex
import sys
from pathlib import Path

from mlpbench.cli.gate import add_gate, check_outputs, margins_of, show, show_plan
from mlpbench.cli.options import RESULTS, Verbs
from mlpbench.compare import judge
from mlpbench.records import InputError
from mlpbench.samples import Identity, Samples, samples
from mlpbench.store import load


def add_verbs(verbs: Verbs) -> None:
    """Name the verbs and their arguments."""
    compare = verbs.add_parser("compare", help="judge NEW against BASE; the exit code is the gate")
    compare.add_argument("base", metavar="BASE", help="results (files, folders), pytest-benchmark JSON, or `baseline`")
    compare.add_argument("new", metavar="NEW", nargs="?", help="the same; leave it out for a file that `ab` wrote")
    compare.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="where baselines and the noise floor are kept"
    )
    add_gate(compare)
    compare.set_defaults(run=_compare)

    baseline = verbs.add_parser("baseline", help="accept results as this machine's baseline, or show what is accepted")
    baseline.add_argument("action", choices=["accept", "show"])
    baseline.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="results to accept (files, folders)")
    baseline.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where baselines are kept")
    baseline.set_defaults(run=_baseline)

    check = verbs.add_parser("check", help="is this machine fit to time on? exit code 1 if not")
    check.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    check.set_defaults(run=_check)


def _compare(parsed: argparse.Namespace) -> int:
    if parsed.new is None:
        return _compare_plan(parsed)
    check_outputs(parsed)
    new, machine, problems = _load_side(parsed.new, None, parsed.results)
    base, _, more = _load_side(parsed.base, machine, parsed.results)
    _tell(problems + more)
    for identity in base.keys() & new.keys():
        shared = base[identity].processes.keys() & new[identity].processes.keys()
        if identity[0] == "seconds" and any(
            base[identity].processes[key] == new[identity].processes[key] for key in shared
        ):
            raise InputError(f"{parsed.new} holds measurements of {parsed.base} itself: {identity[1]}")
    judgement = judge(base, new, margins_of(parsed, _noise(parsed.results, machine)))
    code = show(parsed, judgement, f"{parsed.new} against {parsed.base}", (_command(parsed),))
    return _or_damaged(code, problems + more)


def _or_damaged(code: int, problems: list[str]) -> int:
    """The exit code, but no pass for what was damaged."""
    return 2 if problems and code in (0, 3) else code


def _compare_plan(parsed: argparse.Namespace) -> int:
    results = load([Path(parsed.base)])
    _tell(results.problems)
    if len(results.plans) != 1:
        raise InputError(f"{parsed.base} holds {len(results.plans)} runs of `mlpbench ab`, not one; give BASE and NEW")
    (plan,) = results.plans.values()
    return _or_damaged(show_plan(parsed, results, plan, Path(parsed.base)), results.problems)


def _tell(problems: list[str]) -> None:
    for problem in problems:
        print(f"mlpbench: {problem}", file=sys.stderr)


def _load_side(text: str, machine: str | None, root: Path) -> tuple[dict[Identity, Samples], str | None, list[str]]:
    """Samples of a path, the name of its machine, and what was damaged."""
    from mlpbench import baseline, exchange

    if text == "baseline" and not Path(text).exists():
        if machine is None:
            raise InputError("`baseline` is this machine's: NEW has to be mlpbench results; give a file as BASE")
        path = baseline.find(root, machine)
    else:
        path = Path(text)
    foreign = exchange.json_files(path)
    if foreign and not (path.is_dir() and any(path.rglob("*.jsonl"))):
        return exchange.load_pytest_benchmark(foreign), None, []
    results = load([path])
    return samples(results), results.newest_session.environment.machine, results.problems


def _noise(root: Path, machine: str | None) -> float:
    """The machine's own noise floor, of its last `aa`; 1 if it has none."""
    folder = root / (machine or "")
    if machine is None or next(folder.rglob("*.jsonl"), None) is None:
        return 1.0
    results = load([folder])
    last = max(results.noises, key=lambda found: results.sessions[found.session].started_at, default=None)
    return max((found.floor_ratio for found in results.noises if last and found.session == last.session), default=1.0)


def _command(parsed: argparse.Namespace) -> str:
    return shlex.join(["mlpbench", "compare", parsed.base, parsed.new])


def _baseline(parsed: argparse.Namespace) -> int:
    from mlpbench import baseline

    if parsed.action == "accept":
        if not parsed.paths:
            raise InputError("baseline accept: which results? give files or folders")
        print(f"accepted: {baseline.accept(parsed.results, parsed.paths)}")
        return 0
    folder = parsed.results / baseline.FOLDER
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise InputError(f"no baseline under {folder}; `mlpbench baseline accept RESULTS` makes one")
    for path in found:
        results = load([path])
        of_path = samples(results)
        session = results.newest_session
        processes = max(len(s.processes) for s in of_path.values())
        print(f"{path.stem}: {len(of_path)} benchmarks, up to {processes} processes, {session.started_at}, "
              f"commit {session.environment.commit}, torch {session.environment.torch}")  # fmt: skip
    return 0


def _check(parsed: argparse.Namespace) -> int:
    from mlpbench import display, environment, fitness

    console = display.console()
    findings = fitness.check(environment.resolve_device(parsed.device))
    for finding in findings:
        sign = {True: "✓", False: "✗", None: "?"}[finding.is_fit]
        advice = f" -> {finding.advice}" if finding.is_fit is False else ""
        console.print(f"{sign} {finding.what}: {finding.found}{advice}")
    bad = [finding.what for finding in findings if finding.is_fit is False]
    console.print(f"not fit to time on: {', '.join(bad)}" if bad else "fit to time on")
    return 1 if bad else 0
