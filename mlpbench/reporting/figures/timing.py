"""Draw times: of categories, over a size, and of engines against eager."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mlpbench.reporting.figures.axes import (
    LEGEND_WIDTH,
    MAX_ROWS,
    NARROW,
    distinct,
    draw_lines,
    errors,
    factor,
    from_zero,
    legend_below,
    legend_in,
    log_ticks,
    row_positions,
    rows_axis,
    short_number,
    without_legend,
)
from mlpbench.reporting.figures.canvas import INK, NEUTRAL, canvas

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def _hardware(frame: pd.DataFrame) -> "pd.Series[str]":
    """Return the device of each row, with the machine if there are several machines."""
    if len(set(frame["machine"])) > 1:
        return frame["machine"] + " " + frame["device"]
    return frame["device"]


def times(frame: pd.DataFrame, category: str) -> Figure:
    """Draw the median milliseconds per call of each category; the line spans the blocks from fastest to slowest."""
    hardware = _hardware(frame)
    names = frame[category].astype(str)
    if len(set(hardware)) > 1:
        names = names + ", " + hardware
    data = pd.DataFrame({"name": names, "ms": frame["seconds"] * 1e3})
    bars = data.groupby("name", sort=False)["ms"].agg(["median", "min", "max"]).head(MAX_ROWS).reset_index()
    labels = distinct(bars["name"])
    positions, total = row_positions(labels)
    with canvas(0.8 + total) as (figure, (axes,)):
        axes.barh(positions, bars["median"], height=0.2, color=NEUTRAL, xerr=errors(bars, "median", "min", "max"),
                  error_kw={"ecolor": INK, "elinewidth": 1.5})  # fmt: skip
        axes.grid(visible=False, axis="y")
        from_zero(axes, bars["max"])
        rows_axis(axes, positions, total, labels, "median time, with the range of blocks (ms)")
    return figure


def gains(frame: pd.DataFrame) -> Figure:
    """Draw how many times as fast as eager each engine is, a marker for each size; the line is the interval.

    The axis is logarithmic: half as fast is as far from 1 as twice as fast.
    """
    data = frame[frame["engine"] != "eager"].sort_values("gain_ratio", ascending=False)
    hardware = _hardware(data)
    size = "batch " + data["batch_size"].astype(str) + ", width " + data["width"].astype(str)
    data = data.assign(series=size + (", " + hardware if len(set(hardware)) > 1 else ""))
    engines, series = data["engine"].unique().tolist()[:MAX_ROWS], data["series"].unique().tolist()
    labels, names = distinct(engines), distinct(series, LEGEND_WIDTH)
    positions, total = row_positions(labels, least_in=0.2 + 0.12 * len(series))
    place = dict(zip(engines, positions, strict=True))
    colours = sns.color_palette("colorblind", 10)
    with canvas(0.9 + total + (legend_in(names) if len(series) > 1 else 0)) as (figure, (axes,)):
        for index, name in enumerate(series):
            part = data[(data["series"] == name) & data["engine"].isin(engines)]
            offset = 0.12 * (index - (len(series) - 1) / 2)
            axes.errorbar(
                part["gain_ratio"], [place[engine] + offset for engine in part["engine"]],
                xerr=errors(part, "gain_ratio", "low_ratio", "high_ratio"),
                fmt=_MARKERS[index % len(_MARKERS)], markersize=5, color=colours[index % 10], label=names[index],
            )  # fmt: skip
        axes.axvline(1, color=INK, linewidth=1)
        # Intervals that reach much farther than every estimate are cut at the edge of the figure.
        highest, lowest = 4 * data["gain_ratio"].max(), data["gain_ratio"].min() / 4
        bounds = [data["gain_ratio"], data["low_ratio"].clip(lower=lowest), data["high_ratio"].clip(upper=highest)]
        log_ticks(axes, "x", [1.0, *pd.concat(bounds)], factor, room=NARROW)
        rows_axis(axes, positions, total, labels, "times as fast as eager (ratio)")
        if len(series) > 1:
            legend_below(figure, axes)
    return figure


def scaling(frame: pd.DataFrame, size: str, size_label: str) -> Figure:
    """Draw milliseconds per training step over a size, both logarithmic; the band spans the blocks."""
    data = frame.assign(milliseconds=frame["seconds"] * 1e3, hardware=_hardware(frame))
    names = data["hardware"].unique().tolist()
    labels = distinct(names, LEGEND_WIDTH)
    data["hardware"] = data["hardware"].map(dict(zip(names, labels, strict=True)))
    sizes = sorted(map(float, data[size].unique()))
    is_several = len(labels) > 1
    with canvas(3.2 + (legend_in(labels) if is_several else 0)) as (figure, (axes,)):
        draw_lines(axes, data, x=size, y="milliseconds", by="hardware", estimator="median")
        axes.set(xlabel=size_label, ylabel="median time of a step (ms)")
        log_ticks(axes, "x", sizes, short_number, at=sizes)
        log_ticks(axes, "y", data["milliseconds"], short_number)
        if is_several:
            legend_below(figure, axes)
        else:
            without_legend(axes)
    return figure
