"""What bounds a training run: the host that launches, the device that computes, or the input."""

from dataclasses import dataclass

import pandas as pd

BUSY_SHARE = 0.8  # of the time: above it, a faster host gains little
INPUT_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What bounds something, in plain words."""

    what: str
    bound: str
    why: str


def device_busy(blocks: pd.DataFrame) -> pd.DataFrame:
    """A row per step of a `blocks` frame that the device's own clock has timed too: what share of the time it is busy.

    The device's time is of kernels that waited in its queue, so that it holds no gap in which the host had to launch.
    """
    keys = ["machine", "operation", "config"]
    medians = blocks.pivot_table(index=keys, columns="clock", values="seconds", aggfunc="median", sort=False)
    if not {"throughput", "device"} <= set(medians.columns):
        return pd.DataFrame()
    both = medians.dropna(subset=["throughput", "device"]).reset_index()
    share = both["device"] / both["throughput"]
    return both[keys].assign(device_s=both["device"], step_s=both["throughput"], busy_share=share)


def input_share(blocks: pd.DataFrame) -> pd.DataFrame:
    """A row per machine and device of a `blocks` frame: what share of the DataLoader loop's epoch is loading."""
    epochs = blocks[(blocks["operation"] == "epoch") & (blocks["suite"] == "epochs")]
    medians = epochs.pivot_table(index=["machine", "device"], columns="loader", values="seconds", aggfunc="median")
    if not {"memory", "dataloader"} <= set(medians.columns):
        return pd.DataFrame()
    both = medians.dropna(subset=["memory", "dataloader"]).reset_index()
    return both[["machine", "device"]].assign(input_share=1 - both["memory"] / both["dataloader"])


def diagnoses(blocks: pd.DataFrame) -> list[Diagnosis]:
    """What bounds each step and epoch of which that can be told."""
    made = []
    for _, row in device_busy(blocks).iterrows():
        busy = row["busy_share"]
        made.append(
            Diagnosis(
                what=f"Training step, {row['config'].device}",
                bound="device-bound" if busy >= BUSY_SHARE else "launch-bound",
                why=f"the device is busy {100 * busy:.0f} % of the time",
            )
        )
    for _, row in input_share(blocks).iterrows():
        share = row["input_share"]
        made.append(
            Diagnosis(
                what=f"DataLoader loop, {row['device']}",
                bound="input-bound" if share > INPUT_SHARE else "not input-bound",
                why=f"{100 * share:.0f} % of its epoch is loading",
            )
        )
    return made
