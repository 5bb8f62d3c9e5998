"""What the report says: its head and its sections, made of results.

Each section is one question with its figure, its table and the command that measures the answer again.
"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from mlpbench import curves, diagnosis, display, plot, table
from mlpbench.records import RunConfig, format_value
from mlpbench.store import Results


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One question, with its figure, its table, and how to measure the answer again."""

    name: str  # of the anchor, the CSV file and the figure's file
    title: str
    text: str
    frame: pd.DataFrame | None = None
    figure: Figure | None = None
    alt: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One number at the head of the report."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suite:
    """How the report shows a file of `bench/`: by which column, and which fields of the config it stands for."""

    title: str
    category: str
    fields: tuple[str, ...]
    text: str
    size_label: str | None = None  # of the axis, where the category is a size


_SUITES = {
    "operations": _Suite(
        title="Parts of a training step",
        category="operation",
        fields=(),
        text="Forward, backward and update of one batch; evaluate is a pass over the whole test half.",
    ),
    "epochs": _Suite(
        title="Epoch",
        category="loader",
        fields=("loader",),
        text="One pass over the training half, from tensors in memory and by the tutorial's DataLoader loop.",
    ),
    "clocks": _Suite(
        title="A step by three clocks",
        category="clock",
        fields=(),
        text="Throughput waits for the device at both ends of a block, latency after every step; device is a GPU's own "
        "time for steps that wait in its queue. On the CPU host and device are one.",
    ),
    "activations": _Suite(
        title="Cost of an activation",
        category="activation",
        fields=("activations",),
        text="One training step with this activation in every hidden layer.",
    ),
    "optimizers": _Suite(
        title="Cost of an optimizer",
        category="optimizer",
        fields=("optimizer", "lr"),
        text="One training step with each optimizer.",
    ),
    "batch_sizes": _Suite(
        title="Scaling with the batch",
        category="batch_size",
        fields=("batch_size",),
        text="One training step at growing batch sizes.",
        size_label="batch size (samples)",
    ),
    "widths": _Suite(
        title="Scaling with the width",
        category="width",
        fields=("hidden_sizes",),
        text="One training step at growing widths of the hidden layers.",
        size_label="width of the hidden layers (units)",
    ),
}

_PROTOCOL = (
    "The unit is a block: calls repeated for at least 20 ms (an epoch is one call) between two readings of a clock "
    "that first waits for the device. Before the first block the operation is repeated until two successive blocks "
    "agree within 2 % (settled), or a time limit. Bars are over blocks. Median, low and high are over the medians of "
    "the processes, or over blocks where there is one process: order statistics, which hold the median with the given "
    "coverage. The blocks of one process resemble each other: they describe that process, and a small difference "
    "between two rows proves nothing; verdicts are what mlpbench ab and mlpbench compare are for. Flagged: blocks "
    "during which something else ran. Below: the runs in this report."
)


def sections(results: Results, target: float) -> list[Section]:
    """Every section for which there are results, in reading order."""
    blocks = table.blocks(results)
    made = []
    if not blocks.empty:
        for name, suite in _SUITES.items():
            made += _suite_sections(results, name, suite, blocks[blocks["suite"] == name])
        made += _memory_sections(results)
        made += _turns_sections(results, blocks[blocks["suite"] == "time"])
    made += _training_sections(results, curves.epochs(results), target)
    made += _other_sections(results)
    return made


def _suite_sections(results: Results, name: str, suite: _Suite, blocks: pd.DataFrame) -> list[Section]:
    """A section for each workload on which the suite ran; usually there is one."""
    if blocks.empty:
        return []
    workloads = pd.Series(
        table.labels(blocks["config"].tolist(), without=(*suite.fields, "device")), index=blocks.index
    )
    made = []
    for number, workload in enumerate(workloads.unique()):
        part = blocks[workloads == workload]
        first = part.drop_duplicates("row").reset_index(drop=True)
        shown = table.timings(part).drop(columns=["suite", "config", "operation"])
        shown.insert(0, suite.category, first[suite.category])
        # evaluate works on a hundred times as much as the others, and would make their bars vanish
        drawn = part[part["operation"] != "evaluate"] if suite.category == "operation" else part
        spoken = ", ".join(
            f"{row[suite.category]} on {row['device']} {display.seconds(row['median_s'])}"
            for _, row in shown.iterrows()
        )
        made.append(
            Section(
                name=f"{name.replace('_', '-')}{f'-{number + 1}' if number else ''}",
                title=suite.title if len(set(workloads)) == 1 else f"{suite.title}: {workload}",
                text=f"{suite.text} Workload: {_workload(first['config'].iloc[0], suite)}.",
                frame=shown,
                figure=_suite_figure(suite, drawn),
                alt=f"{suite.title}, median: {spoken}.",
                commands=table.commands(results, set(part["session"])),
            )
        )
    return made


def _suite_figure(suite: _Suite, blocks: pd.DataFrame) -> Figure | None:
    if blocks.empty:
        return None
    if suite.size_label:
        return plot.scaling(blocks, suite.category, suite.size_label)
    return plot.times(blocks, suite.category)


def _workload(config: RunConfig, suite: _Suite) -> str:
    spoken = {
        "dataset": config.dataset,
        "hidden_sizes": f"hidden layers of {'-'.join(map(str, config.hidden_sizes))} units",
        "activations": f"with {', '.join(config.activations)}",
        "batch_size": f"batch {config.batch_size}",
        "optimizer": f"{config.optimizer}, lr {config.lr:g}",
    }
    shown = [text for name, text in spoken.items() if name not in suite.fields]
    default = RunConfig()
    others = ("model", "loader", "momentum", "weight_decay", "engine", "num_threads", "seed")
    shown += [
        f"{name} {format_value(getattr(config, name))}"
        for name in others
        if name not in suite.fields and getattr(config, name) != getattr(default, name)
    ]
    return ", ".join(shown)


def _memory_sections(results: Results) -> list[Section]:
    frame = table.memories(results)
    if frame.empty:
        return []
    text = (
        "The most that one process held, data, model and libraries included, from a pass of its own that is not timed. "
        "Before: what it held when the operation began."
    )
    sessions = {memory.session for memory in results.memories}
    return [
        Section(name="memory", title="Peak memory", text=text, frame=frame, commands=table.commands(results, sessions))
    ]


def _turns_sections(results: Results, blocks: pd.DataFrame) -> list[Section]:
    if blocks.empty:
        return []
    commands = table.commands(results, set(blocks["session"]))
    timings = table.timings(blocks)
    timings.insert(1, "workload", table.labels(timings["config"].tolist()))
    made = [
        Section(
            name="timed",
            title="Timed by hand",
            text="What mlpbench time measured, setting by setting.",
            frame=timings.drop(columns=["suite", "config"]),
            commands=commands,
        )
    ]
    ratios = table.ratios(blocks)
    if not ratios.empty:
        made.append(
            Section(
                name="in-turns",
                title="Compared in turns",
                text="Settings that ran in turns in one process, round by round. The ratio is contender over baseline; "
                "below 1 is faster. Low and high: a 95 % interval over rounds.",
                frame=ratios,
                commands=commands,
            )
        )
    return made


def _training_sections(results: Results, epochs: pd.DataFrame, target: float) -> list[Section]:
    if epochs.empty:
        return []
    made = []
    tutorial = epochs[[_is_tutorial(config) for config in epochs["config"]]].sort_values("num_epochs")
    # a shorter run of the same seed is the beginning of the longer one, not another draw
    tutorial = tutorial.drop_duplicates(["seed", "epoch"], keep="last")
    if not tutorial.empty:
        made.append(
            Section(
                name="tutorial",
                title="The tutorial, again",
                text="The 2020 tutorial's workload on MNIST, over the points that it published: mean over seeds, band "
                "from the lowest to the highest seed. The first epoch spreads widely from seed to seed; the published "
                "point is a single draw.",
                frame=curves.against_tutorial(tutorial),
                figure=plot.tutorial_curve(tutorial),
                alt="Training and test accuracy per epoch with the range over seeds, and the published points.",
                commands=table.commands(results, set(tutorial["session"])),
            )
        )
    for dataset in epochs["dataset"].unique():
        made += _dataset_sections(results, dataset, epochs[epochs["dataset"] == dataset], target)
    return made


def _is_tutorial(config: RunConfig) -> bool:
    """The tutorial's workload, whatever its loader, device, seed and number of epochs."""
    reference = RunConfig(dataset="mnist")
    names = ("dataset", "model", "hidden_sizes", "activations", "batch_size", "optimizer", "lr", "weight_decay")
    return all(getattr(config, name) == getattr(reference, name) for name in names)


def _dataset_sections(results: Results, dataset: str, epochs: pd.DataFrame, target: float) -> list[Section]:
    commands = table.commands(results, set(epochs["session"]))
    file_name = "".join(c if c.isalnum() else "-" for c in dataset)
    accuracies = curves.accuracies(epochs).drop(columns="dataset")
    targets = curves.targets(epochs, target)
    arrival = curves.time_to_accuracy(targets).drop(columns="dataset")
    last = ", ".join(f"{row['label']} {row['mean_accuracy']:.4f}" for _, row in accuracies.iterrows())
    reached = ", ".join(f"{row['label']} {row['num_reached']} of {row['num_seeds']}" for _, row in arrival.iterrows())
    return [
        Section(
            name=f"accuracy-{file_name}",
            title=f"Accuracy by epoch on {dataset}",
            text="Test accuracy after each epoch: mean over seeds, band from the worst to the best seed. The table has "
            "the last epoch; low and high are a 95 % interval of the mean.",
            frame=accuracies,
            figure=plot.accuracy_curves(epochs),
            alt=f"Test accuracy after the last epoch, mean over seeds: {last}.",
            commands=commands,
        ),
        Section(
            name=f"time-to-accuracy-{file_name}",
            title=f"Time to {target:.0%} test accuracy on {dataset}",
            text="Training time alone, evaluation not counted, to the first epoch that reaches the target; a point is "
            "a seed. A seed that never does is a miss: it counts as infinitely late in the median. Low and high: "
            "Wilson's 95 % interval of the share of seeds that got there.",
            frame=arrival,
            figure=plot.time_to_accuracy(targets, target),
            alt=f"Seeds that reached {target:.0%}: {reached}.",
            commands=commands,
        ),
    ]


def _other_sections(results: Results) -> list[Section]:
    made = [
        Section(
            name="activation-functions",
            title="The activation functions",
            text="Each function and its derivative, from its formula; the tests hold PyTorch's and our own to it.",
            figure=plot.activation_functions(),
            alt="relu, tanh, elu, leaky_relu, gelu, silu and sigmoid from x = -4 to 4, and their derivatives.",
        )
    ]
    checks = table.checks(results)
    if not checks.empty:
        made.append(
            Section(
                name="determinism",
                title="Same seed, same bits?",
                text="The same seed trained twice, compared bit for bit over every initial parameter, loss, gradient "
                "and updated parameter. PyTorch promises nothing across thread counts: it splits sums differently.",
                frame=checks,
                commands=table.commands(results, {check.session for check in results.checks}),
            )
        )
    peaks = table.peaks(results)
    if not peaks.empty:
        text = (
            "The best rates of a large float32 product and of a large copy (read and written). The column roof of the "
            "tables above is what a call's products alone would take at that rate, over what the call takes."
        )
        made.append(Section(name="peaks", title="What the machine can do", text=text, frame=peaks))
    skips = table.skips(results)
    if not skips.empty:
        text = "What was asked for and could not run here."
        made.append(Section(name="skipped", title="Not measured", text=text, frame=skips))
    made.append(Section(name="protocol", title="How it was measured", text=_PROTOCOL, frame=table.sessions(results)))
    return made


def summary(results: Results) -> str:
    """Machine and stack of the newest session, in a sentence."""
    e = results.newest_session.environment
    gpu = f"{e.gpu_model} (CUDA {e.cuda})" if e.gpu_model else "no CUDA device"
    return (
        f"{e.cpu_model}, {e.num_cpus} CPUs ({e.cpu_capability}), {e.memory_bytes / 2**30:.0f} GiB, {gpu}; {e.os}, "
        f"Python {e.python}, PyTorch {e.torch} with {e.num_threads} threads; mlpbench {e.mlpbench} at {e.commit}"
        f"{' with uncommitted changes' if e.dirty else ''}."
    )


def facts(results: Results) -> list[Fact]:
    """The few numbers that a reader wants first."""
    made = []
    blocks = table.blocks(results)
    if not blocks.empty:
        made += _time_facts(blocks)
    for _, check in table.checks(results).iterrows():
        note = f"{check['device']}, {check['num_steps']} steps"
        if not check["equal_bits"]:
            note += f"; first: {check['first_difference']}"
        value = "equal bits" if check["equal_bits"] else "bits differ"
        made.append(Fact(name=f"Same seed, {check['check']}", value=value, note=note))
    epochs = curves.epochs(results)
    if not epochs.empty:
        best = curves.accuracies(epochs).sort_values("mean_accuracy").iloc[-1]
        seeds = "1 seed" if best["num_seeds"] == 1 else f"mean of {best['num_seeds']} seeds"
        note = f"{best['dataset']}: {best['label']}, {best['num_epochs']} epochs, {seeds}"
        made.append(Fact(name="Best test accuracy", value=f"{best['mean_accuracy']:.4f}", note=note))
    return made


def _time_facts(blocks: pd.DataFrame) -> list[Fact]:
    """Step and epoch of the session that measured them last, and the loaders' ratio only if they ran in turns."""
    made = []
    for suite, operation, name in (
        ("operations", "train_step", "Training step"),
        ("epochs", "epoch", "Epoch in memory"),
    ):
        part = blocks[(blocks["suite"] == suite) & (blocks["operation"] == operation) & (blocks["loader"] == "memory")]
        for _, row in table.timings(
            part[part["session"] == part["session"].iloc[-1]] if len(part) else part
        ).iterrows():
            note = f"{row['config'].dataset}, batch {row['config'].batch_size}; {row['samples_per_s']:,.0f} samples/s"
            made.append(Fact(name=f"{name}, {row['device']}", value=display.seconds(row["median_s"]), note=note))
    for _, row in table.ratios(blocks).iterrows():
        if (row["operation"], row["baseline"], row["contender"]) == ("epoch", "loader=memory", "loader=dataloader"):
            interval = f"{row['low_ratio']:.2f} to {row['high_ratio']:.2f} over {row['num_rounds']} rounds in turns"
            made.append(Fact(name="DataLoader loop over memory", value=f"{row['time_ratio']:.2f}×", note=interval))
    made += [Fact(name=found.what, value=found.bound, note=found.why) for found in diagnosis.diagnoses(blocks)]
    return made
