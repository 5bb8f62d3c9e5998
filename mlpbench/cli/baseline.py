"""Accept results as the baseline of this machine, or show what is accepted."""

import argparse
from pathlib import Path

from mlpbench.cli.options import RESULTS
from mlpbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("action", choices=["accept", "show"])
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="results to accept (files, folders)")
    parser.add_argument(
        "--force", action="store_true", help="accept results from which hardly a verdict can follow, and say so in them"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where baselines are kept")


def run(parsed: argparse.Namespace) -> None:
    """Accept the results, or print a line for each accepted baseline."""
    from mlpbench.cli.output import read, say
    from mlpbench.judging import baseline

    if parsed.action == "accept":
        if not parsed.paths:
            raise InputError("baseline accept: which results? give files or folders")
        path = baseline.accept(parsed.results, parsed.paths, is_forced=parsed.force)
        say(f"accepted: {path}")
        for remark in baseline.remarks_of(read(parsed, [path])):
            say(f"  {remark}")
        return
    folder = parsed.results / baseline.FOLDER
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise InputError(f"no baseline under {folder}; `mlpbench baseline accept RESULTS` makes one")
    for path in paths:
        _print_baseline(parsed, path)


def _print_baseline(parsed: argparse.Namespace, path: Path) -> None:
    from mlpbench.cli.output import read, say
    from mlpbench.judging import baseline
    from mlpbench.judging.evidence import collect

    results = read(parsed, [path])
    evidence = collect(results)
    session = results.newest_session
    num_processes = max((len(of_one.processes) for of_one in evidence.values()), default=0)
    say(
        f"{path.stem}: {len(evidence)} benchmarks, up to {num_processes} processes, {session.started_at}, "
        f"commit {session.environment.commit}, torch {session.environment.stack.torch}"
    )
    for remark in baseline.remarks_of(results):
        say(f"  {remark}")
