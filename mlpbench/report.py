"""The report: tables to the terminal, and report.md, report.html, figures and CSV files into a folder.

`report.html` is one file: it needs no network and no other file.
"""

import html
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

import mlpbench
from mlpbench import curves, display, plot, table
from mlpbench.records import DEFAULT_TARGET
from mlpbench.sections import Fact, Section, facts, summary
from mlpbench.store import Results


def write(results: Results, made: Sequence[Section], directory: Path, target: float, more: Sequence[Fact] = ()) -> Path:
    """Write the report into an existing folder; returns the path of report.html. At its head, facts and `more`.

    What UTF-8 cannot hold (a skip's reason may name a path that is not) is written with backslashes.

    If `$GITHUB_STEP_SUMMARY` names a file, the Markdown (its figures left out) is appended to it.
    """
    for section in made:
        if section.frame is not None:
            section.frame.to_csv(directory / f"{section.name}.csv", index=False, errors="backslashreplace")
        if section.figure is not None:
            _save(section.figure, directory / f"{section.name}.png")
    again = "mlpbench report" if target == DEFAULT_TARGET else f"mlpbench report --target {target:g}"
    content = _content("mlpbench report", summary(results), [*facts(results), *more], made, again)
    for name, text in {"report.html": _page(content), "report.md": _markdown(content, has_figures=True)}.items():
        (directory / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    _to_step_summary(content)
    return directory / "report.html"


def write_page(title: str, line: str, made: Sequence[Section], *, html: Path | None, markdown: Path | None) -> None:
    """A page of sections alone, as HTML and as Markdown; also appended to `$GITHUB_STEP_SUMMARY`, as `write` does."""
    content = _content(title, line, [], made, None)
    if html:
        html.write_text(_page(content), encoding="utf-8", errors="backslashreplace")
    if markdown:
        markdown.write_text(_markdown(content, has_figures=False), encoding="utf-8", errors="backslashreplace")
    _to_step_summary(content)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mlpbench"), autoescape=jinja2.select_autoescape(["html.jinja"])
)


def _content(
    title: str, line: str, known: Sequence[Fact], made: Sequence[Section], again: str | None
) -> dict[str, object]:
    return {
        "title": title,
        "summary": line,
        "facts": known,
        "sections": [_rendered(section) for section in made],
        "version": mlpbench.__version__,
        "again": again,
    }


def _page(content: dict[str, object]) -> str:
    return _TEMPLATES.get_template("report.html.jinja").render(content)


def _markdown(content: dict[str, object], *, has_figures: bool) -> str:
    return _TEMPLATES.get_template("report.md.jinja").render(content, has_figures=has_figures)


def _to_step_summary(content: dict[str, object]) -> None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_markdown(content, has_figures=False))


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=160, facecolor="white")


def _rendered(section: Section) -> dict[str, object]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "alt": section.alt,
        "commands": section.commands,
        "table": None if section.frame is None else display.table(section.frame),
        "svg": None if section.figure is None else _svg(section.figure, section.name, section.alt),
    }


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element that takes the page's colours and speaks its text alternative."""
    buffer = io.StringIO()
    # the salt keeps the ids of the page's figures apart, and the same from run to run
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names that repeat from figure to figure, and nothing refers to
    svg = svg[svg.index("<svg") :].replace(plot.INK, "var(--ink)").replace(plot.LINE, "var(--line)")
    head, rest = svg.split(">", 1)
    view_box = head.split('viewBox="')[1].split('"')[0]
    attributes = f'viewBox="{view_box}" role="img" aria-label="{html.escape(alt)}"'
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{rest}'


# --- the terminal -----------------------------------------------------------------------------------------------------


def show(results: Results, made: Sequence[Section], console: Console) -> None:
    """Print every table."""
    console.print(summary(results))
    console.print()
    for section in made:
        if section.frame is not None:
            display.show(console, section.title, display.table(section.frame))


def show_training(results: Results, console: Console, directory: Path) -> None:
    """Print a run's epochs (the first and last of many), and draw loss and accuracy into an existing folder."""
    epochs = curves.epochs(results)
    columns = ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_s"]
    shown = epochs[columns].assign(epoch=epochs["epoch"] + 1)
    few = shown if len(shown) <= 12 else pd.concat([shown.head(4), shown.tail(4)])
    display.show(console, "Training", display.table(few))
    for quantity in ("loss", "accuracy"):
        _save(plot.training(epochs, quantity), directory / f"{quantity}.png")


def show_study(results: Results, console: Console, target: float) -> None:
    """Print a study's accuracies and times to the target accuracy."""
    epochs = curves.epochs(results)
    display.show(console, "Test accuracy", display.table(curves.accuracies(epochs)))
    arrival = curves.time_to_accuracy(curves.targets(epochs, target))
    display.show(console, f"Time to {target:.0%} test accuracy", display.table(arrival))


def show_timings(results: Results, console: Console) -> None:
    """Print the timings of settings that ran in turns, and their ratios to the first."""
    blocks = table.blocks(results)
    timings = table.timings(blocks)
    timings.insert(0, "workload", table.labels(timings["config"].tolist()))
    display.show(console, "Timings", display.table(timings.drop(columns=["suite", "config"])))
    ratios = table.ratios(blocks)
    if not ratios.empty:
        display.show(console, "Ratios", display.table(ratios))
