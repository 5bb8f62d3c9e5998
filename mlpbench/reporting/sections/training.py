"""Report training runs: the tutorial's curve, accuracy by epoch, and time to a target accuracy."""

import pandas as pd

from mlpbench.config import RunConfig
from mlpbench.records.results import Results
from mlpbench.reporting import curves, frames
from mlpbench.reporting.figures import training as figures
from mlpbench.reporting.section import Fact, Part, ReportData, Section, file_name


def make(data: ReportData) -> Part:
    """Make the sections of every data set, first that of the tutorial's own workload, and the best accuracy.

    Runs that were interrupted have a section of their own, and count nowhere else.
    """
    epochs = data.epochs
    interrupted = _interrupted(data.results)
    if epochs.empty:
        return Part(sections=interrupted)
    sections = []
    tutorial = epochs[[_is_tutorial(config) for config in epochs["config"]]].sort_values("num_epochs")
    # A shorter run of the same seed is the beginning of the longer one, not an independent one.
    tutorial = tutorial.drop_duplicates(["seed", "epoch"], keep="last")
    if not tutorial.empty:
        sections.append(_tutorial(data.results, tutorial))
    for dataset in epochs["dataset"].unique():
        sections += _dataset_sections(data.results, dataset, epochs[epochs["dataset"] == dataset], data.target)
    return Part(sections=(*sections, *interrupted), facts=(_best_accuracy(epochs),))


def _interrupted(results: Results) -> tuple[Section, ...]:
    frame = curves.unfinished(results)
    if frame.empty:
        return ()
    commands = {results.sessions[epochs[-1].session].command: None for epochs in results.unfinished().values()}
    return (
        Section(
            name="interrupted",
            title="Interrupted training: the same command with --resume goes on",
            text="These runs have epochs, but no result: they were interrupted, or train at this moment. They count in "
            "no other table.",
            frame=frame,
            commands=tuple(f"{command} --resume" for command in commands),
        ),
    )


def _is_tutorial(config: RunConfig) -> bool:
    """True for the tutorial's workload, with any loader, device, seed and number of epochs."""
    reference = RunConfig(dataset="mnist")
    names = ("dataset", "model", "hidden_sizes", "activations", "batch_size", "optimizer", "lr", "weight_decay")
    return all(getattr(config, name) == getattr(reference, name) for name in names)


def _tutorial(results: Results, epochs: pd.DataFrame) -> Section:
    return Section(
        name="tutorial",
        title="The workload of the tutorial",
        text="The workload of the 2020 tutorial on MNIST, and the points that the tutorial published: mean over seeds, "
        "band from the lowest to the highest seed. The first epoch varies much from seed to seed, and each published "
        "point is a single run.",
        frame=curves.against_tutorial(epochs),
        figure=figures.tutorial_curve(epochs),
        alt="Training and test accuracy per epoch with the range over seeds, and the published points.",
        commands=frames.commands(results, set(epochs["session"])),
    )


def _dataset_sections(results: Results, dataset: str, epochs: pd.DataFrame, target: float) -> list[Section]:
    commands = frames.commands(results, set(epochs["session"]))
    name = file_name(dataset)
    accuracies = curves.accuracies(epochs).drop(columns="dataset")
    targets = curves.targets(epochs, target)
    arrivals = curves.time_to_accuracy(targets).drop(columns="dataset")
    last = ", ".join(f"{row['label']} {row['mean_accuracy']:.4f}" for _, row in accuracies.iterrows())
    reached = ", ".join(f"{row['label']} {row['num_reached']} of {row['num_seeds']}" for _, row in arrivals.iterrows())
    return [
        Section(
            name=f"accuracy-{name}",
            title=f"Accuracy by epoch on {dataset}",
            text="Test accuracy after each epoch: mean over seeds, band from the worst to the best seed. The table has "
            "the last epoch; low and high are a 95 % interval of the mean.",
            frame=accuracies,
            figure=figures.accuracy_curves(epochs),
            alt=f"Test accuracy after the last epoch, mean over seeds: {last}.",
            commands=commands,
        ),
        Section(
            name=f"time-to-accuracy-{name}",
            title=f"Time to {target:.0%} test accuracy on {dataset}",
            text="Training time, without evaluation, to the first epoch that reaches the target; a point is "
            "a seed. A seed that never reaches it counts as infinitely late in the median. Low and high: "
            "Wilson's 95 % interval of the share of seeds that reached it.",
            frame=arrivals,
            figure=figures.time_to_accuracy(targets, target),
            alt=f"Seeds that reached {target:.0%}: {reached}.",
            commands=commands,
        ),
    ]


def _best_accuracy(epochs: pd.DataFrame) -> Fact:
    best = curves.accuracies(epochs).sort_values("mean_accuracy").iloc[-1]
    seeds = "1 seed" if best["num_seeds"] == 1 else f"mean of {best['num_seeds']} seeds"
    note = f"{best['dataset']}: {best['label']}, {best['num_epochs']} epochs, {seeds}"
    return Fact(name="Best test accuracy", value=f"{best['mean_accuracy']:.4f}", note=note)
