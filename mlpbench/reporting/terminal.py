"""Print results on the terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mlpbench.errors import printable
from mlpbench.records import files
from mlpbench.records.results import Results
from mlpbench.reporting import curves, formatting, frames
from mlpbench.reporting.build import Report
from mlpbench.reporting.figures import canvas, training
from mlpbench.reporting.section import Section, file_name

PIPE_WIDTH = 240
"""The width of the output in a pipe, in characters: enough for any table."""
MAX_PARTS = 3
"""The parts in which a wide table is still readable."""
MAX_WORD = 28
"""The longest word that is never broken, in characters. Longer words are paths and digests."""
_FIXED_SPACE = "\N{NO-BREAK SPACE}"


class PlainConsole(Console):
    """Print to standard output; a text is data, so that no bracket, colon or control character of it has a meaning."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, width=width)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts as they are, with escapes for control characters, and other objects as rich renders them."""
        super().print(*(_plain(item) if isinstance(item, str) else item for item in objects), **options)


def _plain(text: str) -> Text:
    return Text("\n".join(map(printable, text.split("\n"))))


def console() -> Console:
    """Return standard output, as wide as the terminal, or PIPE_WIDTH in a pipe."""
    terminal = PlainConsole()
    return terminal if terminal.is_terminal else PlainConsole(width=PIPE_WIDTH)


def show_table(console: Console, title: str, table: formatting.TextTable) -> None:
    """Print a table; wide cells wrap.

    If the columns do not fit beside each other, the table is printed in parts, each with the first columns again. If
    that takes more than MAX_PARTS, each row is printed as a paragraph.
    """
    parts = list(_parts(table, console.width))
    if len(parts) > MAX_PARTS or any(_total(_widths(table, part, console.width)) > console.width for part in parts):
        _show_paragraphs(console, title, table)
        return
    for number, indices in enumerate(parts):
        console.print(f"{title}, more columns" if number else title, style="bold")
        part = RichTable(box=None, pad_edge=False)
        for index, width in zip(indices, _widths(table, indices, console.width), strict=True):
            part.add_column(
                Text(table.headings[index]),
                justify="right" if table.is_number[index] else "left",
                width=width,
                overflow="fold",
            )
        for row in table.rows:
            part.add_row(*(_plain(row[index].text) for index in indices))
        console.print(part, soft_wrap=False)
        console.print()


def _show_paragraphs(console: Console, title: str, table: formatting.TextTable) -> None:
    """Print each row as a paragraph of `heading: value`, in which no pair is broken that fits on a line."""
    has_heading = [
        is_number or any(isinstance(row[index].value, bool) for row in table.rows)
        for index, is_number in enumerate(table.is_number)
    ]
    num_texts = (*has_heading, True).index(True)
    for line in textwrap.wrap(printable(title), console.width):
        console.print(line, style="bold")
    for row in table.rows:
        # The first texts say what the row is about, so they need no heading.
        head = ", ".join(cell.text for cell in row[:num_texts] if cell.text)
        # A space inside a number is not for breaking.
        texts = [c.text.replace(" ", _FIXED_SPACE) if n else c.text for c, n in zip(row, table.is_number, strict=True)]
        pairs = [f"{name}: {text}" for name, text in zip(table.headings, texts, strict=True)][num_texts:]
        lines = _lines([head] if head else [], console.width) + [
            f"  {line}" for line in _lines([f"{pair};" for pair in pairs[:-1]] + pairs[-1:], console.width - 2)
        ]
        console.print("\n".join(lines))
    console.print()


def _lines(items: Sequence[str], width: int) -> list[str]:
    """Return the items one after the other on lines of this width; only an item that is longer is broken, at spaces."""
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + 1 + len(item) <= width:
            lines[-1] += f" {item}"
        else:
            lines += textwrap.wrap(item, max(width, 1), break_on_hyphens=False)
    return [line.replace(_FIXED_SPACE, " ") for line in lines[1:]]


def _parts(table: formatting.TextTable, width: int) -> Iterator[list[int]]:
    """Yield the columns of each part, by index. Every part has the text columns that stand before the first number."""
    num_texts = (*table.is_number, True).index(True)
    keys: list[int] = []
    for index in range(num_texts or 1):
        if not keys or _total(_least(table, i) for i in (*keys, index)) <= width // 2:
            keys.append(index)
    part = list(keys)
    for index in range(len(table.columns)):
        if index in keys:
            continue
        if len(part) > len(keys) and _total(_least(table, i) for i in (*part, index)) > width:
            yield part
            part = list(keys)
        part.append(index)
    yield part


def _widths(table: formatting.TextTable, indices: Sequence[int], width: int) -> list[int]:
    """Return the width of each column: the room that is left goes to the columns that need it, from the left."""
    widths = [_least(table, index) for index in indices]
    room = width - _total(widths)
    for place, index in enumerate(indices):
        lines = (line for text in _texts(table, index) for line in text.splitlines())
        more = max(0, min(room, max(map(len, lines), default=0) - widths[place]))
        widths[place] += more
        room -= more
    return widths


def _least(table: formatting.TextTable, index: int) -> int:
    """Return the least width at which a column can be read: no number is broken, and no word but a very long one."""
    texts = _texts(table, index)
    pieces = texts[1:] if table.is_number[index] else []
    words = [word for text in texts for word in text.split()]
    return max([1, *map(len, pieces), *(min(len(word), MAX_WORD) for word in words)])


def _texts(table: formatting.TextTable, index: int) -> list[str]:
    return [table.headings[index], *(row[index].text for row in table.rows)]


def _total(widths: Iterable[int]) -> int:
    """Return the width of columns beside each other, with two spaces between them."""
    return sum(width + 2 for width in widths) - 2


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
        files.write(directory / f"{quantity}.png", canvas.png(training.training(epochs, quantity)))


def show_study(results: Results, console: Console, target: float, directory: Path) -> list[Path]:
    """Print the accuracies of a study and its times to the target accuracy, and draw its curves into a folder.

    Returns:
        The files of the figures: loss, accuracy and time to the target of each data set.
    """
    epochs = curves.epochs(results)
    show_frame(console, "Test accuracy", curves.accuracies(epochs))
    targets = curves.targets(epochs, target)
    show_frame(console, f"Time to {target:.0%} test accuracy", curves.time_to_accuracy(targets))
    paths = []
    for dataset, part in epochs.groupby("dataset", sort=False):
        pictures = {
            "loss": training.label_curves(part, "loss"),
            "accuracy": training.label_curves(part, "accuracy"),
            "time-to-accuracy": training.time_to_accuracy(targets[targets["dataset"] == dataset], target),
        }
        for name, figure in pictures.items():
            paths.append(directory / f"study-{name}-{file_name(str(dataset))}.png")
            files.write(paths[-1], canvas.png(figure))
    return paths


def show_timings(results: Results, console: Console) -> None:
    """Print the times of interleaved settings, and the change of each against the first."""
    blocks = frames.blocks(results)
    timings = frames.timings(blocks)
    timings.insert(0, "workload", frames.labels(timings["config"].tolist()))
    show_frame(console, "Timings", timings.drop(columns=["suite", "config"]))
    ratios = frames.ratios(blocks)
    if not ratios.empty:
        show_frame(console, "Change of the time against the first setting", ratios)
