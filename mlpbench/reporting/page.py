"""Write the report as report.html and report.md, with figures and CSV files beside them.

`report.html` is one file: it needs no network and no other file.
"""

import io
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

import mlpbench
from mlpbench.config import DEFAULT_TARGET
from mlpbench.records import files
from mlpbench.reporting import figures, formatting
from mlpbench.reporting.build import Report
from mlpbench.reporting.section import Fact, Section

_SVG = "http://www.w3.org/2000/svg"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mlpbench.reporting"), autoescape=jinja2.select_autoescape(["html.jinja"])
)


def write(report: Report, directory: Path) -> Path:
    """Write a report into an existing folder, and return the path of report.html.

    Text that UTF-8 cannot hold is written with backslashes: a reason for a skip may name such a path.
    If `$GITHUB_STEP_SUMMARY` names a file, the Markdown is appended to it, without figures.

    Raises:
        InputError: if a file cannot be written.
    """
    for section in report.sections:
        if section.frame is not None:
            files.write(directory / f"{section.name}.csv", section.frame.to_csv(index=False))
        if section.figure is not None:
            files.write(directory / f"{section.name}.png", figures.png(section.figure))
    is_default = report.target == DEFAULT_TARGET
    report_command = "mlpbench report" if is_default else f"mlpbench report --target {report.target:g}"
    content = _content("mlpbench report", report.summary, report.facts, report.sections, report_command)
    files.write(directory / "report.html", _html(content))
    files.write(directory / "report.md", _markdown(content, has_figures=True))
    to_step_summary(_markdown(content, has_figures=False))
    return directory / "report.html"


def to_step_summary(text: str) -> None:
    """Append Markdown to the file that `$GITHUB_STEP_SUMMARY` names, if it names one.

    Raises:
        InputError: if the file cannot be written.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise files.problem(Path(path), error, "it is the file of $GITHUB_STEP_SUMMARY") from None


def html(title: str, summary: str, sections: Sequence[Section]) -> str:
    """Return a page of sections alone, as HTML."""
    return _html(_content(title, summary, (), sections, None))


def markdown(title: str, summary: str, sections: Sequence[Section]) -> str:
    """Return a page of sections alone, as Markdown without figures."""
    return _markdown(_content(title, summary, (), sections, None), has_figures=False)


def _content(
    title: str, summary: str, facts: Sequence[Fact], sections: Sequence[Section], report_command: str | None
) -> dict[str, object]:
    tables = [formatting.table(section.frame) for section in sections if section.frame is not None]
    return {
        "title": title,
        "summary": summary,
        "facts": facts,
        "sections": [_rendered(section) for section in sections],
        "glossary": formatting.glossary(tables),
        "version": mlpbench.__version__,
        "report_command": report_command,
    }


def _html(content: dict[str, object]) -> str:
    return _TEMPLATES.get_template("report.html.jinja").render(content)


def _markdown(content: dict[str, object], *, has_figures: bool) -> str:
    return _TEMPLATES.get_template("report.md.jinja").render(content, has_figures=has_figures)


def _rendered(section: Section) -> dict[str, object]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "alt": section.alt,
        "commands": section.commands,
        "table": None if section.frame is None else formatting.table(section.frame),
        "svg": None if section.figure is None else _svg(section.figure, section.name, section.alt),
    }


def _svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an SVG element in the colours of the page, with its text alternative."""
    buffer = io.StringIO()
    # The salt keeps the ids of the page's figures apart, and the same from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (matplotlib wrote it just now)
    for group in root.iter(f"{{{_SVG}}}g"):
        # These names repeat from figure to figure, and nothing refers to them.
        group.attrib.pop("id", None)
    # The page decides the size.
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    svg = ET.tostring(root, encoding="unicode")
    return svg.replace(figures.INK, "var(--ink)").replace(figures.LINE, "var(--line)")
