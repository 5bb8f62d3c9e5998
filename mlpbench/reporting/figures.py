"""Frames of `mlpbench.table` as figures. Every axis has a name and a unit; every estimate shows its spread."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mlpbench.reporting.curves import TUTORIAL_CURVE
from mlpbench.workload.activations import ACTIVATIONS

# Colours that report.html replaces by its light or dark theme's own.
INK, LINE = "#1b1d21", "#c8ccd2"
WIDTH_IN = 4.6  # narrow, so that the text stays readable on a phone

_STYLE: dict[str, Any] = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG on white."""
    figure.savefig(path, dpi=160, facecolor="white")


@contextlib.contextmanager
def canvas(height_in: float, num_columns: int = 1, num_rows: int = 1) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure in our style, off screen: no window, no global state left behind. The panels of a column share x."""
    with mpl.rc_context(), sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its keys are a list of literals
        sns.set_palette("colorblind")
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield figure, np.ravel(figure.subplots(num_rows, num_columns, sharex="col")).tolist()


def _where(frame: pd.DataFrame) -> "pd.Series[str]":
    """The device, with its machine where there are several."""
    if len(set(frame["machine"])) > 1:
        return frame["machine"] + " " + frame["device"]
    return frame["device"]


def times(frame: pd.DataFrame, category: str) -> Figure:
    """Median milliseconds per call for each category; the line spans the blocks from fastest to slowest."""
    data = frame.assign(milliseconds=frame["seconds"] * 1e3, where=_where(frame))
    num_bars = data[category].nunique() * data["where"].nunique()
    with canvas(0.9 + 0.3 * num_bars) as (figure, (axes,)):
        sns.barplot(
            data, x="milliseconds", y=category, hue="where", estimator="median", errorbar=("pi", 100),
            err_kws={"color": INK, "linewidth": 1.5}, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="median time, with the range of blocks (ms)", ylabel="")
        _legend(axes, data["where"].nunique())
    return figure


def gains(frame: pd.DataFrame) -> Figure:
    """How many times faster than eager each engine is, a panel of dots for every size; the line is the interval."""
    data = frame[frame["engine"] != "eager"].sort_values("gain_ratio", ascending=False)
    data = data.assign(
        size="batch " + data["batch_size"].astype(str) + ", width " + data["width"].astype(str),
        where=_where(data),
    )
    data["series"] = data["size"] + (", " + data["where"] if len(set(data["where"])) > 1 else "")
    engines, series = data["engine"].unique().tolist(), data["series"].unique().tolist()
    colours = sns.color_palette("colorblind", len(series))
    with canvas(1.3 + 0.36 * len(engines) + 0.2 * len(series)) as (figure, (axes,)):
        for index, name in enumerate(series):
            part = data[data["series"] == name]
            heights = [engines.index(engine) + 0.6 * (index + 0.5) / len(series) - 0.3 for engine in part["engine"]]
            above = (part["high_ratio"] - part["gain_ratio"]).clip(upper=1e3)  # of a single round it is infinite
            axes.errorbar(
                part["gain_ratio"], heights, xerr=[part["gain_ratio"] - part["low_ratio"], above],
                fmt="o", markersize=5, color=colours[index], label=name,
            )  # fmt: skip
        axes.axvline(1, color=INK, linewidth=1)
        axes.set(xlabel="times as fast as eager", ylabel="", ylim=(len(engines) - 0.5, -0.5), xlim=(0, None))
        axes.set_yticks(range(len(engines)), engines)
        if len(series) > 1:
            legend_below(figure, axes)
    return figure


def scaling(frame: pd.DataFrame, size: str, size_label: str) -> Figure:
    """Milliseconds per training step against a size, both logarithmic; the band spans the blocks."""
    data = frame.assign(milliseconds=frame["seconds"] * 1e3, where=_where(frame))
    with canvas(3.4) as (figure, (axes,)):
        sns.lineplot(
            data, x=size, y="milliseconds", hue="where", estimator="median", errorbar=("pi", 100), marker="o", ax=axes
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=size_label, ylabel="median time of a step (ms)")
        sizes = sorted(data[size].unique())
        axes.set_xticks(sizes, [f"{value:,}" for value in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        _legend(axes, data["where"].nunique())
    return figure


def accuracy_curves(frame: pd.DataFrame) -> Figure:
    """Mean test accuracy per epoch for each label; the band spans the seeds from worst to best."""
    with canvas(3.8 + 0.16 * frame["label"].nunique()) as (figure, (axes,)):
        sns.lineplot(
            frame.assign(epoch=frame["epoch"] + 1), x="epoch", y="test_accuracy", hue="label", errorbar=("pi", 100),
            marker="o" if frame["epoch"].max() < 20 else None, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel="test accuracy (fraction)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, axes)
    return figure


def tutorial_curve(frame: pd.DataFrame) -> Figure:
    """Accuracy per epoch of runs of the tutorial's workload on MNIST, over the tutorial's published points."""
    curves = frame.melt("epoch", ["train_accuracy", "test_accuracy"], "half", "accuracy")
    curves["half"] = curves["half"].str.removesuffix("_accuracy")
    published = pd.DataFrame(
        {"epoch": epoch, "train": point[1], "test": point[2]} for epoch, point in TUTORIAL_CURVE.items()
    )
    longest = int(frame["epoch"].max())
    published = published[published["epoch"] <= longest].melt("epoch", var_name="half", value_name="accuracy")
    with canvas(3.8) as (figure, (axes,)):
        sns.lineplot(
            curves.assign(epoch=curves["epoch"] + 1), x="epoch", y="accuracy", hue="half", errorbar=("pi", 100), ax=axes
        )  # fmt: skip
        sns.scatterplot(
            published.assign(epoch=published["epoch"] + 1, half="published, " + published["half"]),
            x="epoch", y="accuracy", style="half", color=INK, markers=["X", "o"], s=48, zorder=3, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel="accuracy (fraction)")
        if longest > 20:  # the first epochs are where the curve is
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 2, 4, 10, 30, 133) if tick <= longest + 1]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, axes)
    return figure


def training(frame: pd.DataFrame, quantity: str) -> Figure:
    """Training and test curve of one run: `loss` or `accuracy`, the tutorial's two plots."""
    curves = frame.melt("epoch", [f"train_{quantity}", f"test_{quantity}"], "half", quantity)
    curves["half"] = curves["half"].str.removesuffix(f"_{quantity}")
    unit = {"loss": "cross-entropy (nats per sample)", "accuracy": "accuracy (fraction)"}[quantity]
    with canvas(3.4) as (figure, (axes,)):
        marker = "o" if frame["epoch"].max() < 20 else None
        sns.lineplot(
            curves.assign(epoch=curves["epoch"] + 1), x="epoch", y=quantity, hue="half", marker=marker, ax=axes
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(title="")
    return figure


def time_to_accuracy(frame: pd.DataFrame, target: float) -> Figure:
    """Training seconds to the target, a point per seed; the labels say how many seeds missed it."""
    counts = frame.groupby("label", sort=False)["seconds_to_target"].agg(["count", "size"])
    names = {label: f"{label}\n{row['count']} of {row['size']} seeds" for label, row in counts.iterrows()}
    data = frame.assign(name=frame["label"].map(names))
    with canvas(1.0 + 0.55 * len(names)) as (figure, (axes,)):
        sns.stripplot(data, x="seconds_to_target", y="name", hue="name", jitter=False, size=7, alpha=0.7, ax=axes)
        axes.set(xlabel=f"training time to {target:.0%} (s)", ylabel="")
        slowest = data["seconds_to_target"].max()
        axes.set_xlim(0, 1 if pd.isna(slowest) else 1.1 * slowest)
    return figure


def activation_functions() -> Figure:
    """The activation functions and their derivatives."""
    x = np.linspace(-4, 4, 321)
    frame = pd.DataFrame(
        {"x": x, "activation": name, "value": entry.formula(x)[0], "derivative": entry.formula(x)[1]}
        for name, entry in ACTIVATIONS.items()
        if name == entry.function
    ).explode(["x", "value", "derivative"])
    frame = frame.astype({"x": float, "value": float, "derivative": float})
    with canvas(3.6, num_columns=2) as (figure, panels):
        for axes, column, name in zip(panels, ["value", "derivative"], ["f(x)", "f′(x)"], strict=True):
            sns.lineplot(frame, x="x", y=column, hue="activation", linewidth=1.3, ax=axes)
            axes.set(xlabel="x (dimensionless)", ylabel=f"{name} (dimensionless)")
        legend_below(figure, panels[0], num_columns=4)
        _without_legend(panels[1])
    return figure


def forest(frame: pd.DataFrame) -> Figure:
    """Ratio of new to base with its interval, a line per comparison; the grey bar is the margin that does not count."""
    colours = {"slower": "#d55e00", "worse": "#d55e00", "faster": "#029e73", "better": "#029e73", "same": "#0173b2"}
    with canvas(1.1 + 0.3 * len(frame)) as (figure, (axes,)):
        for place, row in enumerate(frame.to_dict("records")):
            axes.barh(place, row["margin_ratio"] - 1 / row["margin_ratio"], left=1 / row["margin_ratio"], height=0.7,
                      color=LINE, alpha=0.5, linewidth=0)  # fmt: skip
            colour = colours.get(row["verdict"], INK)
            axes.plot([row["low_ratio"], row["high_ratio"]], [place, place], color=colour, linewidth=1.5)
            axes.plot(row["ratio"], place, "o", color=colour, markersize=6)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame)), [f"{r['benchmark']}: {r['verdict']}" for r in frame.to_dict("records")])
        axes.invert_yaxis()
        shown = frame[["ratio", "margin_ratio"]].to_numpy().ravel().tolist()
        far = max(max(value, 1 / value) for value in shown)
        bounds = [b for b in frame[["low_ratio", "high_ratio"]].to_numpy().ravel() if 1 / far**2 < b < far**2]
        far = 1.02 * max(max(value, 1 / value) for value in [*bounds, far])
        axes.set(xscale="log", xlim=(1 / far, far), xlabel="new over base (ratio; below 1 is less)", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:.3g}")
    return figure


def _legend(axes: Axes, num_entries: int) -> None:
    """A legend says nothing where there is one colour."""
    if num_entries < 2:
        _without_legend(axes)
    else:
        axes.legend(title="")


def legend_below(figure: Figure, axes: Axes, num_columns: int = 1) -> None:
    """The legend under the panels, where long names have room."""
    handles, names = axes.get_legend_handles_labels()
    _without_legend(axes)
    figure.legend(handles, names, loc="outside lower center", ncols=num_columns)


def _without_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
