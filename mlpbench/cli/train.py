"""Train once, record the result, and draw its loss and accuracy."""

import argparse
from pathlib import Path

from mlpbench.cli.options import add_workload, settings_of
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


def run(parsed: argparse.Namespace) -> None:
    """Train, record and draw."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import SessionFile, as_results, make_folder
    from mlpbench.reporting import terminal
    from mlpbench.training import study
    from mlpbench.training.progress import TrainingProgress

    config = override(RunConfig(), settings_of(parsed))
    study.check([config])
    plots = parsed.plots or parsed.results / "report"
    make_folder(plots)
    console = terminal.console()
    file = SessionFile.start(parsed.results, command_of(parsed))
    with TrainingProgress([config], console) as progress:
        results = study.run([config], file.session.id, file, progress)
    terminal.show_training(as_results(file.session, results), console, plots)
    console.print(f"results: {file.path}; plots: {plots}")
