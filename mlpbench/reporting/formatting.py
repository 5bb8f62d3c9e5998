"""Turn numbers and frames into text: the name of a column decides its heading, its unit and its help."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mlpbench.reporting.escaping import printable_lines

MISSING = "–"


def seconds(value: float) -> str:
    """Return a time with three significant digits, in the unit that suits; infinity is "never".

    >>> seconds(0.00089012), seconds(2.61669), seconds(106.0), seconds(float("inf"))
    ('890 µs', '2.62 s', '106 s', 'never')
    """
    if math.isinf(value):
        return "never"
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{_significant(value / scale)} {unit}"
    return f"{_significant(value)} s"


def change(value: float) -> str:
    """Return a relative change in percent, and a change to the tenfold or more as a factor.

    >>> change(0.114), change(-0.5), change(4.826), change(19.0)
    ('+11.4 %', '-50.0 %', '+483 %', '20×')
    """
    if value < 0.9995:
        # Zero is added so that -0.0 becomes 0.0.
        return f"{round(100 * value, 1) + 0.0:+.1f} %"
    if value < 9.995:
        return f"{100 * value:+.0f} %"
    return "∞" if value > 1e6 else f"{value + 1:.3g}×"


def _significant(value: float) -> str:
    """Return three significant digits without an exponent."""
    # The exponent is that of the rounded value: 9.999 has two digits before the point.
    exponent = int(f"{value:.2e}".split("e")[1])
    return f"{value:.{max(0, 2 - exponent)}f}"


def _factor(value: float) -> str:
    return "∞" if math.isinf(value) else f"{_significant(value)}×"


def _ratio_as_change(value: float) -> str:
    return change(value - 1)


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.1f} MiB"


def _fraction(value: float) -> str:
    return f"{value:.4f}"


def _rate(value: float) -> str:
    return f"{value:,.1f}"


def _number(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,g}"


@dataclass(frozen=True, slots=True)
class Column:
    """Describe how a column of a frame is shown."""

    heading: str
    """The heading; in the table of suffixes, `*` stands for the rest of the column's name."""
    format: Callable[[float], str] = _number
    """Turns a number of the column into text; other values are shown as they are."""
    help: str = ""
    """A sentence about what the numbers mean, if the heading alone does not say it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Hold the text that is shown, and the value that a column is sorted by."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class TextTable:
    """Hold a frame as text."""

    columns: tuple[Column, ...]
    is_number: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def headings(self) -> tuple[str, ...]:
        """Return the headings of the columns, from left to right."""
        return tuple(column.heading for column in self.columns)


# Every column that needs a heading or a help of its own. Names of columns are those of the CSV files, which do not
# change; these are the words of docs/words.md.
_COLUMNS = {
    "batch_size": Column("batch size", help="samples of a training step"),
    "change": Column("change", change),
    "changed_at": Column("changed at", help="commit with which the latest segment begins"),
    "changed_on": Column("changed on", help="day on which the latest segment begins"),
    "check": Column("rerun", help="how the second training differed from the first"),
    "control_change": Column(
        "machine speed change", change, "how far the time of the control workload moved between the two sides"
    ),
    "copy_gb_per_s": Column("copy, GB/s", _rate, "bytes read and written in a second by the best large copy"),
    "coverage": Column(
        "confidence", _percent, "probability that low to high contains the true median, if the values are independent"
    ),
    "final_abs_difference": Column(
        "final difference", "{:.1e}".format, "largest difference of a parameter after the last step"
    ),
    "finds_change": Column(
        "smallest detectable change",
        change,
        "the smallest true change that this comparison would find 4 times out of 5",
    ),
    "first_difference": Column("first difference", help="the first stage of the computation whose bits differ"),
    "first_place_accuracy": Column("first environment's accuracy", _fraction, "test accuracy in the first environment"),
    "flagged_share": Column("disturbed blocks", _percent, "share of the blocks during which something else ran"),
    "gain_ratio": Column("gain", _factor, "eager's time over the engine's time; above 1 is faster"),
    "high_accuracy": Column("high", _fraction),
    "high_ratio": Column("high", _factor),
    "is_claimed": Column("claimed", help="this level and all levels below it are verified"),
    "level_s": Column("segment", seconds, "median of the latest segment, which is a stretch without a change"),
    "num_benchmarks": Column("in benchmarks", help="tests of the suite that skipped this, whole or in part"),
    "loss_difference": Column("loss difference, nats", "{:.1e}".format, "of the loss in nats per sample"),
    "low_accuracy": Column("low", _fraction),
    "low_ratio": Column("low", _factor),
    "margin_change": Column("margin", change, "the smallest change that matters"),
    "margin_from": Column(
        "margin set by", help="default, option, threshold, the noise of the machine, or the control workload"
    ),
    "max_abs_difference": Column(
        "largest difference", "{:.1e}".format, "largest difference of a value in the first stage whose bits differ"
    ),
    "pays_after_epochs": Column(
        "pays after epochs", help="epochs after which the time saved exceeds the extra time of the first step"
    ),
    "place": Column("environment", help="machine, software and settings, as far as they differ"),
    "product_gflops": Column("product, GFLOP/s", _rate, "rate of the best large float32 product"),
    "relative_norm": Column(
        "relative norm", "{:.2g}".format, "norm of the difference of all parameters over the norm of the parameters"
    ),
    "roof_share": Column(
        "% of hardware limit", _percent, "time that the products need at the peak rate, over the measured time"
    ),
    "samples_per_s": Column("samples/s", "{:,.0f}".format),
    "seconds_to_target": Column("time to target", seconds),
    "settled": Column("warm-up stable?", help="two successive blocks agreed within 2 % before the first block"),
    "time_ratio": Column("change", _ratio_as_change),
    "what": Column("remark"),
    "width": Column("width", help="units of each hidden layer"),
}

# Every other column of numbers, by the last word of its name.
_SUFFIXES = {
    "accuracy": Column("* accuracy", _fraction, "share of the samples that are classified correctly, from 0 to 1"),
    "bytes": Column("*", _mebibytes),
    "change": Column("*", change),
    "difference": Column("* difference", "{:.1e}".format),
    "loss": Column("* loss, nats", _fraction, "cross-entropy in nats per sample"),
    "norm": Column("* norm", "{:.2g}".format),
    "ratio": Column("* ratio", _factor),
    "s": Column("*", seconds),
    "share": Column("*", _percent),
}


def column(name: str) -> Column:
    """Return how a column is shown: by its whole name if that is listed, otherwise by the last word of its name.

    >>> column("settled").heading, column("median_s").heading, column("num_blocks").heading, column("low_share").heading
    ('warm-up stable?', 'median', 'blocks', 'low')
    """
    if name in _COLUMNS:
        return _COLUMNS[name]
    stem, _, suffix = name.rpartition("_")
    by_suffix = _SUFFIXES.get(suffix) if stem else None
    if by_suffix is None:
        return Column(_words(name))
    return replace(by_suffix, heading=by_suffix.heading.replace("*", _words(stem)))


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")


def cell(column: Column, value: Any) -> Cell:
    """Return one value of a column as text; a missing value is a dash.

    >>> [cell(column(name), 4.6).text for name in ("median_s", "gain_ratio")], cell(column("peak_bytes"), 2**20).text
    (['4.60 s', '4.60×'], '1.0 MiB')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell(MISSING, "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", value)
    if isinstance(value, int) and column.format is _number:
        return Cell(f"{value:,}", value)
    return Cell(column.format(value) if isinstance(value, int | float) else printable_lines(str(value)), value)


def table(frame: pd.DataFrame) -> TextTable:
    """Return a frame as text, without the columns that name the same machine, stack or commit in every row."""
    constant = [name for name in ("machine", "torch", "commit") if name in frame and len(set(frame[name])) <= 1]
    names = [name for name in frame.columns if name not in constant]
    columns = [column(str(name)) for name in names]
    if "time_ratio" in names:
        # The interval of a change is shown as changes too.
        columns = [replace(c, format=_ratio_as_change) if c.format is _factor else c for c in columns]
    records = frame[names].astype(object).to_dict("records")
    return TextTable(
        columns=tuple(columns),
        is_number=tuple(pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != bool for name in names),
        rows=tuple(tuple(cell(c, record[name]) for c, name in zip(columns, names, strict=True)) for record in records),
    )


def glossary(tables: Iterable[TextTable]) -> dict[str, str]:
    """Return the help of every heading of these tables that has one, in order of appearance."""
    return {c.heading: c.help for content in tables for c in content.columns if c.help}
