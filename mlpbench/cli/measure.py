"""Verbs that measure, train and show: env, train, study, time, report, export."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from mlpbench.cli.options import (
    RESULTS,
    Sink,
    Verbs,
    add_workload,
    as_options,
    as_results,
    fraction,
    make_folder,
    positive,
    seeds,
    settings_of,
)
from mlpbench.records import (
    DEFAULT_TARGET,
    Block,
    InputError,
    Measurement,
    Record,
    RunConfig,
    choose,
    override,
)
from mlpbench.store import load, newest_file


def add_verbs(verbs: Verbs) -> None:
    """Name the verbs and their arguments."""
    env = verbs.add_parser("env", help="print machine and stack as JSON")
    env.add_argument("--peaks", action="store_true", help="also measure its peaks: products and copies (seconds)")
    env.set_defaults(run=_env)

    train = verbs.add_parser("train", help="train once; record the result and draw its loss and accuracy")
    add_workload(train)
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
    study.add_argument("--seeds", type=seeds, metavar="A-B", help="for example 0-4 or 0,3,7")
    study.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at once: on the CPU each a process with one thread (default: one a CPU), on a GPU the seeds of a "
        "config as one (default: all). 1: one after the other, with times that can be compared with those of train",
    )
    study.add_argument(
        "--target", type=fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )
    add_workload(study)
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
    time.add_argument("--rounds", type=positive, help="timed blocks of each (default: the preset's)")
    time.add_argument("--clock", default="throughput", help="throughput, latency (waits after every call) or device")
    time.add_argument("--preset", default="default", help="quick, default or rigorous")
    add_workload(time)
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
        "--target", type=fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )
    report.set_defaults(run=_report)

    export = verbs.add_parser("export", help="write results in another tool's format")
    export.add_argument("format", choices=["pytest-benchmark", "github-action-benchmark"])
    export.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="as for report")
    export.add_argument("--output", type=Path, metavar="FILE", help="else to standard output")
    export.set_defaults(run=_export)


def _env(parsed: argparse.Namespace) -> int:
    from mlpbench import environment, peaks

    current = environment.current()
    content = dataclasses.asdict(current) | {"variables": dict(current.variables), "machine": current.machine}
    if parsed.peaks:
        found = peaks.measure("-", environment.resolve_device("cpu"))
        if current.gpu_model:
            found += peaks.measure("-", environment.resolve_device("cuda"))
        content["peaks"] = [{k: v for k, v in dataclasses.asdict(peak).items() if k != "session"} for peak in found]
    print(json.dumps(content, indent=2))
    return 0


def _train(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, study
    from mlpbench.progress import TrainingProgress

    settings = settings_of(parsed)
    config = override(RunConfig(), settings)
    study.check([config])
    make_folder(parsed.plots)
    console = display.console()
    sink = Sink(parsed.results, ["mlpbench", "train", *as_options(settings)])
    with TrainingProgress([config], console) as progress:
        results = study.run([config], sink.session.id, sink, progress)
    try:
        report.show_training(as_results(sink.session, results), console, parsed.plots)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or parsed.plots}: {error.strerror}") from None
    console.print(f"results: {sink.path}; plots: {parsed.plots}")
    return 0


def _study(parsed: argparse.Namespace) -> int:
    from mlpbench import display, report, study
    from mlpbench.progress import TrainingProgress

    preset = choose(study.STUDIES, parsed.preset, "preset")
    settings = settings_of(parsed)
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
    jobs = parsed.jobs or study.default_jobs(configs)
    command += ["--jobs", str(jobs)]
    sink = Sink(parsed.results, [*command, *as_options(settings)], parsed.preset)
    lost = None
    with TrainingProgress(configs, console) as progress:
        try:
            results = study.run(configs, sink.session.id, sink, progress, jobs)
        except study.LostError as error:
            results, lost = error.results, error
    if results:
        report.show_study(as_results(sink.session, results), console, parsed.target)
        console.print(f"results: {sink.path}")
    if lost:
        raise lost
    return 0


def _time(parsed: argparse.Namespace) -> int:
    from mlpbench import display, environment, report, timing
    from mlpbench.trainer import OPERATIONS, Trainer

    preset = choose(timing.PRESETS, parsed.preset, "preset")
    choose(dict.fromkeys(OPERATIONS), parsed.operation, "operation")
    settings = settings_of(parsed)
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
    command += ["--clock", parsed.clock] if parsed.clock != "throughput" else []
    for vary in parsed.vary:
        command += ["--vary", *vary]
    sink = Sink(parsed.results, [*command, *as_options(settings)], parsed.preset)
    records: list[Record] = []

    def emit(record: Measurement | Block) -> None:
        sink(record)
        records.append(record)

    for trainer in trainers:
        timing.check_clock(parsed.clock, parsed.operation, trainer.config.device)
    timing.measure(
        parsed.operation,
        trainers,
        session=sink.session,
        suite="time",
        rounds=rounds,
        warm_up_s=preset.warm_up_s,
        emit=emit,
        measured_by=parsed.clock,
        watch=timing.Watch(environment.resolve_device(base.device)),
    )
    console = display.console()
    report.show_timings(as_results(sink.session, records), console)
    console.print(f"results: {sink.path}")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from mlpbench import certificate, display, history, report, reproducibility, sections, speeds, table, verdicts

    results = load(parsed.paths or [newest_file(RESULTS)])
    for problem in results.problems:
        print(f"mlpbench: {problem}", file=sys.stderr)
    console = display.console()
    make_folder(parsed.output)
    *made, protocol = sections.sections(results, parsed.target)
    beside = [path if path.is_dir() else path.parent for path in parsed.paths]
    certificates, damaged = certificate.find(beside or [RESULTS])
    for problem in damaged:
        print(f"mlpbench: {problem}", file=sys.stderr)
    compared = reproducibility.read(certificates.values())
    bits = reproducibility.sections(compared)
    raced = speeds.speeds(table.blocks(results))
    made = [
        *verdicts.of_plans(results),
        *speeds.sections(results, raced),
        *made,
        *bits,
        *history.section(results),
        protocol,
    ]
    report.show(results, made, console)
    try:
        more = [*speeds.facts(raced), *reproducibility.facts(compared)]
        written = report.write(results, made, parsed.output, parsed.target, more)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or parsed.output}: {error.strerror}") from None
    console.print(f"report: {written}")
    return 2 if results.problems or damaged else 0


def _export(parsed: argparse.Namespace) -> int:
    from mlpbench import exchange

    results = load(parsed.paths or [newest_file(RESULTS)])
    formats = {
        "pytest-benchmark": exchange.to_pytest_benchmark,
        "github-action-benchmark": exchange.to_github_action_benchmark,
    }
    text = json.dumps(formats[parsed.format](results), indent=2, allow_nan=False) + "\n"
    if parsed.output is None:
        sys.stdout.write(text)
        return 0
    try:
        parsed.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {parsed.output}: {error.strerror}") from None
    return 0
