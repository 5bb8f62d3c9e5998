"""Draw the changes of a comparison, each with its interval and its margin."""

import math

import pandas as pd
from matplotlib.figure import Figure

from mlpbench.judging.metrics import Verdict
from mlpbench.reporting.figures.axes import MAX_ROWS, NARROW, distinct, factor, log_ticks, row_positions, rows_axis
from mlpbench.reporting.figures.canvas import BAD, GOOD, INK, LINE, NEUTRAL, canvas

_COLOURS = {
    Verdict.SLOWER: BAD,
    Verdict.WORSE: BAD,
    Verdict.FASTER: GOOD,
    Verdict.BETTER: GOOD,
    Verdict.SAME: NEUTRAL,
    Verdict.INCONCLUSIVE: INK,
}


def forest(frame: pd.DataFrame) -> Figure:
    """Draw the change of each comparison with its interval; changes within the margin, the grey bar, do not matter.

    Columns of the frame: benchmark, verdict; ratio, low_ratio, high_ratio and margin_ratio, all NEW over BASE.
    """
    rows = frame.head(MAX_ROWS).to_dict("records")
    labels = distinct([f"{row['benchmark']}: {row['verdict']}" for row in rows])
    positions, total = row_positions(labels)
    reach = _reach(frame.head(MAX_ROWS))
    with canvas(0.9 + total) as (figure, (axes,)):
        for height, row in zip(positions, rows, strict=True):
            # A margin, or an end of an interval, that is infinite ends at the edge of the figure.
            margin = min(row["margin_ratio"], reach)
            low, high = max(row["low_ratio"], 1 / reach), min(row["high_ratio"], reach)
            axes.barh(height, margin - 1 / margin, left=1 / margin, height=0.2, color=LINE, alpha=0.5, linewidth=0)
            colour = _COLOURS[row["verdict"]]
            axes.plot([low, high], [height, height], color=colour, linewidth=1.5)
            axes.plot(row["ratio"], height, "o", color=colour, markersize=6)
        axes.axvline(1, color=INK, linewidth=0.8)
        log_ticks(axes, "x", [1 / reach, reach], _change, room=NARROW)
        more = f"; {len(frame) - MAX_ROWS} more in the table" if len(frame) > MAX_ROWS else ""
        rows_axis(axes, positions, total, labels, f"change from BASE to NEW (%){more}")
    return figure


def _reach(frame: pd.DataFrame) -> float:
    """Return how far the axis reaches, as a ratio above 1.

    Intervals that reach much farther than every estimate are cut at the edge of the figure.
    """
    estimates = [max(value, 1 / value) for value in _positive(frame[["ratio", "margin_ratio"]])]
    reach = max([1.01, *estimates])
    bounds = [max(value, 1 / value) for value in _positive(frame[["low_ratio", "high_ratio"]])]
    return max([reach, *(bound for bound in bounds if bound < reach**2)])


def _positive(frame: pd.DataFrame) -> list[float]:
    return [value for value in frame.to_numpy().ravel().tolist() if math.isfinite(value) and value > 0]


def _change(ratio: float) -> str:
    """Return a ratio as a change in percent, from the tenfold on as a factor."""
    change = 100 * (ratio - 1)
    return f"{change:+.3g}" if abs(change) > 1e-9 and ratio < 10 else "0" if ratio < 10 else factor(ratio)
