"""Verbs that compare in turns: ab, aa."""

import argparse
import dataclasses
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlpbench.cli.gate import add_gate, check_outputs, margins_of, show_plan
from mlpbench.cli.options import Verbs, add_workload, as_options, positive, settings_of, write
from mlpbench.compare import Margins, judge, judge_plan, looks
from mlpbench.records import InputError, Plan, Record, RunConfig, Session, override
from mlpbench.samples import sides
from mlpbench.store import Results, load

if TYPE_CHECKING:
    from mlpbench.processes import Side

WARM_UP_S = 0.5


def add_verbs(verbs: Verbs) -> None:
    """Name the verbs and their arguments."""
    ab = verbs.add_parser("ab", help="compare two settings, environments, interpreters or commits, in turns")
    sides_help = "a side: field=value, env:NAME=VALUE, python=PATH, commit=REVISION; without any, as it is here"
    ab.add_argument("--a", nargs="+", action="extend", default=[], metavar="SETTING", help=sides_help)
    ab.add_argument(
        "--b", nargs="+", action="extend", default=[], metavar="SETTING", help="the other side, judged against a"
    )
    _add_plan(ab, pairs=12)
    ab.add_argument("--blocked", action="store_true", help="one side after the other, instead of in turns")
    add_gate(ab)
    ab.set_defaults(run=_ab)

    aa = verbs.add_parser("aa", help="compare this machine with itself: its noise floor and false alarms")
    _add_plan(aa, pairs=10)
    aa.set_defaults(run=_aa, margin=None, blocked=False)


def _add_plan(parser: argparse.ArgumentParser, pairs: int) -> None:
    parser.add_argument(
        "operations",
        nargs="*",
        metavar="OPERATION",
        help="forward, backward, forward_backward, optimizer_step, train_step (the default), evaluate, epoch",
    )
    parser.add_argument(
        "--pairs", type=positive, default=pairs, help=f"fresh processes of each side, at most (default {pairs})"
    )
    parser.add_argument("--rounds", type=positive, default=10, help="timed blocks in each process (default 10)")
    parser.add_argument(
        "--all-pairs", action="store_true", help="measure every pair, even when every verdict is reached"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the same command that was cut off")
    parser.add_argument("--time-limit", type=positive, metavar="S", help="begin no pair after so many seconds")
    add_workload(parser)


class _Log:
    """Appends a plan's records to a file of its own, which is named when the first process has said where it runs."""

    def __init__(self, root: Path, plan: Plan, path: Path | None, before: Results) -> None:
        self._root, self._plan, self.path = root, plan, path
        self.results = before

    def __call__(self, record: Record) -> None:
        """Write a record, and keep it."""
        if self.path is None:
            assert isinstance(record, Session), "a process says first where it runs"
            day = datetime.now(UTC).date().isoformat()
            self.path = self._root / record.environment.machine / f"{day}-ab-{self._plan.id}.jsonl"
            self(record)
            record = self._plan  # after a session, so that a file with a plan always has one
        write(self.path, record)
        self.results.add(record)


def _ab(parsed: argparse.Namespace) -> int:
    from mlpbench import processes

    config = override(RunConfig(), settings_of(parsed))
    a, b = processes.parse_side(parsed.a, config), processes.parse_side(parsed.b, config)
    if parsed.blocked and parsed.time_limit:
        raise InputError("--time-limit ends after a pair, and --blocked has none before its end; give one of them")
    whole = [dataclasses.replace(s, settings=(str(override(config, s.settings)),)) for s in (a, b)]
    check_outputs(parsed)
    if whole[0] == whole[1]:
        raise InputError("both sides are the same; give --a or --b a setting, or use `mlpbench aa`")
    command = ["mlpbench", "ab", *parsed.operations]
    for name, side in (("--a", a), ("--b", b)):
        command += [name, *side.labels] if side.labels else []
    log = _run(parsed, a, b, command)
    (plan,) = log.results.plans.values()
    return show_plan(parsed, log.results, plan, log.path)


def _aa(parsed: argparse.Namespace) -> int:
    from mlpbench import display, noise, processes, verdicts

    side = processes.parse_side([], override(RunConfig(), settings_of(parsed)))
    if parsed.pairs < 5:
        raise InputError(f"a noise floor needs at least 5 pairs, not {parsed.pairs}")
    parsed.all_pairs = True  # a floor needs all that was asked for
    log = _run(parsed, side, side, ["mlpbench", "aa", *parsed.operations])
    (plan,) = log.results.plans.values()
    console = display.console()
    for found in noise.measured(log.results, plan, next(reversed(log.results.sessions))):
        log(found)
        console.print(
            f"{found.operation}: {found.processes} processes against {found.processes} later ones lay within "
            f"{100 * (found.floor_ratio - 1):.1f} % in 95 % of {found.comparisons} comparisons; {found.false_alarms} "
            "ended with a false slower or faster"
        )
    paired = judge(*sides(log.results, plan), Margins(), is_paired=True)
    console.print(f"in turns: {verdicts.sentence(paired)}")
    console.print(f"results: {log.path}; `mlpbench compare` takes the floor as its margin on this machine")
    return 0


def _run(parsed: argparse.Namespace, a: "Side", b: "Side", command: list[str]) -> _Log:
    """Measure a plan, a new one or one that was cut off; every record is on disk as soon as it exists."""
    from mlpbench import display, processes

    settings = settings_of(parsed)
    config = override(RunConfig(), settings)
    operations = tuple(dict.fromkeys(parsed.operations)) or ("train_step",)
    command += ["--pairs", str(parsed.pairs), "--rounds", str(parsed.rounds)]
    command += [f"--{name.replace('_', '-')}" for name in ("all_pairs", "blocked") if getattr(parsed, name)]
    margins = margins_of(parsed, 1.0)
    if margins.default_ratio is not None:
        command += ["--margin", f"{100 * (margins.default_ratio - 1):g}%"]
    plan = processes.make_plan(
        a,
        b,
        command=shlex.join([*command, *as_options(settings)]),
        operations=operations,
        config=config,
        pairs=parsed.pairs,
        rounds=parsed.rounds,
        interleaved=not parsed.blocked,
        margin_ratio=margins.default_ratio,
    )
    log = _Log(parsed.results, plan, None, Results())
    if parsed.resume:
        log = _resumed(parsed.results, plan)
        plan = next(iter(log.results.plans.values()))
    done = processes.finished(log.results, plan)
    console = display.console()
    start = time.monotonic()
    readings = looks(plan.pairs)

    def on_pair(count: int) -> str | None:
        judgement = judge_plan(log.results, plan, margins)
        first = judgement.comparisons[0] if judgement.comparisons else None
        so_far = f", b over a so far {first.ratio:.3f}" if first else ""
        console.print(f"pair {count} of {plan.pairs}{so_far}")
        decided = bool(judgement.comparisons) and all(c.verdict != "inconclusive" for c in judgement.comparisons)
        if decided and count in readings[:-1] and not parsed.all_pairs:
            return f"every verdict reached after {count} pairs"
        if parsed.time_limit and time.monotonic() - start > parsed.time_limit and count < plan.pairs:
            return f"time limit of {parsed.time_limit} s, after {count} pairs"
        return None

    processes.run_plan(plan, {"a": a, "b": b}, done, log, preset="ab", warm_up_s=WARM_UP_S, on_pair=on_pair)
    return log


def _resumed(root: Path, wanted: Plan) -> _Log:
    from mlpbench import processes

    for path in sorted(root.rglob("*-ab-*.jsonl"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            results = load([path])
        except InputError:  # a file that is none of ours, or was cut at once
            continue
        plan = processes.same_design(results, wanted)
        if plan and plan.id in results.endings:
            raise InputError(f"nothing to resume: it is complete; `mlpbench compare {path}` judges it again")
        if plan:
            return _Log(root, plan, path, results)
    raise InputError(f"nothing to resume: no unfinished run of this command under {root}")
