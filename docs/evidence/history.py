"""Simulate histories of a machine with two modes, and count the changes that the report finds.

    python docs/evidence/history.py

A history has 30 days, one point a day. The machine is in a fast or a slow mode, which changes with a probability of
0.3 a day; the slow mode takes 1.7 times as long. Benchmark and control move together, each with normal noise of 1 %. A
new PyTorch begins on one of the last five days. The former rule ignored the control in every history with two stacks.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from mlpbench.judging.change_points import change_points
from mlpbench.reporting.sections.history import _comparable

DAYS, SLOW, NOISE = 30, 1.7, 0.01
COUNT = 1000


def former(points: pd.DataFrame) -> list[int]:
    """Return the changes by the former rule."""
    is_one_stack = len(set(points["stack"])) == 1
    values = points["median_s"] / points["control_s"] if is_one_stack else points["median_s"]
    return change_points(values.tolist())


def present(points: pd.DataFrame) -> list[int]:
    """Return the changes by the present rule."""
    return change_points(np.exp(_comparable(points)).tolist())


def points_of(
    draw: np.random.Generator, upgrade: int, *, change: float = 1.0, at: int = DAYS, control_change: float = 1.0
) -> pd.DataFrame:
    """Return the points of a history.

    Args:
        draw: the random numbers.
        upgrade: the day from which on there is another stack; `DAYS` for none.
        change: the true change of the benchmark.
        at: the day of that change.
        control_change: the change of the control by the other stack.
    """
    days = np.arange(DAYS)
    mode = np.cumsum(draw.random(DAYS) < 0.3) % 2
    machine = np.where(mode == 1, SLOW, 1.0)
    noise = np.exp(draw.normal(0, NOISE, (2, DAYS)))
    return pd.DataFrame(
        {
            "median_s": machine * noise[0] * np.where(days >= at, change, 1.0),
            "control_s": machine * noise[1] * np.where(days >= upgrade, control_change, 1.0),
            "stack": np.where(days >= upgrade, "new", "old"),
        }
    )


def share(rule: Callable[[pd.DataFrame], list[int]], *, at: int | None, seed: int = 0, **changes: float) -> str:
    """Return the share of histories with a false change; or, with `at`, those in which the change of that day is found.

    `at` is -1 for a change together with the upgrade.
    """
    draw = np.random.default_rng(seed)
    hits = 0
    for _ in range(COUNT):
        upgrade = DAYS - int(draw.integers(1, 6)) if changes.get("control_change") else DAYS
        day = upgrade if at == -1 else at
        changed = rule(points_of(draw, upgrade, at=DAYS if day is None else day, **changes))
        # Noise may move the first day of a segment by one.
        hits += bool(changed) if day is None else any(abs(found - day) <= 1 for found in changed)
    return f"{hits / COUNT:.1%}"


def main() -> None:
    """Print the table."""
    rows = [
        ("false changes, one stack", {"at": None}),
        ("false changes, upgrade that changes nothing", {"at": None, "control_change": 1.0}),
        ("false changes, upgrade that makes the control 10 % slower", {"at": None, "control_change": 1.1}),
        ("found: 5 % on day 15", {"at": 15, "change": 1.05, "control_change": 1.0}),
        ("found: 10 % on day 15", {"at": 15, "change": 1.1, "control_change": 1.0}),
        ("found: 5 % on day 15, no upgrade", {"at": 15, "change": 1.05}),
        ("found: 10 % on day 15, no upgrade", {"at": 15, "change": 1.1}),
        ("found: 10 % by the upgrade", {"at": -1, "change": 1.1, "control_change": 1.0}),
        ("found: 30 % by the upgrade", {"at": -1, "change": 1.3, "control_change": 1.0}),
    ]
    assert math.isclose(SLOW, 1.7), "the table of the README is for this factor"
    print("| history | former rule | present rule |\n|---|---|---|")
    for name, options in rows:
        print(f"| {name} | {share(former, **options)} | {share(present, **options)} |", flush=True)


if __name__ == "__main__":
    main()
