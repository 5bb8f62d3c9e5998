"""Test the sections of judgements."""

import math
from dataclasses import replace

import pytest

from mlpbench.judging.metrics import Metric, Verdict
from mlpbench.judging.verdict import Comparison, Judgement
from mlpbench.reporting import figures, formatting
from mlpbench.reporting.section import ReportData
from mlpbench.reporting.sections import verdicts
from tests.strategies import plan, replicated, results

SLOWER = Comparison(
    metric=Metric.SECONDS,
    benchmark="operations/forward",
    base=1.0,
    new=1.11,
    ratio=1.11,
    low_ratio=1.1,
    high_ratio=1.12,
    margin_ratio=1.03,
    margin_from="default",
    control_ratio=1.002,
    p_value=0.001,
    detectable_ratio=1.02,
    verdict=Verdict.SLOWER,
    num_base=5,
    num_new=5,
    is_paired=False,
    flagged_share=0.25,
)
SAME = replace(
    SLOWER, benchmark="operations/backward", ratio=1.0, low_ratio=0.99, high_ratio=1.01, verdict=Verdict.SAME
)
BITS = replace(
    SLOWER, metric=Metric.EQUAL_BITS, benchmark="determinism/repeat", base=1.0, new=0.0, ratio=math.nan,
    verdict=Verdict.WORSE,
)  # fmt: skip


def sections_of(judgement, **options):
    return {section.name: section for section in verdicts.sections_of(judgement, **options)}


def test_table_has_changes_in_percent_and_the_words_of_the_project():
    section = sections_of(Judgement(comparisons=(SAME, SLOWER)))["verdicts-seconds"]
    content = formatting.table(section.frame)
    first = dict(zip(content.headings, [cell.text for cell in content.rows[0]], strict=True))
    assert section.title == "Time: NEW against BASE"
    assert first == {
        "benchmark": "operations/forward",
        "verdict": "slower",
        "base": "1.00 s",
        "new": "1.11 s",
        "change": "+11.0 %",
        "low": "+10.0 %",
        "high": "+12.0 %",
        "margin": "+3.0 %",
        "margin set by": "default",
        "smallest detectable change": "+2.0 %",
        "machine speed change": "+0.2 %",
        "base processes": "5",
        "new processes": "5",
        "disturbed blocks": "25 %",
    }


def test_text_alternative_has_each_change_with_its_interval():
    section = sections_of(Judgement(comparisons=(SLOWER, SAME)))["verdicts-seconds"]
    assert section.alt == (
        "Time, NEW against BASE: operations/forward +11.0 %, +10.0 % to +12.0 %: slower, "
        "operations/backward +0.0 %, -1.0 % to +1.0 %: same."
    )


def test_figure_has_the_colours_of_the_verdicts_and_changes_on_its_axis():
    figure = sections_of(Judgement(comparisons=(SLOWER, SAME)))["verdicts-seconds"].figure
    (axes,) = figure.axes
    points = [line.get_color() for line in axes.lines if line.get_marker() == "o"]
    assert points == [figures.BAD, figures.NEUTRAL]
    figure.draw_without_rendering()
    assert axes.xaxis.get_major_formatter()(1.05) == "+5"
    assert axes.get_xlabel() == "change from BASE to NEW (%)"


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_can_be_drawn(verdict):
    (section,) = sections_of(Judgement(comparisons=(replace(SLOWER, verdict=verdict),))).values()
    assert section.figure is not None


def test_bits_have_no_figure_and_no_change():
    section = sections_of(Judgement(comparisons=(BITS,)))["verdicts-equal-bits"]
    assert section.figure is None
    assert section.alt == "Equal bits, NEW against BASE: determinism/repeat worse."
    assert section.frame.to_dict("records") == [
        {"benchmark": "determinism/repeat", "verdict": "worse", "base": True, "new": False}
    ]


def test_benchmarks_with_too_few_processes_are_counted_in_one_row():
    judgement = Judgement(comparisons=(), missing=("a/x", "a/y"), unreplicated=("b/x", "b/y", "b/z"))
    section = sections_of(judgement)["verdicts-rest"]
    rows = section.frame.to_dict("records")
    assert [row["benchmark"] for row in rows] == ["a/x", "a/y", "3: b/x, b/y, b/z"]
    assert rows[2]["what"].startswith("No verdict: needs at least 2 processes per side; measure with --preset default")
    assert verdicts.sentence(judgement) == (
        "nothing compared; 2 missing; 3 without a verdict (fewer than 2 processes per side)"
    )


def test_sections_of_a_plan_name_its_sides():
    times = [[1.0, 1.01], [1.01, 1.0], [0.99, 1.0], [1.0, 1.02]]
    records = results(
        plan(pairs=4, b=("optimizer=adam",)),
        replicated(times, side="a", suite="ab"),
        replicated(times, side="b", suite="ab"),
    )
    (section,) = verdicts.of_plans(ReportData(results=records, target=0.9)).sections
    assert section.title == "Time: B (optimizer=adam) against A (unchanged)"
