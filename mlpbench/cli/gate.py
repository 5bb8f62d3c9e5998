"""The gate: options, margins and output of whatever judges; its exit code."""

import argparse
import csv
import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import Any

from mlpbench.compare import Judgement, Margins, judge_plan
from mlpbench.records import InputError, Plan
from mlpbench.store import Results

FAIL_ON = ("faster", "better", "inconclusive", "slower", "worse")


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Options of a verb that judges."""
    parser.add_argument("--margin", type=_percent, metavar="P", help="the change that matters, for example 5%%")
    parser.add_argument(
        "--fail-on",
        type=_verdicts,
        default=(),
        metavar="VERDICTS",
        help=f"verdicts that fail beside slower and worse: a comma list of {', '.join(FAIL_ON)}",
    )
    parser.add_argument("--allow-missing", action="store_true", help="a benchmark that NEW lacks is no failure")
    for name, what in {"json": "verdicts", "csv": "verdicts", "markdown": "a summary", "html": "a page"}.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what} as {name}")


def _percent(text: str) -> float:
    """A margin as a ratio: 5% and 0.05 are 1.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < (10 if text.endswith("%") else 1):  # a bare 3 was meant to be 3 %
        raise argparse.ArgumentTypeError(f"a change such as 5% or 0.05, not {text!r}")
    return 1 + value


def _verdicts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FAIL_ON:
            raise argparse.ArgumentTypeError(f"unknown verdict {name!r}; known: {', '.join(FAIL_ON)}")
    return names


def check_outputs(parsed: argparse.Namespace) -> None:
    """Find out before the work whether its output has a place."""
    for name in ("json", "csv", "markdown", "html"):
        path = getattr(parsed, name)
        if path is not None and not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")


def margins_of(parsed: argparse.Namespace, noise_ratio: float) -> Margins:
    """What was asked for, here and in pyproject.toml, and the machine's noise."""
    return Margins(default_ratio=parsed.margin, thresholds=_thresholds(Path("pyproject.toml")), noise_ratio=noise_ratio)


def _thresholds(path: Path) -> dict[str, float]:
    """`[tool.mlpbench.thresholds]`: globs over benchmarks, each with the change that matters."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    found = content.get("tool", {}).get("mlpbench", {}).get("thresholds", {})
    try:
        return {glob: _percent(str(value)) for glob, value in found.items()}
    except (argparse.ArgumentTypeError, AttributeError) as error:
        raise InputError(f"{path}, tool.mlpbench.thresholds: {error}") from None


def show_plan(parsed: argparse.Namespace, results: Results, plan: Plan, path: Path | None) -> int:
    """Judge the two sides of a plan, print and write the verdicts, and give the exit code."""
    from mlpbench import display, verdicts

    margins = margins_of(parsed, 1.0)
    if margins.default_ratio is None:
        margins = dataclasses.replace(margins, default_ratio=plan.margin_ratio)
    judgement = judge_plan(results, plan, margins)
    code = show(parsed, judgement, verdicts.title(plan), (plan.command,))
    ending = results.endings.get(plan.id)
    console = display.console()
    console.print(f"stopped: {ending.reason if ending else 'not finished'}")
    console.print(f"results: {path}")
    return code


def show(parsed: argparse.Namespace, judgement: Judgement, title: str, commands: tuple[str, ...]) -> int:
    """Print the verdicts, write them where asked, and give the exit code."""
    from mlpbench import display, report, verdicts

    made = verdicts.sections(judgement, commands, is_drawn=parsed.html is not None)
    console = display.console()
    for section in made:
        if section.frame is not None:
            display.show(console, section.title, display.table(section.frame))
    sentence = verdicts.sentence(judgement)
    try:
        if parsed.json:
            parsed.json.write_text(json.dumps(_as_json(judgement, sentence), indent=2) + "\n", encoding="utf-8")
        if parsed.csv:
            names = [f.name for f in dataclasses.fields(judgement.comparisons[0])] if judgement.comparisons else []
            with parsed.csv.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(dataclasses.asdict(c) for c in judgement.comparisons)
        report.write_page(title, sentence, made, html=parsed.html, markdown=parsed.markdown)
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from None
    code = judgement.exit_code(parsed.fail_on, allow_missing=parsed.allow_missing)
    console.print(f"{sentence}: exit code {code}")
    return code


def _as_json(judgement: Judgement, sentence: str) -> dict[str, Any]:
    """Everything; what has no number in JSON (an open interval) is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    content: dict[str, Any] = plain(dataclasses.asdict(judgement))
    return {"schema": 1, "summary": sentence, **content}
