"""Draw the times of benchmarks over commits."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlpbench.reporting.figures.axes import legend_in, log_ticks, short_number
from mlpbench.reporting.figures.canvas import BAD, INK, NEUTRAL, canvas, wrapped

_COMMIT_WIDTH = 14
_TITLE_WIDTH = 50


def history(points: pd.DataFrame) -> Figure:
    """Draw a panel per benchmark: its time by commit over that of its first segment, and the control workload.

    The frame is that of `sections.history.frame`.
    """
    columns = ["day", "commit", "torch"]
    data = points.assign(day=points["started_at"].str[:10])
    order = data.groupby(columns)["started_at"].min().sort_values(kind="stable")
    position = {point: number for number, point in enumerate(order.index)}
    series = [part for _, part in data.groupby(["machine", "benchmark"], sort=False)]
    is_one_machine = len(set(data["machine"])) == 1
    titles = [
        wrapped(f"{'' if is_one_machine else part['machine'].iloc[0] + ' '}{part['benchmark'].iloc[0]}", _TITLE_WIDTH)
        for part in series
    ]
    height_in = 1.7 + sum(0.95 + legend_in([title]) - 0.1 for title in titles)
    with canvas(height_in, num_rows=len(series)) as (figure, panels):
        for axes, part, title in zip(panels, series, titles, strict=True):
            _panel(axes, part, [position[key] for key in part[columns].itertuples(index=False, name=None)])
            axes.set_title(title, loc="left", fontsize="small")
        ticks = np.unique(np.linspace(0, len(order) - 1, 3).round().astype(int))
        labels = [f"{order.index[tick][0]}\n{wrapped(order.index[tick][1], _COMMIT_WIDTH)}" for tick in ticks]
        panels[-1].set_xticks(ticks, labels)
        panels[-1].set_xlabel("day and commit, in order")
        figure.supylabel("time over the first segment (ratio)", fontsize="small")
        handles = {name: h for axes in panels for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _panel(axes: Axes, part: pd.DataFrame, x: Sequence[int]) -> None:
    ratio = part[["median_s", "low_s", "high_s", "level_s"]] / part["level_s"].iloc[0]
    values = [0.95, 1.05, *ratio.to_numpy().ravel()]
    if part["control_s"].notna().all():
        is_first = ~part["is_change"].cummax()
        control = part["control_s"] / part["control_s"][is_first].median()
        axes.plot(x, control, "--", color=INK, linewidth=0.8, alpha=0.6, label="control workload")
        values += control.tolist()
    axes.vlines(x, ratio["low_s"], ratio["high_s"], linewidth=1.5, alpha=0.5)
    axes.plot(x, ratio["median_s"], "o", markersize=4, label="median of a commit, with its range")
    axes.step(x, ratio["level_s"], where="post", color=NEUTRAL, linewidth=1, label="segment")
    changes = np.array(x)[part["is_change"]]
    for index, position in enumerate(changes):
        axes.axvline(position, color=BAD, linewidth=1.2, linestyle=":", label="" if index else "change")
    log_ticks(axes, "y", values, short_number)
    # A panel has room for a few labels only.
    ticks = axes.get_yticks()
    axes.set_yticks(ticks[:: -(-len(ticks) // 4)])
