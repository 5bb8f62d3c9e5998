"""Turn training runs into tidy frames: epochs, accuracies, times to a target, and the tutorial's published curve."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields

import pandas as pd

from mlpbench.config import RunConfig, format_value
from mlpbench.judging import statistics as stats
from mlpbench.records.kinds import TrainResult
from mlpbench.records.results import Results
from mlpbench.reporting.frames import short, varying

TUTORIAL_CURVE = {
    0: (0.6486, 0.5455, 0.8112),
    1: (0.3926, 0.8589, 0.8854),
    2: (0.3675, 0.8944, 0.9041),
    3: (0.4391, 0.9079, 0.9162),
    131: (0.0006, 1.0, 0.9785),
    132: (0.0008, 1.0, 0.9784),
}
"""The tutorial's published curve: epoch -> loss of the last batch, training accuracy, test accuracy.

Source: M. Rivera, "Tutorial PyTorch: Perceptron Multi-Capa", 2020.
"""

_FIELDS = tuple(f.name for f in fields(RunConfig))
_WORDS = {"lr": "lr {}", "batch_size": "batch {}", "hidden_sizes": "hidden layers {}", "engine": "engine {}"}
_PLURALS = {
    "dataset": "data sets",
    "model": "models",
    "hidden_sizes": "widths",
    "activations": "choices of activations",
    "optimizer": "optimizers",
    "lr": "learning rates",
    "batch_size": "batch sizes",
    "engine": "engines",
}


def _labels(configs: Sequence[RunConfig]) -> list[str]:
    """Return a name for each config: activations, optimizer, and other fields that vary within its data set."""
    # The seed is no part of a name: curves are means over seeds.
    standard = ("seed", "dataset", "activations", "optimizer")
    names: dict[RunConfig, str] = {}
    for dataset in {config.dataset for config in configs}:
        group = [config for config in configs if config.dataset == dataset]
        others = varying(group, standard)
        for config in group:
            parts = [short(config, "activations"), config.optimizer]
            names[config] = " ".join([*parts, *(f"{name}={short(config, name)}" for name in others)])
    return [names[config] for config in configs]


def description(frame: pd.DataFrame) -> str:
    """Return the workload of an `epochs` frame in words, for a title: what its runs share, and how much varies.

    The frame has a row for each epoch or each run, with the fields of the config as columns.
    """
    texts = []
    for name in ("dataset", "model", "hidden_sizes", "activations", "optimizer", "lr", "batch_size", "engine"):
        values = list(dict.fromkeys(frame[name]))
        if len(values) == 1:
            texts.append(_WORDS.get(name, "{}").format(format_value(values[0]).replace(",", "-")))
        else:
            texts.append(f"{len(values)} {_PLURALS.get(name, name)}")
    for name, word in (("num_epochs", "epoch"), ("seed", "seed")):
        values = sorted(set(frame[name]))
        if name == "seed":
            texts.append(f"seed {values[0]}" if len(values) == 1 else f"{len(values)} seeds")
        else:
            span = f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
            texts.append(f"{span} {word}{'' if span == '1' else 's'}")
    return ", ".join(texts)


def epochs(results: Results) -> pd.DataFrame:
    """Return a row per epoch of every training run, the newest run of each machine and config.

    Columns: machine, session, run, label (activations, optimizer, and other fields that vary, except the seed), config
    and each of its fields, epoch (from 0), train_loss, train_accuracy, last_loss, test_loss, test_accuracy, train_s,
    elapsed_s (of training alone, up to the end of this epoch).
    """
    newest: dict[object, TrainResult] = {}
    for result in sorted(results.train_results, key=lambda r: results.time_of(r.session)):
        newest[results.sessions[result.session].environment.machine, result.config] = result
    names = _labels([result.config for result in newest.values()])
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


def unfinished(results: Results) -> pd.DataFrame:
    """Return a row per training run that was interrupted: its epochs so far, and the accuracies of the last of them."""
    rows = []
    for (_, config), of_run in results.unfinished().items():
        last = of_run[-1]
        rows.append(
            {
                "machine": results.sessions[last.session].environment.machine,
                "workload": str(config),
                "epochs": f"{last.index + 1} of {config.num_epochs}",
                "train_accuracy": last.train_accuracy,
                "test_accuracy": last.test_accuracy,
            }
        )
    return pd.DataFrame(rows)


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per data set and label of an `epochs` frame: test accuracy after the last epoch, over seeds."""
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
    """Return a row per run of an `epochs` frame: epochs and training seconds to the target; NaN if it is missed."""
    rows = []
    for run, part in frame.groupby("run", sort=False):
        index = stats.first_at_least(part["test_accuracy"].tolist(), target)
        rows.append(
            {
                **{name: part[name].iloc[0] for name in ("machine", "label", *_FIELDS)},
                "run": run,
                "epochs_to_target": None if index is None else index + 1,
                "seconds_to_target": None if index is None else float(part["elapsed_s"].iloc[index]),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"epochs_to_target": float, "seconds_to_target": float}) if rows else frame


def time_to_accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per data set and label of a `targets` frame: seeds that reached the target, and medians.

    A seed that missed the target counts as infinitely late.
    """
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


def against_tutorial(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per published epoch that an `epochs` frame reaches: published and own accuracies."""
    rows = []
    for epoch, (_, train, test) in TUTORIAL_CURVE.items():
        own = frame[frame["epoch"] == epoch]
        if own.empty:
            continue
        rows.append(
            {
                "epoch": epoch,
                "num_seeds": len(own),
                "published_test_accuracy": test,
                "mean_test_accuracy": float(own["test_accuracy"].mean()),
                "min_test_accuracy": float(own["test_accuracy"].min()),
                "max_test_accuracy": float(own["test_accuracy"].max()),
                "published_train_accuracy": train,
                "mean_train_accuracy": float(own["train_accuracy"].mean()),
            }
        )
    return pd.DataFrame(rows)
