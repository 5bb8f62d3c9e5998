"""Report the results of the files of `bench/`: a section for each, and the first facts."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from mlpbench.config import Loader, Operation, RunConfig, format_value
from mlpbench.records.results import Results
from mlpbench.reporting import diagnosis, formatting, frames
from mlpbench.reporting.figures import timing
from mlpbench.reporting.section import Fact, Part, ReportData, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suite:
    """Describe how the report shows a file of `bench/`."""

    title: str
    category: str
    """The column that distinguishes its rows."""
    fields: tuple[str, ...]
    """The fields of the config that this column stands for."""
    text: str
    size_label: str | None = None
    """The label of the axis, if the category is a size."""


_SUITES = {
    "operations": _Suite(
        title="Parts of a training step",
        category="operation",
        fields=(),
        text="Forward, backward and update of one batch; evaluate is one pass over the whole test set.",
    ),
    "epochs": _Suite(
        title="Epoch",
        category="loader",
        fields=("loader",),
        text="One pass over the training set, from tensors in memory and by the tutorial's DataLoader loop.",
    ),
    "clocks": _Suite(
        title="A step by three clocks",
        category="clock",
        fields=(),
        text="Throughput waits for the device at both ends of a block, latency after every step. Device is the GPU's "
        "own time for steps that wait in its queue; a CPU has no such clock.",
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
        text="One training step at increasing batch sizes.",
        size_label="batch size (samples)",
    ),
    "widths": _Suite(
        title="Scaling with the width",
        category="width",
        fields=("hidden_sizes",),
        text="One training step at increasing widths of the hidden layers.",
        size_label="width of the hidden layers (units)",
    ),
}


def make(data: ReportData) -> Part:
    """Make a section for each file of the suite that was run, and the facts about steps and epochs."""
    if data.blocks.empty:
        return Part()
    sections = tuple(
        section
        for name, suite in _SUITES.items()
        for section in _sections(data.results, name, suite, data.blocks[data.blocks["suite"] == name])
    )
    return Part(sections=sections, facts=tuple(_facts(data.blocks)))


def _sections(results: Results, name: str, suite: _Suite, blocks: pd.DataFrame) -> Iterator[Section]:
    """Make a section for each workload that the suite ran on; usually there is one."""
    if blocks.empty:
        return
    workloads = pd.Series(
        frames.labels(blocks["config"].tolist(), without=(*suite.fields, "device")), index=blocks.index
    )
    for number, workload in enumerate(workloads.unique()):
        part = blocks[workloads == workload]
        first = part.drop_duplicates("row").reset_index(drop=True)
        table = frames.timings(part).drop(columns=["suite", "config", "operation"])
        table.insert(0, suite.category, first[suite.category])
        # `evaluate` works on a hundred times as many samples, so its bar would hide the others.
        bars = part[part["operation"] != Operation.EVALUATE] if suite.category == "operation" else part
        medians = ", ".join(
            f"{row[suite.category]} on {row['device']} {formatting.seconds(row['median_s'])}"
            for _, row in table.iterrows()
        )
        yield Section(
            name=f"{name.replace('_', '-')}{f'-{number + 1}' if number else ''}",
            title=suite.title if len(set(workloads)) == 1 else f"{suite.title}: {workload}",
            text=f"{suite.text} Workload: {_workload(first['config'].iloc[0], suite)}.",
            frame=table,
            figure=_figure(suite, bars),
            alt=f"{suite.title}, median: {medians}.",
            commands=frames.commands(results, set(part["session"])),
        )


def _figure(suite: _Suite, blocks: pd.DataFrame) -> Figure | None:
    if blocks.empty:
        return None
    if suite.size_label:
        return timing.scaling(blocks, suite.category, suite.size_label)
    return timing.times(blocks, suite.category)


def _workload(config: RunConfig, suite: _Suite) -> str:
    """Describe the workload in words, without the fields that the suite varies."""
    words = {
        "dataset": config.dataset,
        "hidden_sizes": f"hidden layers of {'-'.join(map(str, config.hidden_sizes))} units",
        "activations": f"with {', '.join(config.activations)}",
        "batch_size": f"batch {config.batch_size}",
        "optimizer": f"{config.optimizer}, lr {config.lr:g}",
    }
    parts = [text for name, text in words.items() if name not in suite.fields]
    default = RunConfig()
    others = ("model", "loader", "momentum", "weight_decay", "engine", "num_threads", "seed")
    parts += [
        f"{name} {format_value(getattr(config, name))}"
        for name in others
        if name not in suite.fields and getattr(config, name) != getattr(default, name)
    ]
    return ", ".join(parts)


def _facts(blocks: pd.DataFrame) -> Iterator[Fact]:
    """Give the time of a step and of an epoch, and the change between the loaders if they ran interleaved.

    Step and epoch are those of the session that measured them last.
    """
    for suite, operation, name in (
        ("operations", Operation.TRAIN_STEP, "Training step"),
        ("epochs", Operation.EPOCH, "Epoch in memory"),
    ):
        is_measured = (blocks["suite"] == suite) & (blocks["operation"] == operation)
        part = blocks[is_measured & (blocks["loader"] == Loader.MEMORY)]
        if part.empty:
            continue
        for _, row in frames.timings(part[part["session"] == part["session"].iloc[-1]]).iterrows():
            note = f"{row['config'].dataset}, batch {row['config'].batch_size}; {row['samples_per_s']:,.0f} samples/s"
            yield Fact(name=f"{name}, {row['device']}", value=formatting.seconds(row["median_s"]), note=note)
    loaders = [
        row
        for _, row in frames.ratios(blocks).iterrows()
        if (row["operation"], row["baseline"], row["contender"]) == ("epoch", "loader=memory", "loader=dataloader")
    ]
    for row in loaders:
        low, value, high = (formatting.change(row[f"{name}_ratio"] - 1) for name in ("low", "time", "high"))
        note = f"time of an epoch; {low} to {high} over {row['num_rounds']} interleaved rounds"
        workload = f", {row['workload']}" if len(loaders) > 1 else ""
        yield Fact(name=f"DataLoader loop against memory{workload}", value=value, note=note)
    for result in diagnosis.diagnoses(blocks):
        yield Fact(name=result.subject, value=result.bound, note=result.reason)
