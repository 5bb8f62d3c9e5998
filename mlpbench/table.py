"""Results as tidy frames: a row per measurement, epoch, check or skip.

Numbers keep their units (columns say `_s`, `_ratio`); scaling to ms and rounding is for whoever shows them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

import pandas as pd

from mlpbench import stats
from mlpbench.records import Measurement, RunConfig, TrainResult, format_value
from mlpbench.store import Results

# The tutorial's published curve: epoch -> loss of its last batch, training accuracy, test accuracy.
# Source: M. Rivera, "Tutorial PyTorch: Perceptron Multi-Capa", 2020.
TUTORIAL_CURVE = {
    0: (0.6486, 0.5455, 0.8112),
    1: (0.3926, 0.8589, 0.8854),
    2: (0.3675, 0.8944, 0.9041),
    3: (0.4391, 0.9079, 0.9162),
    131: (0.0006, 1.0, 0.9785),
    132: (0.0008, 1.0, 0.9784),
}


def labels(configs: Sequence[RunConfig], *, without: Iterable[str] = ()) -> list[str]:
    """A name for each config: the fields in which they differ among each other, or from the default if they do not.

    >>> labels([RunConfig(), RunConfig(batch_size=10)])
    ['batch_size=100', 'batch_size=10']
    >>> labels([RunConfig()])
    ['default']
    """
    varying = _varying(configs, without)
    if not varying:  # all the same: how they differ from the default
        varying = _varying([RunConfig(), *configs], without)
    if not varying:
        return ["default"] * len(configs)
    return [" ".join(f"{name}={_short(config, name)}" for name in varying) for config in configs]


def _varying(configs: Sequence[RunConfig], without: Iterable[str] = ()) -> list[str]:
    """The fields in which configs differ among each other."""
    names = [f.name for f in fields(RunConfig) if f.name not in without]
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def _training_labels(configs: Sequence[RunConfig]) -> list[str]:
    """Activations and optimizer, which studies vary, and after them what else varies within the same data set."""
    spoken = ("seed", "dataset", "activations", "optimizer")
    names: dict[RunConfig, str] = {}
    for dataset in {config.dataset for config in configs}:
        here = [config for config in configs if config.dataset == dataset]
        varying = _varying(here, spoken)
        for config in here:
            parts = [_short(config, "activations"), config.optimizer]
            names[config] = " ".join([*parts, *(f"{name}={_short(config, name)}" for name in varying)])
    return [names[config] for config in configs]


def _short(config: RunConfig, name: str) -> str:
    value = getattr(config, name)
    if isinstance(value, tuple) and len(set(value)) == 1:
        return format_value(value[:1])
    return format_value(value)


def blocks(results: Results) -> pd.DataFrame:
    """A row per timed block of the newest measurement of each machine, suite, operation and config.

    Columns: measurement, session, machine, torch, commit, suite, group, operation, activation and width (of the first
    hidden layer), config and each of its fields, samples_per_call, settled, round, order, iterations, seconds (per
    call), flags.
    """
    newest = _newest(results)
    position = {key: index for index, key in enumerate(results.measurements)}
    rows = []
    for block in sorted(results.blocks, key=lambda block: (position[block.measurement], block.round)):
        if block.measurement not in newest:
            continue
        m = newest[block.measurement]
        environment = results.sessions[m.session].environment
        rows.append(
            {
                "measurement": m.id,
                "session": m.session,
                "machine": environment.machine,
                "torch": environment.torch,
                "commit": environment.commit,
                "suite": m.suite,
                "group": m.group,
                "operation": m.operation,
                **asdict(m.config),
                "config": m.config,
                "activation": m.config.activations[0],
                "width": m.config.hidden_sizes[0],
                "samples_per_call": m.samples_per_call,
                "settled": m.settled,
                "round": block.round,
                "order": block.order,
                "iterations": block.iterations,
                "seconds": block.wall_ns / block.iterations / 1e9,
                "flags": ",".join(block.flags),
            }
        )
    return pd.DataFrame(rows)


def _newest(results: Results) -> dict[str, Measurement]:
    """Measurements that have blocks, the last started of each identity; what ran in turns stays together."""
    with_blocks = {block.measurement for block in results.blocks}
    measured = [m for m in results.measurements.values() if m.id in with_blocks]
    groups: dict[str, list[Measurement]] = {}
    for m in sorted(measured, key=lambda m: results.sessions[m.session].started_at):
        groups.setdefault(m.group, []).append(m)
    newest: dict[object, Measurement] = {}
    for group in groups.values():
        configs = tuple(m.config for m in group)
        for place, m in enumerate(group):  # the same config may take part twice
            machine = results.sessions[m.session].environment.machine
            newest[machine, m.suite, m.operation, configs, place] = m
    return {m.id: m for m in newest.values()}


def timings(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per measurement of a `blocks` frame: median seconds per call with its interval over blocks.

    The blocks of one process are not independent of each other, so the interval describes that process.
    """
    rows = []
    for _, part in frame.groupby("measurement", sort=False):
        first = part.iloc[0]
        interval = stats.median_interval(part["seconds"].tolist())
        rows.append(
            {
                **{
                    name: first[name]
                    for name in ("machine", "torch", "commit", "suite", "operation", "device", "config")
                },
                "median_s": interval.estimate,
                "low_s": interval.low,
                "high_s": interval.high,
                "coverage": interval.coverage,
                "num_blocks": len(part),
                "samples_per_s": first["samples_per_call"] / interval.estimate,
                "settled": first["settled"],
            }
        )
    return pd.DataFrame(rows)


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per contender that ran in turns with a baseline, the first of its group: median of the rounds' ratios."""
    rows = []
    for _, part in frame.groupby("group", sort=False):
        ids = part["measurement"].unique()
        configs = part.drop_duplicates("measurement")["config"].tolist()
        names = dict(zip(ids, labels(configs), strict=True))
        varying = _varying(configs)
        by_round = part.pivot_table(index="round", columns="measurement", values="seconds").dropna()
        for contender in ids[1:] if len(by_round) else ():
            interval = stats.ratio_interval(by_round[ids[0]].tolist(), by_round[contender].tolist())
            rows.append(
                {
                    "machine": part["machine"].iloc[0],
                    "operation": part["operation"].iloc[0],
                    "workload": labels(configs[:1], without=varying)[0],
                    "baseline": names[ids[0]],
                    "contender": names[contender],
                    "baseline_median_s": float(by_round[ids[0]].median()),
                    "contender_median_s": float(by_round[contender].median()),
                    "time_ratio": interval.estimate,
                    "low_ratio": interval.low,
                    "high_ratio": interval.high,
                    "coverage": interval.coverage,
                    "num_rounds": len(by_round),
                }
            )
    return pd.DataFrame(rows)


def epochs(results: Results) -> pd.DataFrame:
    """A row per epoch of every training run; the newest run of each machine and config.

    Columns: machine, session, run, label (activations, optimizer, and what else varies but the seed), config and each
    of its fields, epoch (from 0), train_loss, train_accuracy, last_loss, test_loss, test_accuracy, train_s, elapsed_s
    (of training alone, up to this epoch's end).
    """
    newest: dict[object, TrainResult] = {}
    for result in sorted(results.train_results, key=lambda r: results.sessions[r.session].started_at):
        newest[results.sessions[result.session].environment.machine, result.config] = result
    names = _training_labels([result.config for result in newest.values()])
    rows = []
    for run, (result, label) in enumerate(zip(newest.values(), names, strict=True)):
        machine = results.sessions[result.session].environment.machine
        elapsed_s = 0.0
        for epoch in range(len(result.train_loss)):
            elapsed_s += result.train_s[epoch]
            rows.append(
                {
                    "machine": machine,
                    "session": result.session,
                    "run": run,
                    "label": label,
                    "config": result.config,
                    **asdict(result.config),
                    "epoch": epoch,
                    "train_loss": result.train_loss[epoch],
                    "train_accuracy": result.train_accuracy[epoch],
                    "last_loss": result.last_loss[epoch],
                    "test_loss": result.test_loss[epoch],
                    "test_accuracy": result.test_accuracy[epoch],
                    "train_s": result.train_s[epoch],
                    "elapsed_s": elapsed_s,
                }
            )
    frame = pd.DataFrame(rows)
    if rows and len(set(frame["machine"])) > 1:
        frame["label"] = frame["machine"] + " " + frame["label"]
    return frame


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and label of an `epochs` frame: test accuracy after the last epoch over seeds."""
    rows = []
    for (machine, dataset, label), part in frame.groupby(["machine", "dataset", "label"], sort=False):
        last = part[part["epoch"] == part["num_epochs"] - 1]
        values = last["test_accuracy"].tolist()
        interval = stats.mean_interval(values)
        rows.append(
            {
                "machine": machine,
                "dataset": dataset,
                "label": label,
                "num_epochs": int(part["num_epochs"].iloc[0]),
                "num_seeds": len(values),
                "mean_accuracy": interval.estimate,
                "low_accuracy": max(interval.low, 0.0) if len(values) > 1 else math.nan,
                "high_accuracy": min(interval.high, 1.0) if len(values) > 1 else math.nan,
                "min_accuracy": min(values),
                "max_accuracy": max(values),
                "train_accuracy": float(last["train_accuracy"].mean()),
                "epoch_s": float(part["train_s"].median()),
            }
        )
    return pd.DataFrame(rows)


def targets(frame: pd.DataFrame, target: float) -> pd.DataFrame:
    """A row per run of an `epochs` frame: epochs and training seconds to the target accuracy; NaN is a miss."""
    rows = []
    for run, part in frame.groupby("run", sort=False):
        index = stats.first_at_least(part["test_accuracy"].tolist(), target)
        rows.append(
            {
                **{name: part[name].iloc[0] for name in ("machine", "label", "dataset", "num_epochs", "seed")},
                "run": run,
                "epochs_to_target": None if index is None else index + 1,
                "seconds_to_target": None if index is None else float(part["elapsed_s"].iloc[index]),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"epochs_to_target": float, "seconds_to_target": float}) if rows else frame


def time_to_accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and label of a `targets` frame: how many seeds got there, and medians (a miss is never)."""
    rows = []
    for (machine, dataset, label), part in frame.groupby(["machine", "dataset", "label"], sort=False):
        reached = part["seconds_to_target"].notna()
        share = stats.share_interval(int(reached.sum()), len(part))
        rows.append(
            {
                "machine": machine,
                "dataset": dataset,
                "label": label,
                "num_seeds": len(part),
                "num_reached": int(reached.sum()),
                "low_share": share.low,
                "high_share": share.high,
                "median_epochs": stats.median_with_misses(_with_misses(part["epochs_to_target"])),
                "median_s": stats.median_with_misses(_with_misses(part["seconds_to_target"])),
            }
        )
    return pd.DataFrame(rows)


def _with_misses(values: "pd.Series[float]") -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def checks(results: Results) -> pd.DataFrame:
    """A row per determinism check; the newest of each machine, check and config."""
    newest = {}
    for check in sorted(results.checks, key=lambda c: results.sessions[c.session].started_at):
        machine = results.sessions[check.session].environment.machine
        newest[machine, check.name, check.config] = {
            "machine": machine,
            "check": check.name,
            "device": check.config.device,
            "workload": str(check.config),
            "num_steps": check.num_steps,
            "num_stages": check.num_stages,
            "equal_bits": check.first_difference is None,
            "first_difference": check.first_difference,
            "max_abs_difference": check.max_abs_difference,
            "final_abs_difference": check.final_abs_difference,
        }
    return pd.DataFrame(newest.values())


def skips(results: Results) -> pd.DataFrame:
    """A row per reason for which something was skipped in the newest session that skipped anything."""
    if not results.skips:
        return pd.DataFrame()
    last = max(results.skips, key=lambda s: results.sessions[s.session].started_at).session
    reasons: dict[str, list[str]] = {}
    for skip in results.skips:
        if skip.session == last:
            reasons.setdefault(skip.reason, []).append(skip.operation)
    return pd.DataFrame(
        {"reason": reason, "num_skipped": len(operations), "operations": ", ".join(sorted(set(operations)))}
        for reason, operations in reasons.items()
    )


def sessions(results: Results) -> pd.DataFrame:
    """A row per session, the newest first: what ran, when, on which commit and stack."""
    rows = [
        {
            "started_at": session.started_at,
            "command": session.command,
            "machine": session.environment.machine,
            "source": session.environment.commit + (" (dirty)" if session.environment.dirty else ""),
            "pytorch": session.environment.torch,
            "num_threads": session.environment.num_threads,
        }
        for session in results.sessions.values()
    ]
    return pd.DataFrame(rows).sort_values("started_at", ascending=False, ignore_index=True)


def against_tutorial(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per published epoch of the tutorial that an `epochs` frame reaches: published and own accuracies."""
    rows = []
    for epoch, (_, train, test) in TUTORIAL_CURVE.items():
        here = frame[frame["epoch"] == epoch]
        if here.empty:
            continue
        rows.append(
            {
                "epoch": epoch,
                "num_seeds": len(here),
                "published_test_accuracy": test,
                "mean_test_accuracy": float(here["test_accuracy"].mean()),
                "min_test_accuracy": float(here["test_accuracy"].min()),
                "max_test_accuracy": float(here["test_accuracy"].max()),
                "published_train_accuracy": train,
                "mean_train_accuracy": float(here["train_accuracy"].mean()),
            }
        )
    return pd.DataFrame(rows)
