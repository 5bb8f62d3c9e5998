"""Report results over dates and commits, with the points at which a benchmark changed.

A point is one commit and stack on one day. A change at a point says when the time changed, not why, and is no verdict.
`mlpbench compare` judges whether two commits differ.
"""

import math

import numpy as np
import pandas as pd

from mlpbench.judging import evidence
from mlpbench.judging.change_points import change_points
from mlpbench.records.results import Results
from mlpbench.reporting import figures, formatting
from mlpbench.reporting.section import Part, ReportData, Section

MAX_PANELS = 12
"""The benchmarks that the figure shows at most."""
_SERIES = ["machine", "benchmark"]
_POINT = [*_SERIES, "day", "commit", "torch", "stack", "source"]

_TEXT = (
    "Each point is a commit on a day: the median over its processes, with their range, over the median of the first "
    "segment. A segment is a stretch without a change. A vertical line marks where a new segment begins: the time "
    "changed by at least 3 % for two points or more. The last point alone counts too, if its change is much larger "
    "than the noise. If all points have a control workload on one stack (dashed), changes are those of the time over "
    "the control: a move of both is a change of the machine. The table has the last change of each benchmark. If "
    "several things changed between two points, the history cannot tell which of them is the cause."
)


def frame(results: Results) -> pd.DataFrame:
    """Return a row per point of every benchmark with two points or more, by machine, benchmark and time.

    Columns: machine, benchmark, started_at (of the first process), commit, torch, median_s (over the medians of the
    processes), low_s, high_s, num_processes, control_s (NaN: it did not run), level_s (median of the segment),
    is_change (a new segment begins), change (of that segment against the one before; otherwise NaN). A commit with
    changed source ends in -dirty.

    A change of the machine is not a change of the benchmark. So if every point has a control and all have one stack,
    segments and `change` are those of the time over the control. `level_s` is still a time: the median of the points.
    """
    sessions = [session for session in results.sessions.values() if not session.side]
    rows = [
        {
            "machine": session.environment.machine,
            "benchmark": benchmark,
            "day": session.started_at[:10],
            "commit": session.environment.source,
            "torch": session.environment.stack.torch,
            "stack": str(session.environment.measuring_facts() | {"source": ""}),
            "source": session.environment.source_of(session.run),
            "session": session.id,
            "started_at": session.started_at,
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


def _with_segments(points: pd.DataFrame) -> pd.DataFrame:
    """Add level_s, is_change and change to the points of one benchmark on one machine."""
    # With another stack, the control is another workload.
    has_control = points["control_s"].notna().all() and len(set(points["stack"])) == 1
    relative = points["median_s"] / points["control_s"] if has_control else points["median_s"]
    is_change = pd.Series(np.isin(np.arange(len(points)), change_points(relative.tolist())), index=points.index)
    segment = is_change.cumsum()
    medians = relative.groupby(segment).transform("median")
    return points.assign(
        level_s=points["median_s"].groupby(segment).transform("median"),
        is_change=is_change,
        change=(medians / medians.shift() - 1).where(is_change),
    )


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
