"""Report engines against eager: the gain, the share of the hardware limit, and when a slow start pays.

Engines are compared if they ran interleaved with eager and differ from it in nothing else.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from mlpbench.config import Operation, RunConfig
from mlpbench.judging import statistics as stats
from mlpbench.records.results import Results
from mlpbench.reporting import formatting, frames
from mlpbench.reporting.figures import timing
from mlpbench.reporting.section import Fact, Part, ReportData, Section

BASELINE = "eager"
_GAINS = (
    "The same training by different engines, interleaved round by round. Gain: eager's time over the engine's time; "
    "above 1 is faster. It is the median over rounds (over processes if there are several), with its interval. “% of "
    "hardware limit”: the time that the products need at the best rate of this machine, over the time of the engine."
)
_FIRST_STEP = (
    "The time from a trainer with its data to the end of the first step, in a fresh process with empty caches. "
    "Libraries are built and graphs are compiled in this time. “Pays after epochs”: the number of epochs of the same "
    "workload after which the time saved over eager exceeds the extra time of the first step."
)


def speeds(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per engine of a `frames.blocks` frame that ran interleaved with eager; eager has a row too.

    Only the newest run of each config counts, and only the throughput clock. Columns: machine, operation, device,
    num_threads, dataset, batch_size, width, optimizer, engine, median_s, gain_ratio (eager's time over the engine's)
    with low_ratio and high_ratio, coverage, num_rounds, num_processes, roof_share (share of the hardware limit),
    session, config (eager's).
    """
    if blocks.empty:
        return pd.DataFrame()
    rows = []
    for config, processes in _newest_groups(blocks):
        for engine, part in pd.concat(processes).groupby("engine", sort=False):
            first = part.iloc[0]
            gain = _gain(processes, str(engine))
            median_s = float(part["seconds"].median())
            rows.append(
                {
                    "machine": first["machine"],
                    "operation": first["operation"],
                    "device": first["device"],
                    "num_threads": first["num_threads"],
                    "dataset": first["dataset"],
                    "batch_size": first["batch_size"],
                    "width": first["width"],
                    "optimizer": first["optimizer"],
                    "engine": engine,
                    "median_s": median_s,
                    "gain_ratio": gain.estimate,
                    "low_ratio": gain.low,
                    "high_ratio": gain.high,
                    "coverage": gain.coverage,
                    "num_rounds": len(part),
                    "num_processes": len(processes),
                    "roof_share": first["limit_s"] / median_s,
                    "session": first["session"],
                    "config": config,
                }
            )
    return pd.DataFrame(rows)


def _newest_groups(blocks: pd.DataFrame) -> Iterator[tuple[RunConfig, list[pd.DataFrame]]]:
    """Yield eager's config and the blocks of each process, for the newest run of every group of engines."""
    newest: dict[tuple[str, str, RunConfig], tuple[str, list[pd.DataFrame]]] = {}
    for _, group in blocks[blocks["clock"] == "throughput"].groupby("group", sort=False):
        eager = group[group["engine"] == BASELINE]
        if eager.empty or frames.varying(group["config"].unique().tolist()) != ["engine"]:
            continue
        first = eager.iloc[0]
        workload = (first["machine"], first["operation"], first["config"])
        if workload not in newest or newest[workload][0] != first["row"]:
            newest[workload] = first["row"], []
        newest[workload][1].append(group)
    for (_, _, config), (_, processes) in newest.items():
        yield config, processes


def _gain(processes: list[pd.DataFrame], engine: str) -> stats.Interval:
    """Return eager's time over the engine's: the median over processes, or over the rounds of a single process."""
    gains = []
    for group in processes:
        by_round = group.pivot_table(index="round", columns="engine", values="seconds").dropna()
        gains.append(stats.ratio_interval(by_round[engine].tolist(), by_round[BASELINE].tolist()))
    return gains[0] if len(gains) == 1 else stats.median_interval([gain.estimate for gain in gains])


def starts(results: Results, gains: pd.DataFrame) -> pd.DataFrame:
    """Return a row per engine whose first step was timed, by its newest measurement.

    Columns: machine, device, engine, first_step_s, epoch_s, eager_epoch_s, pays_after_epochs (infinite: never; NaN: no
    epoch of the engine was timed).

    Args:
        results: the records, which have the first steps.
        gains: the frame of `speeds`, which has the epochs.
    """
    newest: dict[tuple[str, RunConfig], float] = {}
    wall_s = {block.measurement: block.wall_ns / block.iterations / 1e9 for block in results.blocks}
    first_steps = [m for m in results.measurements.values() if m.operation == "first_step" and m.id in wall_s]
    for m in sorted(first_steps, key=lambda m: results.time_of(m.session)):
        newest[results.sessions[m.session].environment.machine, m.config] = wall_s[m.id]
    epochs = {
        (row["machine"], replace(row["config"], engine=row["engine"])): row["median_s"]
        for _, row in gains.iterrows()
        if row["operation"] == "epoch"
    }
    rows = []
    for (machine, config), first_step_s in newest.items():
        eager = machine, replace(config, engine=BASELINE)
        epoch_s, eager_epoch_s = epochs.get((machine, config), math.nan), epochs.get(eager, math.nan)
        rows.append(
            {
                "machine": machine,
                "device": config.device,
                "engine": config.engine,
                "first_step_s": first_step_s,
                "epoch_s": epoch_s,
                "eager_epoch_s": eager_epoch_s,
                "pays_after_epochs": _pays_after(first_step_s - newest.get(eager, math.nan), eager_epoch_s - epoch_s),
            }
        )
    return pd.DataFrame(rows)


def _pays_after(extra_s: float, saved_s: float) -> float:
    """Return the number of epochs after which the time saved exceeds the extra time of the first step.

    >>> _pays_after(9.1, 0.5), _pays_after(1.0, -0.1), _pays_after(-1.0, 0.1)
    (19.0, inf, 0.0)
    """
    if math.isnan(extra_s) or math.isnan(saved_s):
        return math.nan
    if extra_s <= 0:
        return 0.0
    return math.inf if saved_s <= 0 else float(math.ceil(extra_s / saved_s))


def make(data: ReportData) -> Part:
    """Make the sections of epochs, steps and first steps of the engines, and name the fastest engine."""
    gains = speeds(data.blocks)
    if gains.empty:
        return Part()
    first_steps = starts(data.results, gains)
    sections = [
        _gains_section(data.results, title, gains[gains["operation"] == operation])
        for operation, title in (
            (Operation.EPOCH, "Engines: an epoch"),
            (Operation.TRAIN_STEP, "Engines: a training step"),
        )
        if (gains["operation"] == operation).any()
    ]
    if not first_steps.empty:
        title = "Engines: the first step"
        sections.append(Section(name="engines-start", title=title, text=_FIRST_STEP, frame=first_steps))
    return Part(sections=tuple(sections), facts=tuple(_fastest(gains)))


def _gains_section(results: Results, title: str, gains: pd.DataFrame) -> Section:
    texts = ", ".join(
        f"{row['engine']} {row['gain_ratio']:.2f} times as fast as eager (batch {row['batch_size']}, width "
        f"{row['width']}, {row['device']})"
        for _, row in gains.iterrows()
        if row["engine"] != BASELINE
    )
    return Section(
        name=f"engines-{gains['operation'].iloc[0].replace('_', '-')}",
        title=title,
        text=_GAINS,
        frame=_without_constants(gains),
        figure=timing.gains(gains),
        alt=f"{texts}.",
        commands=frames.commands(results, set(gains["session"])),
    )


def _without_constants(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the columns that have the same value in every row, of those that only distinguish workloads."""
    constant = [name for name in ("dataset", "optimizer", "num_threads", "operation") if len(set(frame[name])) <= 1]
    return frame.drop(columns=["session", "config", *constant])


def _fastest(gains: pd.DataFrame) -> Iterator[Fact]:
    """Name the fastest engine of an epoch of the usual size on each device, if it is not eager."""
    usual = RunConfig()
    is_usual = (gains["batch_size"] == usual.batch_size) & (gains["width"] == usual.hidden_sizes[0])
    epochs = gains[(gains["operation"] == Operation.EPOCH) & is_usual]
    for device, part in epochs.groupby("device", sort=False):
        best = part.sort_values("median_s").iloc[0]
        if best["engine"] == BASELINE:
            continue
        is_one = best["num_processes"] == 1
        spread = f"{best['num_rounds']} interleaved rounds" if is_one else f"{best['num_processes']} processes"
        note = (
            f"{best['low_ratio']:.2f} to {best['high_ratio']:.2f} over {spread}; "
            f"{formatting.seconds(best['median_s'])} an epoch, batch {best['batch_size']}, width {best['width']}"
        )
        yield Fact(
            name=f"Fastest engine and its gain, {device}",
            value=f"{best['engine']} {best['gain_ratio']:.2f}×",
            note=note,
        )
