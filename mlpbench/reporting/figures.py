"""Draw frames as figures. Every axis has a name and a unit; every estimate shows its spread."""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mlpbench.judging.metrics import Verdict
from mlpbench.reporting.curves import TUTORIAL_CURVE
from mlpbench.workload.activations import ACTIVATIONS

INK, LINE = "#1b1d21", "#c8ccd2"
"""Colours that report.html replaces by those of its light or dark theme."""
BAD, GOOD, NEUTRAL = "#d55e00", "#029e73", "#0173b2"
"""Colours of lines and points, from the palette for colour-blind readers."""
EQUAL, DIVERGED, ON_COLOUR = "#8fd0b5", "#f0b48a", "#101010"
"""Colours of areas, and of text on them in the light and the dark page."""
_VERDICT_COLOURS = {
    Verdict.SLOWER: BAD,
    Verdict.WORSE: BAD,
    Verdict.FASTER: GOOD,
    Verdict.BETTER: GOOD,
    Verdict.SAME: NEUTRAL,
    Verdict.INCONCLUSIVE: INK,
}
WIDTH_IN = 4.6
"""The width of a figure in inches; narrow, so that its text stays readable on a phone."""

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


def png(figure: Figure) -> bytes:
    """Return a figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


@contextlib.contextmanager
def canvas(height_in: float, num_columns: int = 1, num_rows: int = 1) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Make a figure in the style of the report, without a window. The panels of a column share their x axis.

    The style is undone at the end, so that no global setting changes.
    """
    with mpl.rc_context(), sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        # matplotlib types the keys as a list of literals.
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]
        sns.set_palette("colorblind")
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield figure, np.ravel(figure.subplots(num_rows, num_columns, sharex="col")).tolist()


def _hardware(frame: pd.DataFrame) -> "pd.Series[str]":
    """Return the device of each row, with the machine if there are several machines."""
    if len(set(frame["machine"])) > 1:
        return frame["machine"] + " " + frame["device"]
    return frame["device"]


def times(frame: pd.DataFrame, category: str) -> Figure:
    """Draw the median milliseconds per call of each category; the line spans the blocks from fastest to slowest."""
    data = frame.assign(milliseconds=frame["seconds"] * 1e3, hardware=_hardware(frame))
    num_bars = data[category].nunique() * data["hardware"].nunique()
    with canvas(0.9 + 0.3 * num_bars) as (figure, (axes,)):
        sns.barplot(
            data, x="milliseconds", y=category, hue="hardware", estimator="median", errorbar=("pi", 100),
            err_kws={"color": INK, "linewidth": 1.5}, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="median time, with the range of blocks (ms)", ylabel="")
        _legend(axes, data["hardware"].nunique())
    return figure


def gains(frame: pd.DataFrame) -> Figure:
    """Draw how many times as fast as eager each engine is, a colour for each size; the line is the interval."""
    data = frame[frame["engine"] != "eager"].sort_values("gain_ratio", ascending=False)
    data = data.assign(
        size="batch " + data["batch_size"].astype(str) + ", width " + data["width"].astype(str),
        hardware=_hardware(data),
    )
    data["series"] = data["size"] + (", " + data["hardware"] if len(set(data["hardware"])) > 1 else "")
    engines, series = data["engine"].unique().tolist(), data["series"].unique().tolist()
    colours = sns.color_palette("colorblind", len(series))
    with canvas(1.3 + 0.36 * len(engines) + 0.2 * len(series)) as (figure, (axes,)):
        for index, name in enumerate(series):
            part = data[data["series"] == name]
            heights = [engines.index(engine) + 0.6 * (index + 0.5) / len(series) - 0.3 for engine in part["engine"]]
            # The interval of a single round is infinite, and matplotlib draws only finite ones.
            above = (part["high_ratio"] - part["gain_ratio"]).clip(upper=1e3)
            axes.errorbar(
                part["gain_ratio"], heights, xerr=[part["gain_ratio"] - part["low_ratio"], above],
                fmt="o", markersize=5, color=colours[index], label=name,
            )  # fmt: skip
        axes.axvline(1, color=INK, linewidth=1)
        axes.set(xlabel="times as fast as eager", ylabel="", ylim=(len(engines) - 0.5, -0.5), xlim=(0, None))
        axes.set_yticks(range(len(engines)), engines)
        if len(series) > 1:
            _legend_below(figure, axes)
    return figure


def scaling(frame: pd.DataFrame, size: str, size_label: str) -> Figure:
    """Draw milliseconds per training step over a size, both logarithmic; the band spans the blocks."""
    data = frame.assign(milliseconds=frame["seconds"] * 1e3, hardware=_hardware(frame))
    with canvas(3.4) as (figure, (axes,)):
        sns.lineplot(
            data, x=size, y="milliseconds", hue="hardware", estimator="median", errorbar=("pi", 100), marker="o",
            ax=axes,
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=size_label, ylabel="median time of a step (ms)")
        sizes = sorted(data[size].unique())
        axes.set_xticks(sizes, [f"{value:,}" for value in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        _legend(axes, data["hardware"].nunique())
    return figure


def accuracy_curves(frame: pd.DataFrame) -> Figure:
    """Draw the mean test accuracy per epoch of each label; the band spans the seeds from worst to best."""
    with canvas(3.8 + 0.16 * frame["label"].nunique()) as (figure, (axes,)):
        sns.lineplot(
            frame.assign(epoch=frame["epoch"] + 1), x="epoch", y="test_accuracy", hue="label", errorbar=("pi", 100),
            marker="o" if frame["epoch"].max() < 20 else None, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel="test accuracy (fraction)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_below(figure, axes)
    return figure


def tutorial_curve(frame: pd.DataFrame) -> Figure:
    """Draw the accuracy per epoch of the tutorial's workload on MNIST, with the points that the tutorial published."""
    curves = frame.melt("epoch", ["train_accuracy", "test_accuracy"], "part", "accuracy")
    curves["part"] = curves["part"].str.removesuffix("_accuracy")
    published = pd.DataFrame(
        {"epoch": epoch, "train": point[1], "test": point[2]} for epoch, point in TUTORIAL_CURVE.items()
    )
    longest = int(frame["epoch"].max())
    published = published[published["epoch"] <= longest].melt("epoch", var_name="part", value_name="accuracy")
    with canvas(3.8) as (figure, (axes,)):
        sns.lineplot(
            curves.assign(epoch=curves["epoch"] + 1), x="epoch", y="accuracy", hue="part", errorbar=("pi", 100), ax=axes
        )  # fmt: skip
        sns.scatterplot(
            published.assign(epoch=published["epoch"] + 1, part="published, " + published["part"]),
            x="epoch", y="accuracy", style="part", color=INK, markers=["X", "o"], s=48, zorder=3, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel="accuracy (fraction)")
        if longest > 20:
            # Accuracy changes most in the first epochs, so they get the room.
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 2, 4, 10, 30, 133) if tick <= longest + 1]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_below(figure, axes)
    return figure


def training(frame: pd.DataFrame, quantity: str) -> Figure:
    """Draw one of the tutorial's two plots: `loss` or `accuracy` of a run, on its training set and its test set."""
    curves = frame.melt("epoch", [f"train_{quantity}", f"test_{quantity}"], "part", quantity)
    curves["part"] = curves["part"].str.removesuffix(f"_{quantity}")
    unit = {"loss": "cross-entropy (nats per sample)", "accuracy": "accuracy (fraction)"}[quantity]
    with canvas(3.4) as (figure, (axes,)):
        marker = "o" if frame["epoch"].max() < 20 else None
        sns.lineplot(
            curves.assign(epoch=curves["epoch"] + 1), x="epoch", y=quantity, hue="part", marker=marker, ax=axes
        )  # fmt: skip
        axes.set(xlabel="epochs of training", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(title="")
    return figure


def time_to_accuracy(frame: pd.DataFrame, target: float) -> Figure:
    """Draw the training seconds to the target, a point per seed; the labels say how many seeds reached it."""
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
    """Draw the activation functions and their derivatives."""
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
        _legend_below(figure, panels[0], num_columns=4)
        _without_legend(panels[1])
    return figure


def forest(frame: pd.DataFrame) -> Figure:
    """Draw the change of each comparison with its interval; changes within the margin, the grey bar, do not matter.

    Columns of the frame: benchmark, verdict; ratio, low_ratio, high_ratio and margin_ratio, all NEW over BASE.
    """
    rows = frame.to_dict("records")
    with canvas(1.1 + 0.3 * len(frame)) as (figure, (axes,)):
        for height, row in enumerate(rows):
            axes.barh(height, row["margin_ratio"] - 1 / row["margin_ratio"], left=1 / row["margin_ratio"], height=0.7,
                      color=LINE, alpha=0.5, linewidth=0)  # fmt: skip
            colour = _VERDICT_COLOURS[row["verdict"]]
            axes.plot([row["low_ratio"], row["high_ratio"]], [height, height], color=colour, linewidth=1.5)
            axes.plot(row["ratio"], height, "o", color=colour, markersize=6)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame)), [f"{row['benchmark']}: {row['verdict']}" for row in rows])
        axes.invert_yaxis()
        # Intervals that reach much farther than every estimate are cut at the edge of the figure.
        estimates = frame[["ratio", "margin_ratio"]].to_numpy().ravel().tolist()
        reach = max(max(value, 1 / value) for value in estimates)
        bounds = frame[["low_ratio", "high_ratio"]].to_numpy().ravel()
        near = [bound for bound in bounds if 1 / reach**2 < bound < reach**2]
        reach = 1.02 * max(max(value, 1 / value) for value in [*near, reach])
        axes.set(xscale="log", xlim=(1 / reach, reach), xlabel="change from BASE to NEW (%)", ylabel="")
        # With these steps one of the ticks is at no change.
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(lambda ratio, _: f"{100 * (ratio - 1):+.3g}")
    return figure


def history(points: pd.DataFrame) -> Figure:
    """Draw a panel per benchmark: its time by commit over that of its first segment, and the control workload.

    The frame is that of `sections.history.frame`.
    """
    columns = ["day", "commit", "torch"]
    data = points.assign(day=points["started_at"].str[:10])
    order = data.groupby(columns)["started_at"].min().sort_values(kind="stable")
    position = {point: number for number, point in enumerate(order.index)}
    series = [part for _, part in data.groupby(["machine", "benchmark"], sort=False)]
    with canvas(1.1 + 1.05 * len(series), num_rows=len(series)) as (figure, panels):
        for axes, part in zip(panels, series, strict=True):
            _history_panel(axes, part, [position[key] for key in part[columns].itertuples(index=False, name=None)])
            name = part["benchmark"].iloc[0]
            title = name if len(set(data["machine"])) == 1 else f"{part['machine'].iloc[0]} {name}"
            axes.set_title(textwrap.fill(title, 60), loc="left", fontsize="small")
        ticks = np.unique(np.linspace(0, len(order) - 1, 4).round().astype(int))
        panels[-1].set_xticks(ticks, ["\n".join(order.index[tick][:2]) for tick in ticks])
        panels[-1].set_xlabel("day and commit, in order")
        figure.supylabel("time over that of the first segment (ratio)", fontsize="small")
        handles = {name: h for axes in panels for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _history_panel(axes: Axes, part: pd.DataFrame, x: Sequence[int]) -> None:
    ratio = part[["median_s", "low_s", "high_s", "level_s"]] / part["level_s"].iloc[0]
    if part["control_s"].notna().all():
        is_first = ~part["is_change"].cummax()
        control = part["control_s"] / part["control_s"][is_first].median()
        axes.plot(x, control, "--", color=INK, linewidth=0.8, alpha=0.6, label="control workload")
    axes.vlines(x, ratio["low_s"], ratio["high_s"], linewidth=1.5, alpha=0.5)
    axes.plot(x, ratio["median_s"], "o", markersize=4, label="median of a commit, with its range")
    axes.step(x, ratio["level_s"], where="post", color=NEUTRAL, linewidth=1, label="segment")
    for position in np.array(x)[part["is_change"]]:
        axes.axvline(position, color=BAD, linewidth=1.2)
    axes.set(yscale="log", ylim=(min(0.95, *axes.get_ylim()), max(1.05, *axes.get_ylim())))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:.3g}")


def equality_matrix(names: Sequence[str], stages: Mapping[tuple[str, str], str | None]) -> Figure:
    """Draw every environment against each other.

    Args:
        names: the environments.
        stages: for each pair of names the first stage that differs; empty: equal bits; None: not compared.
    """
    shades = [[np.nan if stages[a, b] is None else float(bool(stages[a, b])) for b in names] for a in names]
    words = np.array([[_step_of(stages[a, b]) for b in names] for a in names])
    with canvas(1.6 + 0.36 * len(names)) as (figure, (axes,)):
        sns.heatmap(
            np.array(shades), mask=np.isnan(shades), annot=words, fmt="", cmap=[EQUAL, DIVERGED], vmin=0, vmax=1,
            cbar=False, linewidths=1, annot_kws={"color": ON_COLOUR, "fontsize": 7}, ax=axes,
        )  # fmt: skip
        numbers = [str(index + 1) for index in range(len(names))]
        axes.set_xticklabels(numbers)
        axes.set_yticklabels(numbers, rotation=0)
        axes.set(xlabel="environment", ylabel="environment")
        axes.grid(visible=False)
    return figure


def _step_of(stage: str | None) -> str:
    """Return the step of a stage, or the first word of a stage before the first step; `=` for equal bits."""
    if not stage:
        return "" if stage is None else "="
    words = stage.split(" ")
    return f"{words[0]} {words[1]}" if words[0] == "step" else words[0]


def drift(frame: pd.DataFrame) -> Figure:
    """Draw the relative difference of parameters over steps, a line for each environment; both axes are logarithmic."""
    data = frame[frame["relative_norm"] > 0].assign(after=lambda part: part["step"] + 1)
    # A line of the legend has the width of a phone.
    data["place"] = [textwrap.fill(place, 42) for place in data["place"]]
    num_lines = sum(place.count("\n") + 1 for place in data["place"].unique())
    with canvas(2.9 + 0.2 * num_lines) as (figure, (axes,)):
        sns.lineplot(data, x="after", y="relative_norm", hue="place", marker="o", ax=axes)
        axes.set(xscale="log", yscale="log", xlabel="steps of training", ylabel="relative difference (norm)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        _legend_below(figure, axes)
    return figure


def _legend(axes: Axes, num_entries: int) -> None:
    """Show the legend inside the panel, unless there is only one colour."""
    if num_entries < 2:
        _without_legend(axes)
    else:
        axes.legend(title="")


def _legend_below(figure: Figure, axes: Axes, num_columns: int = 1) -> None:
    """Show the legend under the panels, where long names have room."""
    handles, names = axes.get_legend_handles_labels()
    _without_legend(axes)
    figure.legend(handles, names, loc="outside lower center", ncols=num_columns)


def _without_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
