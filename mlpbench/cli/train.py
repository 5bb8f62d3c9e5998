"""Train once, record the result, and draw its loss and accuracy."""

import argparse
from pathlib import Path

from mlpbench.cli.options import add_workload, settings_of
from mlpbench.cli.training import TrainingFile, add_resume
from mlpbench.config import RunConfig, override


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_workload(parser)
    parser.add_argument("--epochs", type=int, metavar="N", help="the same as --set num_epochs=N")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="folder for loss.png and accuracy.png (default: report/ among the results)",
    )
    add_resume(parser)


def run(parsed: argparse.Namespace) -> None:
    """Train, record and draw."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import make_folder
    from mlpbench.reporting import terminal
    from mlpbench.training import study
    from mlpbench.training.progress import TrainingProgress

    config = override(RunConfig(), settings_of(parsed))
    study.check([config])
    plots = parsed.plots or parsed.results / "report"
    make_folder(plots)
    console = terminal.console()
    file = TrainingFile.start(parsed, command_of(parsed), [config])
    with file.interruptible(), TrainingProgress([config], console) as progress:
        results = study.run([config], file.session.id, file, progress, start_of=file.start_of)
    terminal.show_training(file.results(results), console, plots)
    console.print(f"results: {file.path}; plots: {plots}")
