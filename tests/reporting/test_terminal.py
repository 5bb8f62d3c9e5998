"""Tables on the terminal."""

import io
import re
from collections import Counter

import pandas as pd
import pytest
from rich.console import Console

from mlpbench.config import RunConfig
from mlpbench.reporting import formatting, terminal
from mlpbench.reporting.build import build
from tests.strategies import example, results, session, timed, trained


def printed(show, *arguments) -> str:
    """Return the output of a function, to which `Console` stands for a console as wide as a pipe."""
    output = io.StringIO()
    console = Console(file=output, width=terminal.PIPE_WIDTH, force_terminal=False, highlight=False, soft_wrap=True)
    show(*(console if argument is Console else argument for argument in arguments))
    return output.getvalue()


def test_terminal_shows_every_table():
    report = build(example(), (), 0.9)
    text = printed(terminal.show, report, Console)
    for section in report.sections:
        if section.frame is not None:
            assert section.title in text
            assert all(cell.text in text for row in formatting.table(section.frame).rows for cell in row)


def test_training_shows_its_first_and_last_epochs_and_draws_two_plots(tmp_path):
    run = results(session(), trained(tuple(epoch / 20 for epoch in range(20))))
    text = printed(terminal.show_training, run, Console, tmp_path)
    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert [word for word in first_words if word.isdecimal()] == ["1", "2", "3", "4", "17", "18", "19", "20"]
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "accuracy.png"}


def test_study_shows_accuracies_and_seeds_that_reached_the_target_and_draws_its_curves(tmp_path):
    runs = results(session(), trained((0.5, 0.95)), trained((0.5, 0.6), seed=1))
    text = printed(terminal.show_study, runs, Console, 0.9, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"study-{name}-digits.png" for name in ("loss", "accuracy", "time-to-accuracy")
    }
    assert "Time to 90% test accuracy" in text
    assert "0.7750" in text
    assert re.search(r"\b2 +1 +", text)


def test_timings_show_changes_only_of_interleaved_settings():
    alone = printed(terminal.show_timings, results(session(), timed("m", [1.0], suite="time")), Console)
    both = [timed("m", [1.0] * 2, group="g"), timed("n", [2.0] * 2, group="g", config=RunConfig(seed=1))]
    interleaved = printed(terminal.show_timings, results(session(), *both), Console)
    assert "Change" not in alone
    assert "+100 %" in interleaved


# --- width ------------------------------------------------------------------------------------------------------------


def test_table_has_every_cell_at_any_width():
    content = formatting.table(pd.DataFrame({"operation": ["forward", "evaluate"], "median_s": [0.001, 2.0]}))
    for width in (30, terminal.PIPE_WIDTH):
        output = io.StringIO()
        terminal.show_table(Console(file=output, width=width, force_terminal=False), "Times", content)
        text = output.getvalue()
        assert text.startswith("Times")
        for row in content.rows:
            assert any(all(c.text in line for c in row) for line in text.splitlines())


def test_console_in_a_pipe_does_not_wrap_a_wide_table(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    terminal.show_table(
        terminal.console(), "Wide", formatting.table(pd.DataFrame({f"c{i}": ["x" * 15] for i in range(12)}))
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(line.count("x" * 15) == 12 for line in lines)


def lines_of(frame, width: int) -> list[str]:
    output = io.StringIO()
    terminal.show_frame(Console(file=output, width=width, force_terminal=False), "Title", frame)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def wide_frame() -> pd.DataFrame:
    names = ["median_s", "low_s", "high_s", "coverage", "flagged_share", "roof_share", "samples_per_s", "num_blocks"]
    values = dict.fromkeys(names, 0.5)
    return pd.DataFrame([{"operation": name, "device": "cpu", **values} for name in ("forward", "forward_backward")])


def test_wide_table_is_printed_in_parts_that_begin_with_the_same_columns():
    lines = lines_of(wide_frame(), 80)
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("Title")] == ["Title", "Title, more columns"]
    rows = [line for line in lines if line.startswith("forward_backward")]
    assert [row.split()[:2] for row in rows] == [["forward_backward", "cpu"]] * 2
    assert sum(row.count("500 ms") for row in rows) == 3


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120])
def test_no_word_of_a_heading_or_number_is_broken(width):
    lines = lines_of(wide_frame(), width)
    assert max(map(len, lines)) <= width
    words = {word.rstrip(":;") for line in lines for word in line.split()}
    content = formatting.table(wide_frame())
    headings = [name for name, is_number in zip(content.headings, content.is_number, strict=True) if is_number]
    assert {word for heading in headings for word in heading.split()} <= words
    assert sum(line.count("500 ms") for line in lines) == 6


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_every_number_of_a_report_is_whole_at_any_width(width):
    numbers = re.compile(r"[-+]?[0-9][0-9,.]*(?:e[-+][0-9]+)?(?: (?:µs|ms|s|%|MiB)|×)?(?= |;|$)")
    for section in build(example(), (), 0.9).sections:
        if section.frame is not None:
            lines = lines_of(section.frame, width)
            assert max(map(len, lines)) <= width or section.name in {"skipped", "protocol"}
            content = formatting.table(section.frame)
            shown = Counter(number for line in lines for number in numbers.findall(line))
            for row in content.rows:
                for cell, is_number in zip(row, content.is_number, strict=True):
                    assert not is_number or cell.text == formatting.MISSING or shown[cell.text]


def test_row_that_needs_many_parts_becomes_a_paragraph():
    lines = lines_of(wide_frame(), 40)
    assert lines[:3] == ["Title", "forward, cpu", "  median: 500 ms; low: 500 ms;"]
    assert lines.count("forward_backward, cpu") == 1
    assert "more columns" not in " ".join(lines)


def test_paragraph_of_truth_values_names_them():
    frame = pd.DataFrame([{"benchmark": "x", "base": True, "new": False} | {f"c{i}_s": 1.0 for i in range(20)}])
    assert "base: yes; new: no;" in " ".join(lines_of(frame, 40))


def test_long_text_wraps_within_its_column():
    frame = pd.DataFrame({"workload": ["one two three four five six seven eight nine"], "median_s": [0.5]})
    lines = lines_of(frame, 40)
    assert max(map(len, lines)) <= 40
    assert [line for line in lines if "500 ms" in line] == [line for line in lines if line.startswith("one")]
    assert "Title, more columns" not in lines


def test_text_in_brackets_is_printed_as_it_is():
    lines = lines_of(pd.DataFrame({"reason": ["[red]not[/red] [there]"]}), 40)
    assert "[red]not[/red] [there]" in lines
