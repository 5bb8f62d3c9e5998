"""Report results over dates and commits, with the points at which a benchmark changed.

A point is one commit and stack on one day. A change at a point says when the time changed, not why, and is no verdict.
`mlpbench compare` judges whether two commits differ.
"""

import math
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlpbench.judging import evidence
from mlpbench.judging.change_points import change_points
from mlpbench.records.results import Results
from mlpbench.reporting import formatting
from mlpbench.reporting.figures import history as figures
from mlpbench.reporting.section import Part, ReportData, Section

MAX_PANELS = 12
"""The benchmarks that the figure shows at most."""
_SERIES = ["machine", "benchmark"]
_POINT = [*_SERIES, "day", "commit", "torch", "stack", "source"]

_TEXT = (
    "Each point is a commit on a day: the median over its processes, with their range, over the median of the first "
    "segment. A segment is a stretch without a change. A vertical line marks where a new segment begins: the time "
    "changed by at least 3 % for two points or more. The last point alone counts too, if its change is much larger "
    "than the noise. Where points have a control workload (dashed), changes are those of the time over the control: a "
    "move of both is a change of the machine. Another stack may change the control itself. So from one stack to "
    "another, a change counts only as far as both the time and the time over the control show it. The table has the "
    "last change of each benchmark. If several things changed between two points, the history cannot tell which of "
    "them is the cause."
)


def frame(results: Results) -> pd.DataFrame:
    """Return a row per point of every benchmark with two points or more, by machine, benchmark and time.

    Columns: machine, benchmark, started_at (of the first process), commit, torch, median_s (over the medians of the
    processes), low_s, high_s, num_processes, control_s (NaN: it did not run), level_s (median of the segment),
    is_change (a new segment begins), change (of that segment against the one before; otherwise NaN). A commit with
    changed source ends in -dirty.

    A change of the machine is not a change of the benchmark. So segments and `change` are those of the time over the
    control, where it ran; `_comparable` says how stacks are joined. `level_s` is still a time: the
    median of the points.
    """
    sessions = [session for session in results.sessions.values() if not session.side]
    rows = [
        {
            "machine": session.environment.machine,
            "benchmark": benchmark,
            "day": _instant(results, session.id)[:10],
            "commit": session.environment.source,
            "torch": session.environment.stack.torch,
            "stack": str(session.environment.measuring_facts() | {"source": ""}),
            "source": session.environment.source_of(session.run),
            "session": session.id,
            "started_at": _instant(results, session.id),
            "seconds": process.value,
            "control_s": math.nan if process.control_s is None else process.control_s,
        }
        for (_, benchmark), entries in evidence.times(results, sessions).items()
        for session, _, process in entries
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
    series = [_with_segments(part) for _, part in points.groupby(_SERIES)]
    return pd.concat(series, ignore_index=True).drop(columns=["day", "stack", "source"]) if series else pd.DataFrame()


def _instant(results: Results, session: str) -> str:
    """Return the time of a session as UTC text, so that the order of texts is the order of `Results.time_of`."""
    return datetime.fromtimestamp(results.time_of(session)[0], UTC).isoformat(timespec="seconds")


def _with_segments(points: pd.DataFrame) -> pd.DataFrame:
    """Add level_s, is_change and change to the points of one benchmark on one machine."""
    comparable = pd.Series(np.exp(_comparable(points)), index=points.index)
    is_change = pd.Series(np.isin(np.arange(len(points)), change_points(comparable.tolist())), index=points.index)
    segment = is_change.cumsum()
    medians = comparable.groupby(segment).transform("median")
    return points.assign(
        level_s=points["median_s"].groupby(segment).transform("median"),
        is_change=is_change,
        change=(medians / medians.shift() - 1).where(is_change),
    )


def _comparable(points: pd.DataFrame) -> NDArray[np.float64]:
    """Return the logarithms of the times over the control, with each stack shifted to the level of the one before.

    Within a stack the control tells the machine from the benchmark. Another stack may change the control itself, and
    the machine may change at the same moment. So the step to a new stack is the smaller one of two: that of the time,
    and that of the time over the control. It is 0 if they have opposite signs. A stack in which the control did not run
    beside every point is taken by its times alone.
    """
    times: NDArray[np.float64] = np.log(points["median_s"].to_numpy(dtype=float))
    over_control = times - np.log(points["control_s"].to_numpy(dtype=float))
    stacks = points["stack"].tolist()
    without = {stack for stack, value in zip(stacks, over_control, strict=True) if math.isnan(value)}
    values: NDArray[np.float64] = np.where([stack in without for stack in stacks], times, over_control)
    begins = [0, *(i for i in range(1, len(stacks)) if stacks[i] != stacks[i - 1]), len(stacks)]
    # The last segment of the stretch of points before, by its indices.
    before = np.arange(0)
    seen: set[str] = set()
    for begin, end in pairwise(begins):
        stretch, stack = np.arange(begin, end), stacks[begin]
        parts = np.split(stretch, change_points(np.exp(values[stretch]).tolist()))
        if len(before) and stack not in seen:
            step = _level(times, parts[0]) - _level(times, before)
            if stack not in without and stacks[before[0]] not in without:
                step = _smaller(step, _level(over_control, parts[0]) - _level(over_control, before))
            same = [i for i in range(begin, len(stacks)) if stacks[i] == stack]
            values[same] += _level(values, before) + step - _level(values, parts[0])
        seen.add(stack)
        before = parts[-1]
    return values


def _level(values: NDArray[np.float64], indices: NDArray[np.int64]) -> float:
    return float(np.median(values[indices]))


def _smaller(one: float, other: float) -> float:
    """Return the step that is nearer to 0; 0 if the two have opposite signs."""
    return min(one, other, key=abs) if one * other > 0 else 0.0


def make(data: ReportData) -> Part:
    """Make the section, if a benchmark has two points or more."""
    points = frame(data.results)
    if points.empty:
        return Part()
    rows = pd.DataFrame(_row(part) for _, part in points.groupby(_SERIES))
    rows = rows.sort_values("change", key=abs, ascending=False, na_position="last", kind="stable", ignore_index=True)
    largest = rows.head(MAX_PANELS)[_SERIES]
    num_others = len(rows) - len(largest)
    more = f" The figure shows the {MAX_PANELS} benchmarks that changed most, without {num_others} others."
    section = Section(
        name="history",
        title="History",
        text=_TEXT + (more if num_others else ""),
        frame=rows,
        figure=figures.history(largest.merge(points, on=_SERIES)),
        alt=f"Time of each benchmark by commit, over that of its first segment: {_changes(rows)}.",
    )
    return Part(sections=(section,))


def _changes(rows: pd.DataFrame) -> str:
    changed = rows[rows["num_changes"] > 0].to_dict("records")
    texts = [
        f"{row['benchmark']} {formatting.change(row['change'])} on {row['changed_on']} at {row['changed_at']}"
        for row in changed
    ]
    return "; ".join([*texts, f"{len(rows) - len(changed)} without a change"])


def _row(points: pd.DataFrame) -> dict[str, object]:
    """Return the row of the table for the points of one benchmark on one machine."""
    begins = np.flatnonzero(points["is_change"])
    latest = points.iloc[-1]
    row = {
        **latest[[*_SERIES, "median_s", "level_s"]].rename({"median_s": "latest_s"}),
        "change": math.nan,
        "changed_on": None,
        "changed_at": None,
        "num_changes": len(begins),
        "num_points": len(points),
    }
    if len(begins):
        before, after = points.iloc[begins[-1] - 1], points.iloc[begins[-1]]
        stack = f", torch {after['torch']}" if after["torch"] != before["torch"] else ""
        row |= {
            "change": after["change"],
            "changed_on": after["started_at"][:10],
            "changed_at": after["commit"] + stack,
        }
    return row
