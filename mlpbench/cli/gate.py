"""Share what the verbs that judge have in common: options, margins, output and exit code."""

import argparse
import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlpbench.cli.exits import Answer
from mlpbench.cli.options import CommaList, margin
from mlpbench.errors import InputError
from mlpbench.judging.metrics import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlpbench.judging.judgement import Judgement, Margins
    from mlpbench.records.kinds import Plan
    from mlpbench.records.results import Results
    from mlpbench.reporting.section import Section

_FAIL_ON = tuple(verdict for verdict in Verdict if verdict is not Verdict.SAME)


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that judges."""
    parser.add_argument("--margin", type=margin, metavar="P", help="the smallest change that matters, for example 5%%")
    parser.add_argument(
        "--fail-on",
        type=_verdicts,
        default=CommaList(),
        metavar="VERDICTS",
        help=f"verdicts that fail in addition to slower and worse: a comma list of {', '.join(_FAIL_ON)}",
    )
    parser.add_argument(
        "--must-find",
        type=margin,
        metavar="P",
        help="fail with exit code 3 if a change of P, for example 10%%, could have been missed",
    )
    parser.add_argument("--allow-missing", action="store_true", help="do not fail if NEW lacks a benchmark")
    for name, content in {"json": "verdicts", "csv": "verdicts", "markdown": "a summary", "html": "a page"}.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {content} as {name}")


def _verdicts(text: str) -> CommaList[str]:
    names = CommaList(text.split(","))
    for name in names:
        if name not in map(str, _FAIL_ON):
            raise argparse.ArgumentTypeError(f"unknown verdict {name!r}; known: {', '.join(_FAIL_ON)}")
    return names


def margins_of(parsed: argparse.Namespace, noise_ratio: float) -> "Margins":
    """Combine the margins of the command line and of pyproject.toml with the noise of the machine."""
    from mlpbench.judging.judgement import Margins

    thresholds, must_find_ratio = _settings(Path("pyproject.toml"))
    return Margins(
        default_ratio=parsed.margin,
        thresholds=thresholds,
        noise_ratio=noise_ratio,
        must_find_ratio=parsed.must_find or must_find_ratio,
    )


def _settings(path: Path) -> tuple[dict[str, float], float | None]:
    """Read `[tool.mlpbench]`: the margins of `thresholds`, by glob, and the change of `must-find`."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    where = "tool.mlpbench"
    try:
        settings = content.get("tool", {}).get("mlpbench", {})
        must_find = settings.get("must-find")
        where = "tool.mlpbench.must-find"
        must_find_ratio = None if must_find is None else margin(str(must_find))
        where = "tool.mlpbench.thresholds"
        return {glob: margin(str(value)) for glob, value in settings.get("thresholds", {}).items()}, must_find_ratio
    except (argparse.ArgumentTypeError, AttributeError) as error:
        raise InputError(f"{path}, {where}: {error}") from None


def show_plan(parsed: argparse.Namespace, results: "Results", plan: "Plan", path: Path | None) -> Answer:
    """Judge the two sides of a plan, write and print the verdicts, and return the answer."""
    from mlpbench.judging.verdict import judge_plan
    from mlpbench.reporting import terminal
    from mlpbench.reporting.sections import verdicts

    margins = margins_of(parsed, 1.0)
    if margins.default_ratio is None:
        margins = dataclasses.replace(margins, default_ratio=plan.margin_ratio)
    judgement = judge_plan(results, plan, margins)
    answer = show(parsed, judgement, verdicts.title(plan), (plan.command,))
    ending = results.endings.get(plan.id)
    console = terminal.console()
    console.print(f"stopped: {ending.reason if ending else 'not finished'}")
    console.print(f"results: {path}")
    return answer


def show(parsed: argparse.Namespace, judgement: "Judgement", title: str, commands: tuple[str, ...]) -> Answer:
    """Write the verdicts where asked, print them, and return the answer.

    Files come first, because output may end at any time. If one cannot be written, the verdicts are printed all the
    same.

    Raises:
        InputError: if a file cannot be written.
    """
    from mlpbench.reporting import terminal
    from mlpbench.reporting.sections import verdicts

    sections = verdicts.sections_of(judgement, commands, is_drawn=parsed.html is not None)
    sentence = verdicts.sentence(judgement)
    failure = _write(parsed, judgement, title, sentence, sections)
    console = terminal.console()
    terminal.show_sections(sections, console)
    answer = Answer(judgement.exit_code(parsed.fail_on, allow_missing=parsed.allow_missing))
    console.print(f"{sentence}: exit code {answer}")
    if failure:
        raise failure
    return answer


def _write(
    parsed: argparse.Namespace, judgement: "Judgement", title: str, sentence: str, sections: "Sequence[Section]"
) -> InputError | None:
    """Write every file that was asked for, and return the first failure."""
    from mlpbench.records import files
    from mlpbench.reporting import page
    from mlpbench.reporting.escaping import csv_cell

    table = io.StringIO(newline="")
    names = [f.name for f in dataclasses.fields(judgement.comparisons[0])] if judgement.comparisons else []
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows({n: csv_cell(v) for n, v in dataclasses.asdict(c).items()} for c in judgement.comparisons)
    summary = page.markdown(title, sentence, sections)
    contents: list[tuple[Path | None, Callable[[], str]]] = [
        (parsed.json, lambda: json.dumps(_as_json(judgement, sentence), indent=2) + "\n"),
        (parsed.csv, table.getvalue),
        (parsed.html, lambda: page.html(title, sentence, sections)),
        (parsed.markdown, lambda: summary),
    ]
    failure = None
    for path, content in contents:
        try:
            if path is not None:
                files.write(path, content())
        except InputError as error:
            failure = failure or error
    try:
        page.to_step_summary(summary)
    except InputError as error:
        failure = failure or error
    return failure


def _as_json(judgement: "Judgement", sentence: str) -> dict[str, Any]:
    """Return the whole judgement; a number that JSON cannot hold (an open interval) is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    content: dict[str, Any] = plain(dataclasses.asdict(judgement))
    return {"schema": 1, "summary": sentence, **content}
