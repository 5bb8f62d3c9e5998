"""The report: tables to the terminal, and report.md, report.html, figures and CSV files into a folder.

`report.html` is one file: it needs no network and no other file.
"""

import io
import os
from pathlib import Path

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

import mlpbench
from mlpbench import display, plot, table
from mlpbench.sections import Section, facts, sections, summary
from mlpbench.store import Results

TITLE = "mlpbench report"


def write(results: Results, directory: Path, target: float) -> Path:
    """Write the report into a folder; returns the path of report.html.

    If `$GITHUB_STEP_SUMMARY` names a file, the Markdown (its figures left out) is appended to it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = sections(results, target)
    for section in made:
        if section.frame is not None:
            section.frame.to_csv(directory / f"{section.name}.csv", index=False)
        if section.figure is not None:
            section.figure.savefig(directory / f"{section.name}.png", dpi=160, facecolor="white")
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mlpbench"), autoescape=jinja2.select_autoescape(["html.jinja"]), trim_blocks=False
    )  # fmt: skip
    page = templates.get_template("report.html.jinja")
    text = templates.get_template("report.md.jinja")
    content = {
        "title": TITLE,
        "summary": summary(results),
        "facts": facts(results),
        "version": mlpbench.__version__,
    }
    html = page.render(**content, sections=[_rendered(section) for section in made])
    (directory / "report.html").write_text(html, encoding="utf-8")
    (directory / "report.md").write_text(
        text.render(**content, sections=[_rendered(section) for section in made]), encoding="utf-8"
    )
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if step_summary:
        without_figures = [_rendered(section) | {"figure_name": None} for section in made]
        with Path(step_summary).open("a", encoding="utf-8") as file:
            file.write(text.render(**content, sections=without_figures))
    return directory / "report.html"


def _rendered(section: Section) -> dict[str, object]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "alt": section.alt,
        "commands": section.commands,
        "table": None if section.frame is None else display.table(section.frame),
        "svg": None if section.figure is None else _svg(section.figure, section.name, section.alt),
        "figure_name": None if section.figure is None else f"{section.name}.png",
    }


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element that takes the page's colours and speaks its text alternative."""
    buffer = io.StringIO()
    # the salt keeps the ids of the page's figures apart, and the same from run to run
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(plot.INK, "var(--ink)").replace(plot.LINE, "var(--line)")
    head, rest = svg.split(">", 1)
    view_box = head.split('viewBox="')[1].split('"')[0]
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view_box}" role="img" aria-label="{label}">{rest}'
    )


# --- the terminal -----------------------------------------------------------------------------------------------------


def show(results: Results, console: Console, target: float) -> None:
    """Print every table."""
    console.print(summary(results))
    console.print()
    for section in sections(results, target):
        if section.frame is not None:
            display.show(console, section.title, display.table(section.frame))


def show_training(results: Results, console: Console, directory: Path) -> None:
    """Print a training run's epochs (the first and last of many), and draw its loss and accuracy into a folder."""
    epochs = table.epochs(results)
    columns = ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_s"]
    shown = epochs[columns].assign(epoch=epochs["epoch"] + 1)
    few = shown if len(shown) <= 12 else pd.concat([shown.head(4), shown.tail(4)])
    display.show(console, "Training", display.table(few))
    directory.mkdir(parents=True, exist_ok=True)
    for quantity in ("loss", "accuracy"):
        plot.training(epochs, quantity).savefig(directory / f"{quantity}.png", dpi=160, facecolor="white")


def show_study(results: Results, console: Console, target: float) -> None:
    """Print a study's accuracies and times to the target accuracy."""
    epochs = table.epochs(results)
    display.show(console, "Test accuracy", display.table(table.accuracies(epochs)))
    arrival = table.time_to_accuracy(table.targets(epochs, target))
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
