"""Engines against eager: how many times faster, how near to the machine's own rate, and when a slow start pays.

A row of the frame is an engine in a group that ran in turns with eager and differs from it in nothing else.
"""

import math
from dataclasses import replace

import pandas as pd

from mlpbench import display, plot, stats, table
from mlpbench.records import RunConfig
from mlpbench.sections import Fact, Section
from mlpbench.store import Results

BASELINE = "eager"


def speeds(blocks: pd.DataFrame) -> pd.DataFrame:
    """A row per engine of a `table.blocks` frame that ran in turns with eager, eager included.

    Columns: machine, operation, device, num_threads, dataset, batch_size, width, optimizer, engine, median_s,
    gain_ratio (eager's time over the engine's) with low_ratio and high_ratio, coverage, num_rounds, num_processes,
    roof_share, session, config (eager's). Of each config the newest run, by the throughput clock.
    """
    if blocks.empty:
        return pd.DataFrame()
    # By what was raced: the newest run, and its processes' groups.
    newest: dict[tuple[str, str, RunConfig], tuple[str, list[pd.DataFrame]]] = {}
    for _, group in blocks[blocks["clock"] == "throughput"].groupby("group", sort=False):
        eager = group[group["engine"] == BASELINE]
        if eager.empty or table.varying(group["config"].unique().tolist()) != ["engine"]:
            continue
        first = eager.iloc[0]
        raced = (first["machine"], first["operation"], first["config"])
        if raced not in newest or newest[raced][0] != first["row"]:
            newest[raced] = first["row"], []
        newest[raced][1].append(group)
    rows = []
    for (_, _, config), (_, processes) in newest.items():
        whole = pd.concat(processes)
        for engine, part in whole.groupby("engine", sort=False):
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
                    "roof_share": first["roof_s"] / median_s,
                    "session": first["session"],
                    "config": config,
                }
            )
    return pd.DataFrame(rows)


def _gain(processes: list[pd.DataFrame], engine: str) -> stats.Interval:
    """Eager's time over the engine's: median over the processes, or over the rounds of one."""
    found = []
    for group in processes:
        by_round = group.pivot_table(index="round", columns="engine", values="seconds").dropna()
        found.append(stats.ratio_interval(by_round[engine].tolist(), by_round[BASELINE].tolist()))
    return found[0] if len(found) == 1 else stats.median_interval([each.estimate for each in found])


def starts(results: Results, raced: pd.DataFrame) -> pd.DataFrame:
    """A row per engine whose first step was timed: the newest, with the seconds beyond eager's, and what they buy.

    `raced` is what `speeds` gives. Columns: machine, device, engine, first_step_s, epoch_s, eager_epoch_s,
    pays_after_epochs (infinite: never; NaN: no epoch of it was timed).
    """
    newest: dict[tuple[str, RunConfig], float] = {}
    wall = {block.measurement: block.wall_ns / block.iterations / 1e9 for block in results.blocks}
    found = [m for m in results.measurements.values() if m.operation == "first_step" and m.id in wall]
    for m in sorted(found, key=lambda m: results.sessions[m.session].started_at):
        newest[results.sessions[m.session].environment.machine, m.config] = wall[m.id]
    epochs = {
        (row["machine"], replace(row["config"], engine=row["engine"])): row["median_s"]
        for _, row in raced.iterrows()
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
    """Epochs after which a saving makes up for a slow start.

    >>> _pays_after(9.1, 0.5), _pays_after(1.0, -0.1), _pays_after(-1.0, 0.1)
    (19.0, inf, 0.0)
    """
    if math.isnan(extra_s) or math.isnan(saved_s):
        return math.nan
    if extra_s <= 0:
        return 0.0
    return math.inf if saved_s <= 0 else float(math.ceil(extra_s / saved_s))


def sections(results: Results, raced: pd.DataFrame) -> list[Section]:
    """Epochs and steps in turns with eager (`raced` is what `speeds` gives), and first steps."""
    made = []
    for operation, title in (("epoch", "Engines: an epoch"), ("train_step", "Engines: a training step")):
        part = raced if raced.empty else raced[raced["operation"] == operation]
        if part.empty:
            continue
        spoken = ", ".join(
            f"{row['engine']} {row['gain_ratio']:.2f} times eager's speed (batch {row['batch_size']}, width "
            f"{row['width']}, {row['device']})"
            for _, row in part.iterrows()
            if row["engine"] != BASELINE
        )
        made.append(
            Section(
                name=f"engines-{operation.replace('_', '-')}",
                title=title,
                text="The same training by different engines, in turns, round by round. Gain: eager's time over the "
                "engine's, the median over rounds (over processes where there are several) with its interval; above 1 "
                "is faster. Roof: what the products alone would take at the best rate of this machine, over what the "
                "engine takes.",
                frame=_shown(part),
                figure=plot.gains(part),
                alt=f"{spoken}.",
                commands=table.commands(results, set(part["session"])),
            )
        )
    first = starts(results, raced)
    if not first.empty:
        made.append(
            Section(
                name="engines-start",
                title="Engines: the first step",
                text="From a trainer with its data to the end of an epoch's first step, in a fresh process with "
                "empty caches: libraries are built and graphs compiled in it. Pays after: epochs of the same workload "
                "whose saving over eager makes up for what it takes more than eager's.",
                frame=first,
            )
        )
    return made


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Without what is the same throughout, as far as it does not matter."""
    constant = [name for name in ("dataset", "optimizer", "num_threads", "operation") if len(set(frame[name])) <= 1]
    return frame.drop(columns=["session", "config", *constant])


def facts(raced: pd.DataFrame) -> list[Fact]:
    """The fastest engine of an epoch on each device; `raced` is what `speeds` gives."""
    if raced.empty:
        return []
    made = []
    usual = RunConfig()
    is_usual = (raced["batch_size"] == usual.batch_size) & (raced["width"] == usual.hidden_sizes[0])
    epochs = raced[(raced["operation"] == "epoch") & is_usual]
    for device, part in epochs.groupby("device", sort=False):
        best = part.sort_values("median_s").iloc[0]
        if best["engine"] == BASELINE:
            continue
        is_one = best["num_processes"] == 1
        spread = f"{best['num_rounds']} rounds" if is_one else f"{best['num_processes']} processes"
        note = (
            f"{best['low_ratio']:.2f} to {best['high_ratio']:.2f} over {spread} in turns; "
            f"{display.seconds(best['median_s'])} an epoch, batch {best['batch_size']}, width {best['width']}"
        )
        made.append(
            Fact(
                name=f"Fastest engine over eager, {device}",
                value=f"{best['engine']} {best['gain_ratio']:.2f}×",
                note=note,
            )
        )
    return made
