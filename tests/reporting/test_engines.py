"""Engines against eager, from hand-made results."""

import math

import pandas as pd
import pytest

from mlpbench.config import RunConfig
from mlpbench.records.kinds import Peak
from mlpbench.reporting import formatting, frames
from mlpbench.reporting.section import Part, ReportData
from mlpbench.reporting.sections import engines
from tests.strategies import replicated, results, session, timed


def interleaved(milliseconds, *, operation="epoch", session="s", group="g", suite="engines", **fields):
    """Return records of engines that ran interleaved: for each its times by round, in milliseconds."""
    records = []
    for engine, times in milliseconds.items():
        config = RunConfig(engine=engine, **fields)
        name = f"{session}-{group}-{engine}"
        common = {"group": group, "suite": suite, "operation": operation, "session": session}
        records += timed(name, times, config=config, samples_per_call=60_000, **common)
    return records


TIMES = {"eager": [400.0, 800.0, 400.0], "fused": [100.0, 200.0, 160.0], "portable": [800.0, 1600.0, 800.0]}


def speeds(records):
    return engines.speeds(frames.blocks(records))


def part(records):
    return engines.make(ReportData(results=records, target=0.9))


def gains(records) -> dict[str, float]:
    frame = speeds(records)
    return dict(zip(frame["engine"], frame["gain_ratio"], strict=True))


def test_gain_is_the_median_of_the_rounds_ratios():
    frame = speeds(results(session(), interleaved(TIMES)))
    assert frame["engine"].tolist() == ["eager", "fused", "portable"]
    assert frame["gain_ratio"].tolist() == pytest.approx([1, 4, 0.5])
    fused = frame.iloc[1]
    assert (fused["low_ratio"], fused["high_ratio"]) == pytest.approx((2.5, 4))
    assert fused["median_s"] == pytest.approx(0.160)
    assert (fused["num_rounds"], fused["num_processes"]) == (3, 1)


def test_processes_of_a_run_are_one_row():
    records = [session(f"s{i}", run="r", process=i) for i in range(3)]
    for i, factor in enumerate((1, 2, 3)):
        records += interleaved({"eager": [100.0 * factor] * 4, "fused": [50.0] * 4}, session=f"s{i}", group=f"g{i}")
    frame = speeds(results(*records))
    assert frame["engine"].tolist() == ["eager", "fused"]
    assert frame["gain_ratio"].tolist() == pytest.approx([1, 4])
    assert (frame["low_ratio"][1], frame["high_ratio"][1], frame["num_processes"][1]) == pytest.approx((2, 6, 3))


def test_groups_without_eager_or_with_other_differences_are_left_out():
    other = timed("x", [1.0, 1.0], config=RunConfig(batch_size=7), group="g2", operation="epoch")
    mixed = interleaved({"eager": [1.0, 1.0], "fused": [1.0, 1.0]}, group="g2")
    alone = interleaved({"fused": [1.0], "manual": [1.0]}, group="g3")
    assert gains(results(session(), interleaved(TIMES))) != {}
    assert speeds(results(session(), other, mixed, alone)).empty
    assert engines.speeds(pd.DataFrame()).empty


def test_newest_run_counts_whatever_engines_it_has():
    later = session("t", started_at="2026-02-01T00:00:00+00:00")
    again = interleaved({"eager": [100.0] * 3, "fused": [50.0] * 3, "manual": [80.0] * 3}, session="t", group="h")
    assert gains(results(session(), interleaved(TIMES), later, again)) == pytest.approx(
        {"eager": 1, "fused": 2, "manual": 1.25}
    )


def test_engines_in_results_of_mlpbench_time_count_too():
    assert gains(results(session(), interleaved(TIMES, suite="time")))["fused"] == pytest.approx(4)


def test_hardware_limit_is_that_of_the_machine():
    flops = 600 * 74_940_000
    peak = Peak(session="s", device="cpu", num_threads=2, gemm_flops_per_s=flops / 0.08, copy_bytes_per_s=1.0)
    frame = speeds(results(session(), peak, interleaved(TIMES, num_threads=2)))
    assert frame["roof_share"].tolist() == pytest.approx([0.2, 0.5, 0.1], rel=1e-3)


def first_steps(**seconds):
    """Return records of the first steps of engines, in seconds."""
    return [
        record
        for engine, s in seconds.items()
        for record in timed(
            f"start-{engine}", [1000 * s], config=RunConfig(engine=engine), suite="engines", operation="first_step"
        )
    ]


def test_slow_start_pays_after_enough_epochs():
    records = results(session(), interleaved(TIMES), first_steps(eager=0.1, fused=3.4, portable=0.5, compiled=9.0))
    frame = engines.starts(records, speeds(records)).set_index("engine")
    # The start takes 3.3 s more than eager's, and each epoch takes 240 ms less.
    assert frame["pays_after_epochs"]["fused"] == math.ceil(3.3 / 0.24) == 14
    assert frame["pays_after_epochs"]["eager"] == 0
    assert frame["pays_after_epochs"]["portable"] == math.inf
    assert math.isnan(frame["pays_after_epochs"]["compiled"])
    assert frame["first_step_s"]["compiled"] == pytest.approx(9)


def test_newest_start_counts():
    records = results(
        session(), first_steps(eager=0.1), session("t", started_at="2026-02-01T00:00:00+00:00"),
        timed("new", [700.0], config=RunConfig(), operation="first_step", session="t"),
    )  # fmt: skip
    assert engines.starts(records, speeds(records))["first_step_s"].tolist() == pytest.approx([0.7])


def test_sections_have_a_table_a_figure_and_its_text():
    records = results(
        session(),
        interleaved(TIMES),
        interleaved(TIMES, operation="train_step", group="h"),
        first_steps(eager=0.1, fused=3.4),
    )
    epoch, step, start = part(records).sections
    assert [s.name for s in (epoch, step, start)] == ["engines-epoch", "engines-train-step", "engines-start"]
    assert "gain" in formatting.table(epoch.frame).headings
    assert "fused 4.00 times as fast as eager (batch 100, width 150, cpu)" in epoch.alt
    assert epoch.figure is not None
    labels = [text.get_text() for text in epoch.figure.axes[0].get_yticklabels()]
    assert labels == ["fused", "portable"]
    assert epoch.commands == ("pytest bench/ --preset quick",)
    assert len(start.frame) == 2


def test_results_without_engines_have_no_section_and_no_fact():
    records = results(session(), replicated([[1.0, 2.0]]))
    assert part(records) == Part()


def test_fastest_engine_is_a_fact():
    (fact,) = part(results(session(), interleaved(TIMES))).facts
    assert (fact.name, fact.value) == ("Fastest engine and its gain, cpu", "fused 4.00×")
    assert "2.50 to 4.00 over 3 interleaved rounds" in fact.note
    assert part(results(session(), interleaved({"eager": [1.0, 1.0], "portable": [2.0, 2.0]}))).facts == ()
