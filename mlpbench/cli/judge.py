"""Verbs that judge: ab, aa, compare, baseline, check."""

import argparse
import csv
import dataclasses
import json
import math
import shlex
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlpbench.cli.options import RESULTS, Verbs, add_workload, as_options, positive, settings_of
from mlpbench.compare import Judgement, Margins, judge, judge_plan, looks, noise
from mlpbench.records import InputError, Plan, Record, RunConfig, Session, override
from mlpbench.samples import Identity, Samples, samples, sides
from mlpbench.store import Results, append, load

FAIL_ON = ("slower", "worse", "faster", "better", "inconclusive")
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
    _add_gate(ab)
    ab.set_defaults(run=_ab)

    aa = verbs.add_parser("aa", help="compare this machine with itself: its noise floor and false alarms")
    _add_plan(aa, pairs=10)
    aa.set_defaults(run=_aa)

    compare = verbs.add_parser("compare", help="judge NEW against BASE; the exit code is the gate")
    compare.add_argument("base", metavar="BASE", help="results (files, folders), pytest-benchmark JSON, or `baseline`")
    compare.add_argument("new", metavar="NEW", nargs="?", help="the same; leave it out for a file that `ab` wrote")
    _add_gate(compare)
    compare.set_defaults(run=_compare)

    baseline = verbs.add_parser("baseline", help="accept results as this machine's baseline, or show what is accepted")
    baseline.add_argument("action", choices=["accept", "show"])
    baseline.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="results to accept (files, folders)")
    baseline.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where baselines are kept")
    baseline.set_defaults(run=_baseline)

    check = verbs.add_parser("check", help="is this machine fit to time on? exit code 1 if not")
    check.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    check.set_defaults(run=_check)


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
    parser.add_argument("--blocked", action="store_true", help="one side after the other, instead of in turns")
    parser.add_argument("--resume", action="store_true", help="go on with the same command that was cut off")
    parser.add_argument("--time-limit", type=positive, metavar="S", help="begin no pair after so many seconds")
    add_workload(parser)


def _add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--margin", type=_percent, metavar="P", help="the change that matters, for example 5%%")
    parser.add_argument(
        "--fail-on",
        type=_verdicts,
        default=("slower", "worse"),
        metavar="VERDICTS",
        help=f"comma list of {', '.join(FAIL_ON)} (default: slower,worse)",
    )
    parser.add_argument("--allow-missing", action="store_true", help="a benchmark that NEW lacks is no failure")
    for name, what in {"json": "verdicts", "csv": "verdicts", "markdown": "a summary", "html": "a page"}.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what} as {name}")


def _percent(text: str) -> float:
    """A margin as a ratio: 5% and 0.05 are 1.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 10:
        raise argparse.ArgumentTypeError(f"a change such as 5% or 0.05, not {text!r}")
    return 1 + value


def _verdicts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FAIL_ON:
            raise argparse.ArgumentTypeError(f"unknown verdict {name!r}; known: {', '.join(FAIL_ON)}")
    return names


# --- ab and aa --------------------------------------------------------------------------------------------------------


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
            self(self._plan)
        try:
            append(self.path, record)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; choose another --results") from None
        self.results.add(record)


def _ab(parsed: argparse.Namespace) -> int:
    from mlpbench import processes

    a, b = processes.parse_side(parsed.a), processes.parse_side(parsed.b)
    config = override(RunConfig(), settings_of(parsed))
    whole = [dataclasses.replace(s, settings=(str(override(config, s.settings)),)) for s in (a, b)]
    if whole[0] == whole[1]:
        raise InputError("both sides are the same; give --a or --b a setting, or use `mlpbench aa`")
    command = ["mlpbench", "ab", *parsed.operations]
    for name, side in (("--a", a), ("--b", b)):
        command += [name, *side.labels] if side.labels else []
    log = _run(parsed, a, b, command)
    return _report_plan(parsed, log)


def _aa(parsed: argparse.Namespace) -> int:
    from mlpbench import display, processes, verdicts

    side = processes.parse_side([])
    parsed.all_pairs = True  # a floor needs all that was asked for
    log = _run(parsed, side, side, ["mlpbench", "aa", *parsed.operations])
    (plan,) = log.results.plans.values()
    console = display.console()
    for found in noise(log.results, plan, next(reversed(log.results.sessions))):
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


def _run(parsed: argparse.Namespace, a: Any, b: Any, command: list[str]) -> _Log:
    """Measure a plan, a new one or one that was cut off; every record is on disk as soon as it exists."""
    from mlpbench import display, processes

    settings = settings_of(parsed)
    config = override(RunConfig(), settings)
    operations = tuple(dict.fromkeys(parsed.operations)) or ("train_step",)
    command += ["--pairs", str(parsed.pairs), "--rounds", str(parsed.rounds)]
    command += [f"--{name.replace('_', '-')}" for name in ("all_pairs", "blocked") if getattr(parsed, name)]
    plan = processes.make_plan(
        a,
        b,
        command=shlex.join([*command, *as_options(settings)]),
        operations=operations,
        config=config,
        pairs=parsed.pairs,
        rounds=parsed.rounds,
        interleaved=not parsed.blocked,
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
        judgement = judge_plan(log.results, plan, Margins(default_ratio=getattr(parsed, "margin", None)))
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
        results = load([path])
        plan = processes.unfinished(results, wanted)
        if plan:
            return _Log(root, plan, path, results)
    raise InputError(f"nothing to resume: no unfinished run of this command under {root}")


def _report_plan(parsed: argparse.Namespace, log: _Log) -> int:
    from mlpbench import display

    (plan,) = log.results.plans.values()
    judgement = judge_plan(log.results, plan, _margins(parsed, 1.0))
    title = f"{' '.join(plan.b) or 'as it is'} against {' '.join(plan.a) or 'as it is'}"
    code = _show(parsed, judgement, title, (plan.command,))
    ending = log.results.endings.get(plan.id)
    console = display.console()
    console.print(f"stopped: {ending.reason if ending else 'not finished'}")
    console.print(f"results: {log.path}")
    return code


# --- compare ----------------------------------------------------------------------------------------------------------


def _compare(parsed: argparse.Namespace) -> int:
    if parsed.new is None:
        return _compare_plan(parsed)
    new, machine, problems = _load_side(parsed.new, None)
    base, _, more = _load_side(parsed.base, machine)
    for problem in problems + more:
        print(f"mlpbench: {problem}", file=sys.stderr)
    judgement = judge(base, new, _margins(parsed, _noise(machine)))
    code = _show(parsed, judgement, f"{parsed.new} against {parsed.base}", (_command(parsed),))
    return 2 if problems + more and code in (0, 3) else code


def _compare_plan(parsed: argparse.Namespace) -> int:
    results = load([Path(parsed.base)])
    if not results.plans:
        raise InputError(f"{parsed.base} is not a file of `mlpbench ab`; give BASE and NEW")
    log = _Log(Path(), next(iter(results.plans.values())), Path(parsed.base), results)
    return _report_plan(parsed, log)


def _load_side(text: str, machine: str | None) -> tuple[dict[Identity, Samples], str | None, list[str]]:
    """Samples of a path, the name of its machine, and what was damaged."""
    from mlpbench import baseline, exchange

    if text == "baseline" and not Path(text).exists():
        if machine is None:
            raise InputError("`baseline` is this machine's: NEW has to be mlpbench results; give a file as BASE")
        path = baseline.find(RESULTS, machine)
    else:
        path = Path(text)
    foreign = exchange.json_files(path)
    if foreign and not (path.is_dir() and any(path.rglob("*.jsonl"))):
        return exchange.load_pytest_benchmark(foreign), None, []
    results = load([path])
    return samples(results), baseline.newest_session(results).environment.machine, results.problems


def _noise(machine: str | None) -> float:
    """The machine's own noise floor, of its last `aa`; 1 if it has none."""
    folder = RESULTS / (machine or "")
    if machine is None or not folder.is_dir():
        return 1.0
    results = load([folder])
    if not results.noises:
        return 1.0
    last = results.noises[-1].session
    return max(noise.floor_ratio for noise in results.noises if noise.session == last)


def _margins(parsed: argparse.Namespace, noise_ratio: float) -> Margins:
    return Margins(default_ratio=parsed.margin, thresholds=_thresholds(Path("pyproject.toml")), noise_ratio=noise_ratio)


def _thresholds(path: Path) -> dict[str, float]:
    """`[tool.mlpbench.thresholds]`: globs over benchmarks, each with the change that matters."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    found = content.get("tool", {}).get("mlpbench", {}).get("thresholds", {})
    try:
        return {glob: _percent(str(value)) for glob, value in found.items()}
    except (argparse.ArgumentTypeError, AttributeError) as error:
        raise InputError(f"{path}, tool.mlpbench.thresholds: {error}") from None


def _command(parsed: argparse.Namespace) -> str:
    return shlex.join(["mlpbench", "compare", parsed.base, parsed.new])


def _show(parsed: argparse.Namespace, judgement: Judgement, title: str, commands: tuple[str, ...]) -> int:
    """Print the verdicts, write them where asked, and give the exit code."""
    from mlpbench import display, report, verdicts

    made = verdicts.sections(judgement, commands)
    console = display.console()
    for section in made:
        if section.frame is not None:
            display.show(console, section.title, display.table(section.frame))
    sentence = verdicts.sentence(judgement)
    try:
        if parsed.json:
            parsed.json.write_text(json.dumps(_as_json(judgement, sentence), indent=2) + "\n", encoding="utf-8")
        if parsed.csv:
            names = [f.name for f in dataclasses.fields(judgement.comparisons[0])] if judgement.comparisons else []
            with parsed.csv.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(dataclasses.asdict(c) for c in judgement.comparisons)
        report.write_page(title, sentence, made, html=parsed.html, markdown=parsed.markdown)
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from None
    code = judgement.exit_code(parsed.fail_on, allow_missing=parsed.allow_missing)
    console.print(f"{sentence}: exit code {code}")
    return code


def _as_json(judgement: Judgement, sentence: str) -> dict[str, Any]:
    """Everything; what has no number in JSON (an open interval) is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    content: dict[str, Any] = plain(dataclasses.asdict(judgement))
    return {"schema": 1, "summary": sentence, **content}


# --- baseline and check -----------------------------------------------------------------------------------------------


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
        of_path = samples(load([path]))
        session = baseline.newest_session(load([path]))
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
