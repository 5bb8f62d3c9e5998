"""Numbers and frames as text for people; the unit is chosen by the column's suffix."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

MISSING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and what a column is sorted by."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class TextTable:
    """A frame as text."""

    columns: tuple[str, ...]
    is_number: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def seconds(value: float) -> str:
    """Three significant digits, in the unit that suits.

    >>> seconds(0.00089012), seconds(2.61669), seconds(106.0), seconds(float("inf"))
    ('890 µs', '2.62 s', '106 s', 'never')
    """
    if math.isinf(value):
        return "never"
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{_significant(value / scale)} {unit}"
    return f"{_significant(value)} s"


def _significant(value: float) -> str:
    """Three significant digits, no exponent."""
    exponent = int(f"{value:.2e}".split("e")[1])  # after rounding: 9.999 has two digits before the point
    return f"{value:.{max(0, 2 - exponent)}f}"


# How the numbers of a column are shown, by the end of its name; the first that fits.
_FORMATS: tuple[tuple[tuple[str, ...], Callable[[float], str]], ...] = (
    (("samples_per_s",), lambda value: f"{value:,.0f}"),
    (("_gflops", "_gb_per_s"), lambda value: f"{value:,.1f}"),
    (("_s", "seconds_to_target"), seconds),
    (("_norm",), lambda value: f"{value:.2g}"),
    (("_ratio",), lambda value: "∞" if math.isinf(value) else f"{_significant(value)}×"),
    (("_accuracy", "_loss"), lambda value: f"{value:.4f}"),
    (("_share", "coverage"), lambda value: f"{100 * value:.3g} %"),
    (("_difference",), lambda value: f"{value:.1e}"),
    (
        ("change",),
        lambda value: f"{100 * value:+.1f} %" if value < 9.995 else "∞" if value > 1e6 else f"{value + 1:.3g}×",
    ),
    (("_bytes",), lambda value: f"{value / 2**20:,.1f} MiB"),
    (("",), lambda value: "never" if math.isinf(value) else f"{value:,g}"),
)


def cell(column: str, value: Any) -> Cell:
    """One value of a column.

    >>> cell("median_s", 0.0012).text, cell("time_ratio", 4.6).text, cell("coverage", 0.9375).text
    ('1.20 ms', '4.60×', '93.8 %')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell(MISSING, "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", value)
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    if isinstance(value, float):
        return Cell(next(show for ends, show in _FORMATS if column.endswith(ends))(value), value)
    return Cell(str(value), value)


def table(frame: pd.DataFrame) -> TextTable:
    """A frame as text; a column that names the same machine or stack throughout is left out."""
    constant = [name for name in ("machine", "torch", "commit") if name in frame and len(set(frame[name])) <= 1]
    names = [name for name in frame.columns if name not in constant]
    records = frame[names].astype(object).to_dict("records")
    return TextTable(
        columns=tuple(_heading(str(name)) for name in names),
        is_number=tuple(pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != bool for name in names),
        rows=tuple(tuple(cell(str(name), record[name]) for name in names) for record in records),
    )


def _heading(name: str) -> str:
    """A column's name without its unit, which its cells carry.

    >>> _heading("median_s"), _heading("samples_per_s"), _heading("num_blocks"), _heading("low_share")
    ('median', 'samples/s', 'blocks', 'low')
    """
    spoken = {
        "samples_per_s": "samples/s",
        "gain_ratio": "gain",
        "product_gflops": "product, GFLOP/s",
        "copy_gb_per_s": "copy, GB/s",
    }
    if name in spoken:
        return spoken[name]
    for suffix in ("_s", "_share", "_bytes"):
        name = name.removesuffix(suffix)
    if name in ("low_ratio", "high_ratio", "low_accuracy", "high_accuracy") or name.endswith("_change"):
        name = name.split("_")[0]
    return name.removeprefix("num_").replace("_", " ")
