"""Draw training runs: their curves, the tutorial's published points, and the time to a target.

Every figure has a title with data set, model, optimizer and epochs, because pictures are sent without their page.
"""

import math
from collections.abc import Iterable

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mlpbench.reporting.curves import TUTORIAL_CURVE, description
from mlpbench.reporting.figures.axes import (
    LEGEND_WIDTH,
    MAX_ROWS,
    distinct,
    draw_lines,
    from_zero,
    legend_below,
    legend_in,
    line_looks,
    row_positions,
    rows_axis,
    short_number,
    whole_ticks,
)
from mlpbench.reporting.figures.canvas import INK, canvas, set_title, title_in

MAX_LINES = 24
"""The lines that a figure of curves shows at most."""
_UNITS = {"loss": "cross-entropy\n(nats per sample)", "accuracy": "accuracy (fraction)"}


def label_curves(frame: pd.DataFrame, quantity: str) -> Figure:
    """Draw the mean of `loss` or `accuracy` on the test set per epoch of each label; the band spans the seeds."""
    names = frame["label"].unique().tolist()
    best = frame.groupby("label")["test_accuracy"].max().sort_values(ascending=False).index[:MAX_LINES]
    chosen = [name for name in names if name in set(best)]
    labels = distinct(chosen, LEGEND_WIDTH)
    data = frame[frame["label"].isin(chosen)]
    data = data.assign(epoch=data["epoch"] + 1, label=data["label"].map(dict(zip(chosen, labels, strict=True))))
    rest = len(names) - len(chosen)
    more = f"; the {MAX_LINES} most accurate, {rest} more in the table" if rest else ""
    title = f"Test {quantity}: {description(frame)}{more}"
    with canvas(2.9 + title_in(title) + legend_in(labels)) as (figure, (axes,)):
        draw_lines(axes, data, x="epoch", y=f"test_{quantity}", by="label")
        _axes_of(axes, data["epoch"], data[f"test_{quantity}"], f"test {_UNITS[quantity]}")
        set_title(figure, title)
        legend_below(figure, axes)
    return figure


def accuracy_curves(frame: pd.DataFrame) -> Figure:
    """Draw the mean test accuracy per epoch of each label; the band spans the seeds from worst to best."""
    return label_curves(frame, "accuracy")


def _axes_of(axes: Axes, epochs: Iterable[float], values: "pd.Series[float]", label: str) -> None:
    """Name the axes of a curve over epochs, with whole ticks; losses that span a thousandfold are logarithmic."""
    axes.set(xlabel="epochs of training", ylabel=label)
    finite = values[[math.isfinite(value) for value in values]]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 1e3:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    whole_ticks(axes, epochs)


def tutorial_curve(frame: pd.DataFrame) -> Figure:
    """Draw the accuracy per epoch of the tutorial's workload on MNIST, with the points that the tutorial published."""
    curves = frame.melt("epoch", ["train_accuracy", "test_accuracy"], "part", "accuracy")
    curves["part"] = curves["part"].str.removesuffix("_accuracy") + "ing set"
    curves["part"] = curves["part"].replace("testing set", "test set")
    published = pd.DataFrame(
        {"epoch": epoch, "training set": point[1], "test set": point[2]} for epoch, point in TUTORIAL_CURVE.items()
    )
    longest = int(frame["epoch"].max())
    published = published[published["epoch"] <= longest].melt("epoch", var_name="part", value_name="accuracy")
    title = f"Accuracy: {description(frame)}"
    with canvas(3.5 + title_in(title)) as (figure, (axes,)):
        draw_lines(axes, curves.assign(epoch=curves["epoch"] + 1), x="epoch", y="accuracy", by="part")
        sns.scatterplot(
            published.assign(epoch=published["epoch"] + 1, part="published, " + published["part"]),
            x="epoch", y="accuracy", style="part", color=INK, markers=["X", "o"], s=48, zorder=3, ax=axes,
        )  # fmt: skip
        _axes_of(axes, curves["epoch"] + 1, curves["accuracy"], "accuracy (fraction)")
        if longest > 20:
            # Accuracy changes most in the first epochs, so they get the room.
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 2, 4, 10, 30, 133) if tick <= longest + 1]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        set_title(figure, title)
        legend_below(figure, axes)
    return figure


def training(frame: pd.DataFrame, quantity: str) -> Figure:
    """Draw one of the tutorial's two plots: `loss` or `accuracy` of a run, on its training set and its test set."""
    curves = frame.melt("epoch", [f"train_{quantity}", f"test_{quantity}"], "part", quantity)
    names = {f"train_{quantity}": "training set", f"test_{quantity}": "test set"}
    curves = curves.assign(epoch=curves["epoch"] + 1, part=curves["part"].map(names))
    title = f"{quantity.capitalize()}: {description(frame)}"
    with canvas(3.2 + title_in(title)) as (figure, (axes,)):
        draw_lines(axes, curves, x="epoch", y=quantity, by="part")
        _axes_of(axes, curves["epoch"], curves[quantity], _UNITS[quantity])
        set_title(figure, title)
        legend_below(figure, axes, num_columns=2)
    return figure


def time_to_accuracy(frame: pd.DataFrame, target: float) -> Figure:
    """Draw the training seconds to the target, a point per seed; the labels say how many seeds reached it."""
    counts = frame.groupby("label", sort=False)["seconds_to_target"].agg(["count", "size"]).head(MAX_ROWS)
    names = counts.index.tolist()
    labels = [
        f"{label}\n{row['count']} of {row['size']} seed{'s' if row['size'] > 1 else ''}"
        for label, (_, row) in zip(distinct(names), counts.iterrows(), strict=True)
    ]
    positions, total = row_positions(labels)
    looks = line_looks(names)
    title = f"Time to {target:.0%} test accuracy: {description(frame)}"
    with canvas(0.9 + total + title_in(title)) as (figure, (axes,)):
        for name, position in zip(names, positions, strict=True):
            seconds = frame.loc[frame["label"] == name, "seconds_to_target"].dropna()
            axes.plot(seconds, [position] * len(seconds), looks["markers"][name], color=looks["palette"][name],
                      markersize=7, alpha=0.7)  # fmt: skip
        from_zero(axes, frame["seconds_to_target"].dropna())
        axes.xaxis.set_major_locator(MaxNLocator(5))
        rows_axis(axes, positions, total, labels, f"training time to {target:.0%} (s)")
        set_title(figure, title)
    return figure
