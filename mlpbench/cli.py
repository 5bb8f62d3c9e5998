"""The verbs of `mlpbench`: each parses its arguments, calls one public function, and prints.

Exit codes: 0 done; 2 bad input (one line on standard error says what, where and what to do); 130 interrupted.
"""

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import mlpbench
from mlpbench.records import (
    DEFAULT_TARGET,
    Block,
    InputError,
    Measurement,
    Record,
    RunConfig,
    Session,
    choose,
    override,
)
from mlpbench.store import Results, append, load, newest_file, results_file

RESULTS = Path("results")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    if getattr(parsed, "data", None):
        os.environ["MLPBENCH_DATA"] = parsed.data  # the environment, so that processes we start see it too
    try:
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except InputError as error:
        print(f"mlpbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlpbench: interrupted; what was finished is in the results file", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlpbench", description=mlpbench.__doc__.splitlines()[0] if mlpbench.__doc__ else None)
    parser.add_argument("--version", action="version", version=f"mlpbench {mlpbench.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    env = verbs.add_parser("env", help="print machine and stack as JSON")
    env.set_defaults(run=_env)

    train = verbs.add_parser("train", help="train once; record the result and draw its loss and accuracy")
    _add_workload(train)
    train.add_argument("--epochs", type=int, metavar="N", help="the same as --set num_epochs=N")
    train.add_argument(
        "--plots",
        type=Path,
        default=RESULTS / "report",
        metavar="DIR",
        help="where loss.png and accuracy.png go",
    )
    train.set_defaults(run=_train)

    study = verbs.add_parser("study", help="train activations x optimizers x seeds")
    study.add_argument("--preset", default="quick", help="quick, default or tutorial (MNIST, 133 epochs)")
    study.add_argument(
        "--activations", nargs="+", metavar="NAMES", help="one name, or one per hidden layer: relu,tanh,elu"
    )
    study.add_argument("--optimizers", nargs="+", metavar="NAME")
    study.add_argument("--seeds", type=_seeds, metavar="A-B", help="for example 0-4 or 0,3,7")
    study.add_argument(
        "--target", type=_fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )
    _add_workload(study)
    study.set_defaults(run=_study)

    time = verbs.add_parser("time", help="time one operation here, settings in turns")
    time.add_argument(
        "operation", help="forward, backward, forward_backward, optimizer_step, train_step, evaluate, epoch"
    )
    time.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="settings to compare, the baseline first; if repeated, the n-th settings of each go together",
    )
    time.add_argument("--rounds", type=_positive, help="timed blocks of each (default: the preset's)")
    time.add_argument("--preset", default="default", help="quick, default or rigorous")
    _add_workload(time)
    time.set_defaults(run=_time)

    report = verbs.add_parser("report", help="make tables, figures, report.md and report.html of results")
    report.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="results files or folders (default: the file in results/ that was written last)",
    )
    report.add_argument("--output", type=Path, default=RESULTS / "report", metavar="DIR")
    report.add_argument(
        "--target", type=_fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )
    report.set_defaults(run=_report)
    return parser


def _add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the workload")
    parser.add_argument("--dataset", help="digits, mnist, fashion_mnist or kmnist")
    parser.add_argument("--device", help="cpu, cuda or auto")
    parser.add_argument("--data", metavar="DIR", help="where data sets are kept (else $MLPBENCH_DATA)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where results are appended")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"an accuracy above 0 and at most 1, not {text!r}")
    return value


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise argparse.ArgumentTypeError(f"seeds such as 0-4 or 0,3,7, not {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"at least one seed; {text!r} has none")
    return tuple(dict.fromkeys(seeds))


def _settings(parsed: argparse.Namespace) -> list[str]:
    named = [f"{name}={getattr(parsed, name)}" for name in ("dataset", "device") if getattr(parsed, name)]
    if getattr(parsed, "epochs", None) is not None:
        named.append(f"num_epochs={parsed.epochs}")
    return [*named, *parsed.set]


class _Sink:
    """Appends a session and its records to the results file of this machine and day."""

    def __init__(self, root: Path, command: Sequence[str], preset: str = "-") -> None:
        from mlpbench import environment

        self.session: Session = environment.start_session(shlex.join(command), preset)
        self.path = results_file(root, self.session.environment, datetime.now(UTC).date())
        self(self.session)

    def __call__(self, record: Record) -> None:
        try:
            append(self.path, record)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; choose another --results") from None


def _env(_: argparse.Namespace) -> int:
    from mlpbench import environment

    current = environment.current()
    content = dataclasses.asdict(current) | {"variables": dict(current.variables), "machine": current.machine}
    print(json.dumps(content, indent=2))
    return 0


def _train(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, study
    from mlpbench.progress import TrainingProgress

    settings = _settings(parsed)
    config = override(RunConfig(), settings)
    study.check([config])
    _make_folder(parsed.plots)
    console = display.console()
    sink = _Sink(parsed.results, ["mlpbench", "train", *_as_options(settings)])
    with TrainingProgress([config], console) as progress:
        results = study.run([config], sink.session.id, sink, progress)
    try:
        report.show_training(_results(sink.session, results), console, parsed.plots)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or parsed.plots}: {error.strerror}") from None
    console.print(f"results: {sink.path}; plots: {parsed.plots}")
    return 0


def _study(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, study
    from mlpbench.progress import TrainingProgress

    preset = choose(study.STUDIES, parsed.preset, "preset")
    settings = _settings(parsed)
    axes = {"activations": "--activations", "optimizer": "--optimizers", "seed": "--seeds"}
    for setting in settings:
        if setting.split("=")[0] in axes:
            raise InputError(f"a study varies this field: use {axes[setting.split('=')[0]]} instead of --set {setting}")
    plan = study.Study(
        base=override(preset.base, settings),
        activations=tuple(tuple(a.split(",")) for a in parsed.activations or ()) or preset.activations,
        optimizers=tuple(parsed.optimizers or preset.optimizers),
        seeds=parsed.seeds or preset.seeds,
        has_usual_lr=not any(setting.startswith("lr=") for setting in settings),
    )
    configs = plan.configs()
    study.check(configs)
    console = display.console()
    command = ["mlpbench", "study", "--preset", parsed.preset]
    for name in ("activations", "optimizers"):
        command += [f"--{name}", *getattr(parsed, name)] if getattr(parsed, name) else []
    command += ["--seeds", ",".join(map(str, parsed.seeds))] if parsed.seeds else []
    sink = _Sink(parsed.results, [*command, *_as_options(settings)], parsed.preset)
    with TrainingProgress(configs, console) as progress:
        results = study.run(configs, sink.session.id, sink, progress)
    report.show_study(_results(sink.session, results), console, parsed.target)
    console.print(f"results: {sink.path}")
    return 0


def _time(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, timing
    from mlpbench.trainer import OPERATIONS, Trainer

    preset = choose(timing.PRESETS, parsed.preset, "preset")
    choose(dict.fromkeys(OPERATIONS), parsed.operation, "operation")
    settings = _settings(parsed)
    base = override(RunConfig(), settings)
    if any(len(vary) < 2 for vary in parsed.vary):
        raise InputError("--vary takes at least two settings: --vary optimizer=sgd optimizer=adam")
    if len({len(vary) for vary in parsed.vary}) > 1:
        raise InputError("every --vary needs the same number of settings: the n-th of each go together")
    configs = [override(base, together) for together in zip(*parsed.vary, strict=True)] or [base]
    trainers = [Trainer(config) for config in configs]
    is_long = parsed.operation in timing.LONG_OPERATIONS
    rounds = parsed.rounds or (preset.epoch_rounds if is_long else preset.rounds)
    command = ["mlpbench", "time", parsed.operation, "--preset", parsed.preset, "--rounds", str(rounds)]
    for vary in parsed.vary:
        command += ["--vary", *vary]
    sink = _Sink(parsed.results, [*command, *_as_options(settings)], parsed.preset)
    records: list[Record] = []

    def emit(record: Measurement | Block) -> None:
        sink(record)
        records.append(record)

    timing.measure(
        parsed.operation,
        trainers,
        session=sink.session,
        suite="time",
        rounds=rounds,
        warm_up_s=preset.warm_up_s,
        emit=emit,
    )
    console = display.console()
    report.show_timings(_results(sink.session, records), console)
    console.print(f"results: {sink.path}")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, sections

    results = load(parsed.paths or [newest_file(RESULTS)])
    for problem in results.problems:
        print(f"mlpbench: {problem}", file=sys.stderr)
    console = display.console()
    _make_folder(parsed.output)
    made = sections.sections(results, parsed.target)
    report.show(results, made, console)
    try:
        written = report.write(results, made, parsed.output, parsed.target)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or parsed.output}: {error.strerror}") from None
    console.print(f"report: {written}")
    return 2 if results.problems else 0


def _make_folder(path: Path) -> None:
    """Find out before the work whether its output has a place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another folder") from None


def _as_options(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _results(session: Session, records: Iterable[Record]) -> Results:
    """A session's records, as if loaded from its file."""
    results = Results()
    for record in (session, *records):
        results.add(record)
    return results
