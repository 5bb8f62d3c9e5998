"""Results over dates and commits, with the points at which a benchmark changed.

A point is one commit and stack on one day. It says when a level began, not why, and is no verdict: `mlpbench.compare`
judges whether two commits differ.
"""

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mlpbench.judging import evidence
from mlpbench.judging.change_points import change_points
from mlpbench.records.results import Results
from mlpbench.reporting import figures
from mlpbench.reporting.section import Part, ReportData, Section

MAX_PANELS = 12
_SERIES = ["machine", "benchmark"]
_POINT = [*_SERIES, "day", "commit", "torch", "stack"]

_TEXT = (
    "Each point is a commit on a day: the median over its processes, with their range, relative to the first level. A "
    "vertical line marks where a new level begins: a change of at least 3 % that lasts for two points, or so "
    "large a one of the last point that noise does not explain it. Where all points have a control workload of one "
    "stack (dashed), changes are those of the time relative to it: what moves both is the machine. The table has the "
    "last change of each benchmark. What changed between two points cannot be told apart."
)


def frame(results: Results) -> pd.DataFrame:
    """A row per point of every benchmark that has two, by machine, benchmark and time.

    Columns: machine, benchmark, started_at (of the first process), commit, torch, median_s (over processes' medians),
    low_s, high_s, num_processes, control_s (NaN: it did not run), level_s, is_change (a new level begins), change (of
    that level against the one before; NaN elsewhere). A commit of changed source ends in -dirty.

    A change of the machine's speed is none of the benchmark: where every point has a control and all have one stack,
    levels are found, and `change` is computed, on the time relative to the control. `level_s` is in seconds all the
    same, the median of the points' own.
    """
    sessions = [session for session in results.sessions.values() if not session.side]
    rows = [
        {
            "machine": session.environment.machine,
            "benchmark": benchmark,
            "day": session.started_at[:10],
            "commit": session.environment.commit + ("-dirty" if session.environment.dirty else ""),
            "torch": session.environment.torch,
            "stack": str(evidence.environment_fields(session.environment)),
            "session": session.id,
            "started_at": session.started_at,
            "seconds": sample.value,
            "control_s": math.nan if sample.control_s is None else sample.control_s,
        }
        for (_, benchmark), entries in evidence.times(results, sessions).items()
        for session, _, sample in entries
    ]
    if not rows:
        return pd.DataFrame()
    processes = pd.DataFrame(rows).groupby([*_POINT, "session", "started_at"], as_index=False).median()
    points = processes.groupby(_POINT, as_index=False).agg(
        started_at=("started_at", "min"),
        median_s=("seconds", "median"),
        low_s=("seconds", "min"),
        high_s=("seconds", "max"),
        num_processes=("session", "nunique"),
        control_s=("control_s", "median"),
    )
    points = points.sort_values([*_SERIES, "started_at"], kind="stable")
    points = points[points.groupby(_SERIES)["day"].transform("size") > 1]
    series = [_with_levels(part) for _, part in points.groupby(_SERIES)]
    return pd.concat(series, ignore_index=True).drop(columns=["day", "stack"]) if series else pd.DataFrame()


def _with_levels(points: pd.DataFrame) -> pd.DataFrame:
    """The points of one benchmark on one machine, with its levels. Another stack is another control workload."""
    has_control = points["control_s"].notna().all() and len(set(points["stack"])) == 1
    relative = points["median_s"] / points["control_s"] if has_control else points["median_s"]
    is_change = pd.Series(np.isin(np.arange(len(points)), change_points(relative.tolist())), index=points.index)
    level = is_change.cumsum()
    medians = relative.groupby(level).transform("median")
    return points.assign(
        level_s=points["median_s"].groupby(level).transform("median"),
        is_change=is_change,
        change=(medians / medians.shift() - 1).where(is_change),
    )


def make(data: ReportData) -> Part:
    """The history, or nothing where no benchmark has two points."""
    points = frame(data.results)
    if points.empty:
        return Part()
    rows = pd.DataFrame(_row(part) for _, part in points.groupby(_SERIES))
    rows = rows.sort_values("change", key=abs, ascending=False, na_position="last", kind="stable", ignore_index=True)
    drawn = rows.head(MAX_PANELS)[_SERIES]
    more = f" The figure has those that changed most; {rest} are not drawn." if (rest := len(rows) - len(drawn)) else ""
    changed = rows[rows["num_changes"] > 0].to_dict("records")
    told = [f"{r['benchmark']} {r['change']:+.1%} on {r['changed_on']} at {r['changed_at']}" for r in changed]
    told.append(f"{len(rows) - len(changed)} without a change")
    return Part(
        sections=(
            Section(
                name="history",
                title="History",
                text=_TEXT + more,
                frame=rows,
                figure=figure(drawn.merge(points, on=_SERIES)),
                alt=f"Time of each benchmark by commit, relative to its first level: {'; '.join(told)}.",
            ),
        )
    )


def _row(points: pd.DataFrame) -> dict[str, object]:
    places = np.flatnonzero(points["is_change"])
    latest = points.iloc[-1]
    row = {
        **latest[[*_SERIES, "median_s", "level_s"]].rename({"median_s": "latest_s"}),
        "change": math.nan,
        "changed_on": None,
        "changed_at": None,
        "num_changes": len(places),
        "num_points": len(points),
    }
    if len(places):
        before, here = points.iloc[places[-1] - 1], points.iloc[places[-1]]
        stack = f", torch {here['torch']}" if here["torch"] != before["torch"] else ""
        row |= {"change": here["change"], "changed_on": here["started_at"][:10], "changed_at": here["commit"] + stack}
    return row


def figure(points: pd.DataFrame) -> Figure:
    """A panel per benchmark: time relative to its first level by commit, its levels, and the control workload."""
    columns = _POINT[2:5]
    data = points.assign(day=points["started_at"].str[:10])
    order = data.groupby(columns)["started_at"].min().sort_values(kind="stable")
    place = {point: number for number, point in enumerate(order.index)}
    series = [part for _, part in data.groupby(_SERIES, sort=False)]
    with figures.canvas(1.1 + 1.05 * len(series), num_rows=len(series)) as (drawn, panels):
        for axes, part in zip(panels, series, strict=True):
            x = [place[point] for point in part[columns].itertuples(index=False, name=None)]
            ratio = part[["median_s", "low_s", "high_s", "level_s"]] / part["level_s"].iloc[0]
            if part["control_s"].notna().all():
                control = part["control_s"] / part["control_s"][~part["is_change"].cummax()].median()
                axes.plot(x, control, "--", color=figures.INK, linewidth=0.8, alpha=0.6, label="control workload")
            axes.vlines(x, ratio["low_s"], ratio["high_s"], linewidth=1.5, alpha=0.5)
            axes.plot(x, ratio["median_s"], "o", markersize=4, label="median of a commit, with its range")
            axes.step(x, ratio["level_s"], where="post", color="C0", linewidth=1, label="level")
            for number in np.array(x)[part["is_change"]]:
                axes.axvline(number, color="#d55e00", linewidth=1.2)
            names = part[_SERIES if len(set(data["machine"])) > 1 else ["benchmark"]].iloc[0]
            axes.set_title(textwrap.fill(" ".join(names), 60), loc="left", fontsize="small")
            axes.set(yscale="log", ylim=(min(0.95, *axes.get_ylim()), max(1.05, *axes.get_ylim())))
            axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter("{x:.3g}")
        ticks = np.unique(np.linspace(0, len(order) - 1, 4).round().astype(int))
        panels[-1].set_xticks(ticks, ["\n".join(order.index[tick][:2]) for tick in ticks])
        panels[-1].set_xlabel("day and commit, in order")
        drawn.supylabel("time relative to the first level (ratio)", fontsize="small")
        handles = {name: h for axes in panels for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawn.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize="small")
    return drawn
