"""Give axes their ticks, labels and legends, so that nothing overlaps, and lines that differ without colour too."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from mlpbench.reporting.figures.canvas import wrapped

Name = Literal["x", "y"]
"""An axis of a panel."""
MAX_ROWS = 40
"""The rows that a figure shows at most; its table has all."""
LABEL_WIDTH = 26
"""The longest line of a label beside an axis, in characters."""
LEGEND_WIDTH = 46
"""The longest line of a legend, in characters: the width of a phone."""
_LINE_IN = 0.18
"""The height of a line of text, in inches."""
# Together they distinguish 40 lines: the lengths have no common divisor.
_DASHES: tuple[Any, ...] = ("", (4, 1.5), (1, 1), (3, 1, 1, 1), (7, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDE, NARROW = 40, 22
"""The characters of tick labels that fit below a figure, and below one with long labels at its side."""


def distinct(texts: Iterable[object], width: int = LABEL_WIDTH) -> list[str]:
    """Return the texts wrapped; where cutting made two different texts equal, a number tells them apart."""
    texts = list(texts)
    labels = [wrapped(text, width) for text in texts]
    for label in {label for label in labels if labels.count(label) > 1}:
        originals = list(dict.fromkeys(text for text, own in zip(texts, labels, strict=True) if own == label))
        if len(originals) > 1:
            labels = [
                f"{own} ({originals.index(text) + 1})" if own == label else own
                for text, own in zip(texts, labels, strict=True)
            ]
    return labels


def lines_in(labels: Iterable[str], least_in: float = 0.3) -> float:
    """Return the height that labels below each other need, in inches, at least `least_in` each."""
    return sum(max(least_in, _LINE_IN * (label.count("\n") + 1) + 0.08) for label in labels)


def row_positions(labels: Sequence[str], least_in: float = 0.3) -> tuple[list[float], float]:
    """Return the centre of each row from the top, and the height of all, for rows as high as their labels."""
    heights = [lines_in([label], least_in) for label in labels]
    ends = list(itertools.accumulate(heights))
    return [end - height / 2 for end, height in zip(ends, heights, strict=True)], ends[-1] if ends else least_in


def rows_axis(axes: Axes, positions: Sequence[float], total: float, labels: Sequence[str], label: str) -> None:
    """Name the rows of a figure, the first at the top, and its x axis; that label may begin below those of the rows."""
    axes.set_xlabel(label, loc="right")
    axes.set_yticks(positions, labels)
    axes.set(ylabel="", ylim=(total, 0))


def whole_ticks(axes: Axes, values: Iterable[float]) -> None:
    """Give the x axis of a count whole ticks, also if there is a single value."""
    values = [value for value in values if math.isfinite(value)] or [1]
    low, high = min(values), max(values)
    if low == high:
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_ticks(
    axes: Axes,
    name: Name,
    values: Iterable[float],
    text: Callable[[float], str],
    *,
    at: Sequence[float] = (),
    room: int = WIDE,
) -> None:
    """Make an axis logarithmic with a few readable ticks.

    Args:
        axes: the panel.
        name: the axis of it.
        values: everything that is drawn; what is not finite and positive has no place on the axis.
        text: turns a tick into its label.
        room: the characters of labels that have room on the axis.
        at: ticks to choose from; otherwise 1, 2 and 5 times powers of ten, or evenly spaced ones in a narrow range.
    """
    positive = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(positive), max(positive)
    # A twentieth of the range on both sides; a single value has a range too.
    space = max(1.02, (high / low) ** 0.05) if high > low else 1.5
    low, high = low / space, high * space
    axis: Axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    ticks = thinned(at or _candidates(low, high), text, low, high, room)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _candidates(low: float, high: float) -> list[float]:
    """Return ticks for a logarithmic axis."""
    if high / low < 4:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(tick) for tick in ticks if low <= tick <= high]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 1e4 else (1, 2, 5)
    return [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]


def thinned(
    ticks: Iterable[float], text: Callable[[float], str], low: float, high: float, room: int = WIDE
) -> list[float]:
    """Return the ticks of a logarithmic axis whose labels have room beside each other."""
    chosen: list[float] = []
    per_character = math.log(high / low) / room
    for tick in sorted(ticks):
        need = per_character * ((len(text(chosen[-1])) + len(text(tick))) / 2 + 1.5) if chosen else 0.0
        if not chosen or math.log(tick / chosen[-1]) >= need:
            chosen.append(tick)
    return chosen


def short_number(value: float) -> str:
    """Return a number with three significant digits, large ones with a power of ten.

    >>> short_number(0.5), short_number(10000), short_number(2e12)
    ('0.5', '10,000', '2e12')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def factor(value: float) -> str:
    """Return a ratio with the sign of multiplication."""
    return f"{short_number(value)}×"


def from_zero(axes: Axes, values: Iterable[float]) -> None:
    """Let a linear x axis begin at zero, with a few ticks that have room."""
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    axes.set_xlim(0, 1.05 * highest if highest > 0 else 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def line_looks(names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return seaborn's arguments for lines that differ in colour, dashes and markers."""
    colours = sns.color_palette("colorblind", 10)
    dashes = {name: _DASHES[index % len(_DASHES)] for index, name in enumerate(names)}
    markers = {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(names)}
    palette = {name: colours[index % len(colours)] for index, name in enumerate(names)}
    return {"palette": palette, "dashes": dashes, "markers": markers}


def draw_lines(axes: Axes, frame: pd.DataFrame, *, x: str, y: str, by: str, estimator: str = "mean") -> None:
    """Draw a line for each value of a column, which differ in colour, dashes and markers; the band spans the rows."""
    names = frame[by].unique().tolist()
    num_points = frame[x].nunique()
    sns.lineplot(
        frame, x=x, y=y, hue=by, style=by, hue_order=names, style_order=names, estimator=estimator,
        errorbar=("pi", 100), markersize=5, markevery=max(1, num_points // 12), ax=axes, **line_looks(names),
    )  # fmt: skip


def legend_below(figure: Figure, axes: Axes, num_columns: int = 1) -> None:
    """Show the legend under the panels, where long names have room."""
    handles, names = axes.get_legend_handles_labels()
    without_legend(axes)
    figure.legend(handles, names, loc="outside lower center", ncols=num_columns, handlelength=3)


def legend_in(names: Iterable[str]) -> float:
    """Return the height of a legend with a name a line, in inches."""
    return sum(0.2 + _LINE_IN * name.count("\n") for name in names)


def without_legend(axes: Axes) -> None:
    """Remove the legend of the panel, if it has one."""
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def errors(frame: pd.DataFrame, value: str, low: str, high: str) -> "np.ndarray[Any, Any]":
    """Return the distances from a value to its interval, as matplotlib takes them; an open end is very far away."""
    below = (frame[value] - frame[low]).clip(lower=0)
    # The interval of a single round is infinite, and matplotlib draws only finite ones.
    above = (frame[high] - frame[value]).clip(lower=0, upper=1e3 * frame[value])
    return np.array([below, above])
