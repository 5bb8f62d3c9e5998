"""Every number of every table has its unit, or is a count that its heading names."""

import re

import pandas as pd
import pytest

from mlpbench.config import RunConfig
from mlpbench.judging.metrics import Metric, Verdict
from mlpbench.judging.verdict import Comparison, Judgement
from mlpbench.records.kinds import Peak
from mlpbench.reporting import formatting
from mlpbench.reporting.build import build
from mlpbench.reporting.sections import verdicts
from tests.strategies import example, memory, results, timed

# Counts, sizes that count units or samples, and numbers in an order.
COUNTS = {"epoch", "level", "number", "width", "batch_size", "step", "median_epochs", "pays_after_epochs",
          "base_processes", "new_processes"}  # fmt: skip
DIMENSIONLESS = re.compile(r"(^|_)(accuracy|abs_difference|relative_norm)$")
UNIT_IN_CELL = re.compile(r"( µs| ms| s| %|MiB|×|∞|never|–)$")
UNIT_IN_HEADING = re.compile(r"(nats|/s)$")


def compared(metric: Metric) -> pd.DataFrame:
    comparison = Comparison(
        metric=metric, benchmark="b", verdict=Verdict.SAME, base=2**30, new=2**30, ratio=1.0, low_ratio=0.9,
        high_ratio=1.1, margin_ratio=1.03, margin_from="default", control_ratio=1.0, detectable_ratio=1.05, num_base=5,
        num_new=5, p_value=0.5, is_paired=False, flagged_share=0.0,
    )  # fmt: skip
    return verdicts.frame(Judgement(comparisons=(comparison,)), metric)


def frames_of_everything() -> dict[str, pd.DataFrame]:
    fused = RunConfig(engine="fused")
    records = [
        *example().records(),
        memory(2**30),
        memory(2**31, operation="evaluate", before_bytes=2**29),
        Peak(session="s", device="cpu", num_threads=1, gemm_flops_per_s=1e11, copy_bytes_per_s=1e10),
        *timed("eager", [2.0] * 3, suite="engines", operation="epoch", group="e", rounds=3),
        *timed("fused", [1.0] * 3, suite="engines", operation="epoch", group="e", rounds=3, config=fused),
        *timed("first", [9.0], suite="engines", operation="first_step"),
    ]
    sections = build(results(*records), (), 0.9).sections
    tables = {section.name: section.frame for section in sections if section.frame is not None}
    return tables | {f"compare {metric}": compared(metric) for metric in Metric}


FRAMES = frames_of_everything()


def test_all_kinds_of_tables_are_there():
    expected = {"memory", "compare peak_bytes", "operations", "accuracy-digits", "engines-start", "peaks", "skipped"}
    assert expected <= set(FRAMES)


@pytest.mark.parametrize("name", FRAMES)
def test_every_number_has_a_unit_or_is_a_count(name):
    frame = FRAMES[name]
    for column in frame.select_dtypes("number"):
        description = formatting.column(str(column))
        texts = [formatting.cell(description, value).text for value in frame[column].astype(object)]
        has_unit = UNIT_IN_HEADING.search(description.heading) or all(UNIT_IN_CELL.search(text) for text in texts)
        is_count = column in COUNTS or str(column).startswith("num_")
        assert has_unit or is_count or DIMENSIONLESS.search(str(column)), (column, texts)


@pytest.mark.parametrize("kind", [int, float])
def test_memory_is_in_mebibytes_whatever_holds_it(kind):
    frame = pd.DataFrame({"peak_bytes": [kind(1_021_517_824)]})
    assert formatting.table(frame).rows[0][0].text == "974.2 MiB"
