"""Train once, record the result, and draw its loss and accuracy."""

import argparse
from pathlib import Path

from mlpbench.cli.options import RESULTS, add_workload, settings_of
from mlpbench.config import RunConfig, override
from mlpbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_workload(parser)
    parser.add_argument("--epochs", type=int, metavar="N", help="the same as --set num_epochs=N")
    parser.add_argument(
        "--plots",
        type=Path,
        default=RESULTS / "report",
        metavar="DIR",
        help="folder for loss.png and accuracy.png",
    )


def run(parsed: argparse.Namespace) -> int:
    """Train, record and draw."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import SessionFile, as_results, make_folder
    from mlpbench.reporting import terminal
    from mlpbench.training import study
    from mlpbench.training.progress import TrainingProgress

    config = override(RunConfig(), settings_of(parsed))
    study.check([config])
    make_folder(parsed.plots)
    console = terminal.console()
    file = SessionFile.start(parsed.results, command_of(parsed))
    with TrainingProgress([config], console) as progress:
        results = study.run([config], file.session.id, file, progress)
    try:
        terminal.show_training(as_results(file.session, results), console, parsed.plots)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or parsed.plots}: {error.strerror}") from None
    console.print(f"results: {file.path}; plots: {parsed.plots}")
    return 0
