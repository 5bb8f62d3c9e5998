"""Test the sections of judgements."""

import math
from dataclasses import replace

import pytest

from mlpbench.judging.judgement import Comparison, Judgement, Omission
from mlpbench.judging.metrics import Metric, Verdict
from mlpbench.reporting import formatting
from mlpbench.reporting.figures import canvas
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
    assert points == [canvas.BAD, canvas.NEUTRAL]
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


def remarks(judgement) -> list[tuple[str, str]]:
    rows = sections_of(judgement)["verdicts-rest"].frame.to_dict("records")
    return [(row["what"], row["benchmark"]) for row in rows]


def test_benchmark_that_is_not_judged_has_its_reason():
    omission = Omission(benchmark="a/x", side="NEW", reason="its median is 0 s, not above 0 (0.json)")
    judgement = Judgement(comparisons=(SAME,), unjudged=(omission,))
    assert remarks(judgement) == [("Not judged in NEW: its median is 0 s, not above 0 (0.json)", "a/x")]
    assert verdicts.sentence(judgement) == "1 same; 1 not judged"


def test_measurements_that_were_left_out_for_one_reason_stand_in_one_row():
    omissions = tuple(
        Omission(benchmark=name, side=side, reason="processes that were cut short: 1")
        for side in ("BASE", "NEW")
        for name in ("a/x", "a/y")[: 2 if side == "BASE" else 1]
    )
    assert remarks(Judgement(comparisons=(SAME,), omitted=omissions)) == [
        ("Left out in BASE: processes that were cut short: 1", "2: a/x, a/y"),
        ("Left out in NEW: processes that were cut short: 1", "a/x"),
    ]


def test_correlated_pairs_are_said():
    correlated = replace(SAME, is_paired=True, pair_correlation=0.456, widening=7.18)
    ((text, name),) = remarks(Judgement(comparisons=(correlated,)))
    assert text.startswith("Successive pairs are correlated (0.46): the interval is 7.2 times as wide")
    assert name == "operations/backward"


def test_verdict_that_waits_for_more_pairs_is_said():
    early = replace(SLOWER, is_paired=True, early_widening=5.0, verdict=Verdict.INCONCLUSIVE)
    ((text, _),) = remarks(Judgement(comparisons=(early,), stopped="time limit of 60 s, after 5 pairs"))
    assert text == (
        "No verdict before the last planned pair: 5 pairs do not exclude that pairs are correlated "
        "(stopped: time limit of 60 s, after 5 pairs)"
    )
    assert "verdicts-rest" not in sections_of(Judgement(comparisons=(replace(early, verdict=Verdict.SLOWER),)))


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"num_needed": 140}, "about 140 processes on each side are needed, if the noise stays the same"),
        ({"num_needed": 140, "is_paired": True}, "about 140 pairs are needed, if the noise stays the same"),
        ({}, "it cannot be estimated how much more to measure"),
        ({"margin_ratio": 1.07, "margin_from": "noise"}, "the margin alone is +7.0 % (set by: noise)"),
    ],
)
def test_change_that_could_have_been_missed_is_said_with_what_would_find_it(changes, advice):
    blind = replace(SAME, must_find_ratio=1.05, detectable_ratio=3.318, **changes)
    judgement = Judgement(comparisons=(blind, replace(SLOWER, must_find_ratio=1.01)), stopped="not finished")
    ((text, name),) = remarks(judgement)
    assert name == "operations/backward"
    assert text.startswith("Could have missed +5.0 %: 5 p")
    assert text.endswith(f"find +232 % or more (stopped: not finished); {advice}")
    assert verdicts.sentence(judgement).endswith("; 1 cannot find the change that must be found")


def test_plan_that_cannot_be_judged_has_a_section_that_says_why_and_the_others_have_theirs():
    times = [[1.0, 1.01], [1.01, 1.0], [0.99, 1.0], [1.0, 1.02]]
    records = results(
        plan(pairs=4),
        replicated(times, side="a", suite="ab"),
        replicated(times, side="b", suite="ab"),
        plan(id="bad", margin_ratio=math.nan),
    )
    sections = verdicts.of_plans(ReportData(results=records, target=0.9)).sections
    assert [section.title.partition(":")[0] for section in sections] == ["No verdict", "Time"]
    assert "the margin must be a ratio from 1 to 1000" in sections[0].text


def test_sections_of_a_plan_name_its_sides():
    times = [[1.0, 1.01], [1.01, 1.0], [0.99, 1.0], [1.0, 1.02]]
    records = results(
        plan(pairs=4, b=("optimizer=adam",)),
        replicated(times, side="a", suite="ab"),
        replicated(times, side="b", suite="ab"),
    )
    (section,) = verdicts.of_plans(ReportData(results=records, target=0.9)).sections
    assert section.title == "Time: B (optimizer=adam) against A (unchanged)"
