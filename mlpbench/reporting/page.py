"""Write the report as report.html and report.md, with figures and CSV files beside them.

`report.html` is one file: it needs no network and no other file.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

import mlpbench
from mlpbench.config import DEFAULT_TARGET
from mlpbench.records import files
from mlpbench.reporting import escaping, formatting
from mlpbench.reporting.build import Report
from mlpbench.reporting.figures import canvas
from mlpbench.reporting.section import Fact, Section


def _printable(value: object) -> object:
    """Return a value of the HTML template without invisible characters; Jinja escapes its text."""
    return escaping.printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_LOADER = jinja2.PackageLoader("mlpbench.reporting")
# Each escapes every value that a template prints, unless the value is already in its language.
_HTML = jinja2.Environment(loader=_LOADER, autoescape=True, finalize=_printable)
_MARKDOWN = jinja2.Environment(loader=_LOADER, autoescape=False, finalize=escaping.markdown)  # noqa: S701 (no HTML)
_MARKDOWN.filters["code"] = escaping.code


def write(report: Report, directory: Path) -> Path:
    """Write a report into an existing folder, and return the path of report.html.

    Text that UTF-8 cannot hold is written with backslashes: a reason for a skip may name such a path.
    If `$GITHUB_STEP_SUMMARY` names a file, the Markdown is appended to it, without figures.

    Raises:
        InputError: if a file cannot be written.
    """
    for section in report.sections:
        if section.frame is not None:
            files.write(directory / f"{section.name}.csv", escaping.csv(section.frame))
        if section.figure is not None:
            files.write(directory / f"{section.name}.png", canvas.png(section.figure, section.title))
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
    return _HTML.get_template("report.html.jinja").render(content)


def _markdown(content: dict[str, object], *, has_figures: bool) -> str:
    return _MARKDOWN.get_template("report.md.jinja").render(content, has_figures=has_figures)


def _rendered(section: Section) -> dict[str, object]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "alt": section.alt,
        "commands": section.commands,
        "table": None if section.frame is None else formatting.table(section.frame),
        "svg": None if section.figure is None else canvas.svg(section.figure, section.name, section.alt),
    }
