"""Print results on the terminal."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from mlpbench.records.results import Results
from mlpbench.reporting import curves, figures, formatting, frames
from mlpbench.reporting.build import Report
from mlpbench.reporting.section import Section

PIPE_WIDTH = 240
"""The width of the output in a pipe, in characters: enough for any table."""


def console() -> Console:
    """Return standard output, as wide as the terminal, or PIPE_WIDTH in a pipe."""
    terminal = Console(highlight=False, soft_wrap=True)
    return terminal if terminal.is_terminal else Console(highlight=False, soft_wrap=True, width=PIPE_WIDTH)


def show_table(console: Console, title: str, table: formatting.TextTable) -> None:
    """Print a table; wide cells wrap on a terminal."""
    printed = RichTable(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, is_number in zip(table.columns, table.is_number, strict=True):
        printed.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        printed.add_row(*(cell.text for cell in row))
    console.print(printed, soft_wrap=False)
    console.print()


def show_frame(console: Console, title: str, frame: pd.DataFrame) -> None:
    """Print a frame as a table."""
    show_table(console, title, formatting.table(frame))


def show_sections(sections: Iterable[Section], console: Console) -> None:
    """Print the table of each section that has one."""
    for section in sections:
        if section.frame is not None:
            show_frame(console, section.title, section.frame)


def show(report: Report, console: Console) -> None:
    """Print the summary of a report and all its tables."""
    console.print(report.summary)
    console.print()
    show_sections(report.sections, console)


def show_training(results: Results, console: Console, directory: Path) -> None:
    """Print the epochs of a run (the first and last of many), and draw loss and accuracy into an existing folder."""
    epochs = curves.epochs(results)
    columns = ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_s"]
    table = epochs[columns].assign(epoch=epochs["epoch"] + 1)
    ends = table if len(table) <= 12 else pd.concat([table.head(4), table.tail(4)])
    show_frame(console, "Training", ends)
    for quantity in ("loss", "accuracy"):
        figures.save(figures.training(epochs, quantity), directory / f"{quantity}.png")


def show_study(results: Results, console: Console, target: float) -> None:
    """Print the accuracies of a study and its times to the target accuracy."""
    epochs = curves.epochs(results)
    show_frame(console, "Test accuracy", curves.accuracies(epochs))
    arrivals = curves.time_to_accuracy(curves.targets(epochs, target))
    show_frame(console, f"Time to {target:.0%} test accuracy", arrivals)


def show_timings(results: Results, console: Console) -> None:
    """Print the times of interleaved settings, and their ratios to the first."""
    blocks = frames.blocks(results)
    timings = frames.timings(blocks)
    timings.insert(0, "workload", frames.labels(timings["config"].tolist()))
    show_frame(console, "Timings", timings.drop(columns=["suite", "config"]))
    ratios = frames.ratios(blocks)
    if not ratios.empty:
        show_frame(console, "Ratios", ratios)
