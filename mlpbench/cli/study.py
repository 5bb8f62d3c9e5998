"""Train a grid of activations, optimizers and seeds."""

import argparse
from pathlib import Path

from mlpbench.cli.options import MOST_JOBS, add_workload, fraction, seeds, settings_of, up_to
from mlpbench.cli.training import TrainingFile, add_resume
from mlpbench.config import DEFAULT_TARGET, override
from mlpbench.errors import InputError, choose

_AXES = {"activations": "--activations", "optimizer": "--optimizers", "seed": "--seeds"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--preset", default="quick", help="quick, default or tutorial (MNIST, 133 epochs)")
    parser.add_argument(
        "--activations", nargs="+", metavar="NAMES", help="one name, or one per hidden layer: relu,tanh,elu"
    )
    parser.add_argument("--optimizers", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=seeds, metavar="A-B", help="for example 0-4 or 0,3,7")
    parser.add_argument(
        "--jobs",
        type=up_to(MOST_JOBS),
        metavar="N",
        help="runs at once: on the CPU each a process with one thread (default: one per CPU), on a GPU the seeds of a "
        "config as one model (default: all). 1: one after the other, so that times compare with those of train",
    )
    parser.add_argument(
        "--target", type=fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="folder for the figures of loss, accuracy and time (default: report/ among the results)",
    )
    add_workload(parser)
    add_resume(parser)


def run(parsed: argparse.Namespace) -> None:
    """Train the grid, record every run, and print accuracies and times to the target."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import make_folder
    from mlpbench.reporting import terminal
    from mlpbench.training import study
    from mlpbench.training.progress import TrainingProgress

    preset = choose(study.STUDIES, parsed.preset, "preset")
    settings = settings_of(parsed)
    for setting in settings:
        field = setting.split("=")[0]
        if field in _AXES:
            raise InputError(f"a study varies this field: use {_AXES[field]} instead of --set {setting}")
    grid = study.Study(
        base=override(preset.base, settings, [f"activations={names}" for names in parsed.activations or ()][:1]),
        activations=tuple(tuple(a.split(",")) for a in parsed.activations or ()) or preset.activations,
        optimizers=tuple(parsed.optimizers or preset.optimizers),
        seeds=parsed.seeds or preset.seeds,
        has_usual_lr=not any(setting.startswith("lr=") for setting in settings),
    )
    configs = grid.configs()
    study.check(configs)
    plots = parsed.plots or parsed.results / "report"
    make_folder(plots)
    console = terminal.console()
    jobs = parsed.jobs or study.default_jobs(configs)
    # A study that goes on has fewer runs at once at its end, which must not change their thread count.
    configs = study.side_by_side(configs, jobs)
    file = TrainingFile.start(parsed, command_of(parsed, jobs=jobs), configs, parsed.preset)
    lost = None
    with file.interruptible(), TrainingProgress(file.configs, console) as progress:
        try:
            results = study.run(file.configs, file.session.id, file, progress, jobs=jobs, start_of=file.start_of)
        except study.FailedRunsError as error:
            results, lost = error.results, error
    records = file.results(results)
    if records.train_results:
        terminal.show_study(records, console, parsed.target, plots)
        console.print(f"results: {file.path}; plots: {plots}")
    if lost:
        raise lost
