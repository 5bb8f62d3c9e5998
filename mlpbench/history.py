"""Results over dates and commits, with the points at which a benchmark changed.

A point is one commit and stack on one day. It says when a level began, not why, and is no verdict: `mlpbench.compare`
judges whether two commits differ.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mlpbench import plot, samples
from mlpbench.sections import Section
from mlpbench.store import Results

MAX_PANELS = 12
_SERIES = ["machine", "benchmark"]
_POINT = [*_SERIES, "day", "commit", "torch", "stack"]
# Tried on series of 4 to 100 points without a change: about one in a hundred or fewer gets one, in normal noise and in
# Student's with 3 degrees of freedom.
_STRENGTH, _SMALL_SAMPLE = 3.0, 4.0
_TEXT = (
    "Each point is a commit on a day: the median over its processes, with their range, relative to the first level. A "
    "vertical line marks where a new level begins: a change of at least 3 % that lasts for two points, or so "
    "large a one of the last point that noise does not explain it. Where all points have a control workload of one "
    "stack (dashed), changes are those of the time relative to it: what moves both is the machine. The table has the "
    "last change of each benchmark. What changed between two points cannot be told apart."
)


def change_points(values: Sequence[float], margin_ratio: float = 1.03) -> list[int]:
    """Indices at which a new level begins; the values are positive, in order of time.

    The piecewise constant fit of the log values that minimises the absolute deviations plus a penalty per change. The
    penalty is 3 ln(n) times the noise: the median absolute successive difference, which a change hardly moves, over
    0.954, which makes it the standard deviation of normal noise, times 1 + 4/n, since few points may agree by chance.
    The penalty is at least ln(margin), and neighbouring levels within the margin are joined, the closest first.

    A level has two points or more, so that an outlier is none. The exception is the last point, which would else be
    told only with the next one: alone it is a level at twice the penalty, that is, 6 ln(n) times the noise away.
    But for that point, and for exact ties, the result does not depend on the direction of time.

    Cost: O(n^2) time and n^2 bytes.
    Source: F. Friedrich, A. Kempe, V. Liebscher and G. Winkler, Complexity Penalized M-Estimation: Fast Computation,
    2008; M. Storath, A. Weinmann and M. Unser, Jump-Penalized Least Absolute Values Estimation of Scalar or
    Circle-Valued Signals, 2017. The functional (L1 Potts) is that of airspeed velocity's step detection.

    >>> change_points([1.0, 1.01, 1.0, 1.02, 1.5, 1.51, 1.5])
    [4]
    """
    n = len(values)
    if n < 3:  # nothing to estimate the noise from
        return []
    ratios = np.asarray(values, dtype=float) / np.median(values)
    logs = np.round(np.log(ratios), 9)  # so that another unit rounds to the same numbers
    noise = float(np.median(np.abs(np.diff(logs)))) / 0.954 * (1 + _SMALL_SAMPLE / n)
    penalty = max(_STRENGTH * math.log(n) * noise, math.log(margin_ratio))
    changes = _fit(logs, penalty)
    while changes:
        steps = np.abs(np.diff([np.median(part) for part in np.split(logs, changes)]))
        if steps.min() >= math.log(margin_ratio):
            break
        del changes[int(steps.argmin())]
    return changes


def _fit(logs: np.ndarray, penalty: float) -> list[int]:
    """The best fit's changes. A level is one of the values, since the median of a segment can be chosen to be one."""
    n, levels = len(logs), np.unique(logs)
    cost = np.full(len(levels), math.inf)  # of the best fit of the first t points that ends on each level
    begins = np.zeros((n + 1, len(levels)), dtype=bool)  # that fit's last level began two points before t
    best, last = [-penalty, math.inf], [-1, -1]  # least cost of the first t points, and its level
    for t in range(2, n + 1):
        distance = np.abs(logs[t - 1] - levels)
        stay = cost + distance
        begin = best[t - 2] + penalty + np.abs(logs[t - 2] - levels) + distance
        begins[t] = begin < stay
        cost = np.minimum(begin, stay)
        last.append(int(cost.argmin()))
        best.append(float(cost[last[t]]))
    t = n - 1 if best[n - 1] + 2 * penalty < best[n] else n
    changes = [t] if t < n else []
    while t > 0:
        level = last[t]
        while not begins[t, level]:
            t -= 1
        t -= 2
        changes += [t] if t > 0 else []
    return changes[::-1]


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
            "stack": str(samples.environment_fields(session.environment)),
            "session": session.id,
            "started_at": session.started_at,
            "seconds": sample.value,
            "control_s": math.nan if sample.control_s is None else sample.control_s,
        }
        for (_, benchmark), entries in samples.times(results, sessions).items()
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


def section(results: Results) -> list[Section]:
    """The history, or nothing where no benchmark has two points."""
    points = frame(results)
    if points.empty:
        return []
    rows = pd.DataFrame(_row(part) for _, part in points.groupby(_SERIES))
    rows = rows.sort_values("change", key=abs, ascending=False, na_position="last", kind="stable", ignore_index=True)
    drawn = rows.head(MAX_PANELS)[_SERIES]
    more = f" The figure has those that changed most; {rest} are not drawn." if (rest := len(rows) - len(drawn)) else ""
    changed = rows[rows["num_changes"] > 0].to_dict("records")
    told = [f"{r['benchmark']} {r['change']:+.1%} on {r['changed_on']} at {r['changed_at']}" for r in changed]
    told.append(f"{len(rows) - len(changed)} without a change")
    return [
        Section(
            name="history",
            title="History",
            text=_TEXT + more,
            frame=rows,
            figure=figure(drawn.merge(points, on=_SERIES)),
            alt=f"Time of each benchmark by commit, relative to its first level: {'; '.join(told)}.",
        )
    ]


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
    with plot.canvas(1.1 + 1.05 * len(series), num_rows=len(series)) as (drawn, panels):
        for axes, part in zip(panels, series, strict=True):
            x = [place[point] for point in part[columns].itertuples(index=False, name=None)]
            ratio = part[["median_s", "low_s", "high_s", "level_s"]] / part["level_s"].iloc[0]
            if part["control_s"].notna().all():
                control = part["control_s"] / part["control_s"][~part["is_change"].cummax()].median()
                axes.plot(x, control, "--", color=plot.INK, linewidth=0.8, alpha=0.6, label="control workload")
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
