"""Find the limit of a training run: the host that launches, the device that computes, or the input."""

from dataclasses import dataclass

import pandas as pd

BUSY_SHARE = 0.8
"""The share of the time that the device is busy, from which on a faster host gains little."""
INPUT_SHARE = 0.5
"""The share of an epoch that is loading, above which the input is the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Hold the limit of a step or of an epoch, in words."""

    subject: str
    """The step or the epoch that has this limit."""
    bound: str
    """`device-bound`, `launch-bound`, `input-bound` or `not input-bound`."""
    reason: str


def device_busy(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per operation of a `blocks` frame that both clocks timed: the share of the time the device is busy.

    The device clock times kernels that already wait in the queue. So it has no gaps in which the host launches.
    """
    keys = ["machine", "operation", "config"]
    medians = blocks.pivot_table(index=keys, columns="clock", values="seconds", aggfunc="median", sort=False)
    if not {"throughput", "device"} <= set(medians.columns):
        return pd.DataFrame()
    both = medians.dropna(subset=["throughput", "device"]).reset_index()
    share = both["device"] / both["throughput"]
    return both[keys].assign(device_s=both["device"], step_s=both["throughput"], busy_share=share)


def input_share(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per machine and device of a `blocks` frame: the share of an epoch that the DataLoader loop loads."""
    epochs = blocks[(blocks["operation"] == "epoch") & (blocks["suite"] == "epochs")]
    medians = epochs.pivot_table(index=["machine", "device"], columns="loader", values="seconds", aggfunc="median")
    if not {"memory", "dataloader"} <= set(medians.columns):
        return pd.DataFrame()
    both = medians.dropna(subset=["memory", "dataloader"]).reset_index()
    return both[["machine", "device"]].assign(input_share=1 - both["memory"] / both["dataloader"])


def diagnoses(blocks: pd.DataFrame) -> list[Diagnosis]:
    """Return the limits of the steps and epochs that were timed by two clocks or with both loaders."""
    results = []
    for _, row in device_busy(blocks).iterrows():
        busy = row["busy_share"]
        results.append(
            Diagnosis(
                subject=f"Training step, {row['config'].device}",
                bound="device-bound" if busy >= BUSY_SHARE else "launch-bound",
                reason=f"the device is busy {100 * busy:.0f} % of the time",
            )
        )
    for _, row in input_share(blocks).iterrows():
        share = row["input_share"]
        results.append(
            Diagnosis(
                subject=f"DataLoader loop, {row['device']}",
                bound="input-bound" if share > INPUT_SHARE else "not input-bound",
                reason=f"{100 * share:.0f} % of its epoch is loading",
            )
        )
    return results
