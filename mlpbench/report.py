"""The report: tables to the terminal, and report.md, report.html, figures and CSV files into a folder.

`report.html` is one file: it needs no network and no other file.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

import mlpbench
from mlpbench import display, plot, table
from mlpbench.records import RunConfig
from mlpbench.store import Results

TITLE = "mlpbench report"


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


# --- sections ---------------------------------------------------------------------------------------------------------

_SUITES = {
    "operations": ("Parts of a training step", "operation",
                   "Forward, backward and update of one batch, and evaluation of the whole test half."),
    "epochs": ("Epoch", "loader",
               "One pass over the training half, from tensors in memory and by the tutorial's DataLoader loop."),
    "activations": ("Cost of an activation", "activation", "One training step with this activation in every hidden layer."),
    "optimizers": ("Cost of an optimizer", "optimizer", "One training step with each optimizer."),
    "batch_sizes": ("Scaling with the batch", "batch_size", "One training step at growing batch sizes."),
    "widths": ("Scaling with the width", "width", "One training step at growing widths of the hidden layers."),
}  # fmt: skip
_SCALES = {"batch_size": "batch size (samples)", "width": "width of the hidden layers (units)"}


def sections(results: Results, target: float) -> list[Section]:
    """Every section for which there are results, in reading order."""
    blocks = table.blocks(results)
    made = []
    if not blocks.empty:
        blocks = blocks.assign(
            activation=[config.activations[0] for config in blocks["config"]],
            width=[config.hidden_sizes[0] for config in blocks["config"]],
        )
        for suite, (title, category, text) in _SUITES.items():
            part = blocks[blocks["suite"] == suite]
            if not part.empty:
                made.append(_timing_section(results, suite, title, category, text, part))
        made += _turns_section(results, blocks[blocks["suite"] == "time"])
    made += _training_sections(results, table.epochs(results), target)
    made.append(
        Section(
            name="activation-functions",
            title="The activation functions",
            text="Each function and its derivative, from its formula; PyTorch's and our own agree with them in the tests.",
            figure=plot.activation_functions(),
            alt="Curves of relu, tanh, elu, leaky_relu, gelu, silu and sigmoid from x = -4 to 4, and of their derivatives.",
        )
    )
    checks = table.checks(results)
    if not checks.empty:
        made.append(
            Section(
                name="determinism",
                title="Same seed, same bits?",
                text="The same seed trained twice, compared bit for bit over every initial parameter, loss, gradient and "
                "updated parameter. Without a first difference all bits were equal. A difference under another thread "
                "count is what PyTorch's default engine does: sums are split differently.",
                frame=checks,
                commands=_commands(results, {c.session for c in results.checks}),
            )
        )
    skips = table.skips(results)
    if not skips.empty:
        made.append(
            Section(name="skipped", title="Not measured", text="What was asked for and could not run here.", frame=skips)
        )
    made.append(_protocol_section(results))
    return made


def _timing_section(
    results: Results, suite: str, title: str, category: str, text: str, part: pd.DataFrame
) -> Section:
    timings = table.timings(part)
    kept = part.drop_duplicates("measurement").reset_index(drop=True)
    shown = pd.concat([kept[[category]], timings.drop(columns=["suite", "config", "operation"])], axis=1)
    rest = table.labels(kept["config"].tolist(), without=(_field(category), "device", "lr"))
    if len(set(rest)) > 1:  # runs of several workloads: say which is which
        shown.insert(1, "workload", rest)
    if category in _SCALES:
        figure = plot.scaling(part, category, _SCALES[category])
    else:
        what = "time of an operation" if category == "operation" else f"time of one {kept['operation'].iloc[0]}"
        figure = plot.times(part, category, what.replace("_", " "))
    return Section(
        name=suite.replace("_", "-"),
        title=title,
        text=f"{text} Workload: {_workload(kept['config'].iloc[0], category)}.",
        frame=shown,
        figure=figure,
        alt=f"{title}, median: {_spoken(shown, category)}.",
        commands=_commands(results, set(part["session"])),
    )


def _field(category: str) -> str:
    return {"activation": "activations", "width": "hidden_sizes"}.get(category, category)


def _workload(config: RunConfig, category: str) -> str:
    facts = {
        "dataset": config.dataset,
        "hidden_sizes": f"hidden layers of {'-'.join(map(str, config.hidden_sizes))} units",
        "activations": f"with {', '.join(config.activations)}",
        "batch_size": f"batch {config.batch_size}",
        "optimizer": f"{config.optimizer}, lr {config.lr:g}",
    }
    return ", ".join(text for name, text in facts.items() if name != _field(category))


def _spoken(timings: pd.DataFrame, category: str) -> str:
    return ", ".join(
        f"{row[category]} on {row['device']} {display.seconds(row['median_s'])}" for _, row in timings.iterrows()
    )


def _turns_section(results: Results, blocks: pd.DataFrame) -> list[Section]:
    ratios = table.ratios(blocks) if not blocks.empty else blocks
    if ratios.empty:
        return []
    return [
        Section(
            name="in-turns",
            title="Compared in turns",
            text="Settings that ran in turns in one process, round by round. The ratio is contender over baseline, below 1 "
            "is faster, with a 95 % interval over rounds.",
            frame=ratios,
            commands=_commands(results, set(blocks["session"])),
        )
    ]


def _training_sections(results: Results, epochs: pd.DataFrame, target: float) -> list[Section]:
    if epochs.empty:
        return []
    commands = _commands(results, {r.session for r in results.train_results})
    accuracies = table.accuracies(epochs)
    targets = table.targets(epochs, target)
    arrival = table.time_to_accuracy(targets)
    made = []
    tutorial = epochs[[_is_tutorial(config) for config in epochs["config"]]]
    if not tutorial.empty:
        made.append(
            Section(
                name="tutorial",
                title="The tutorial, again",
                text="The 2020 tutorial's workload on MNIST, over the points that it published. The first epoch spreads widely "
                "from seed to seed; the published one is a single draw.",
                frame=table.against_tutorial(tutorial),
                figure=plot.tutorial_curve(tutorial),
                alt="Training and test accuracy per epoch with the range over seeds, and the tutorial's published points.",
                commands=commands,
            )
        )
    made.append(
        Section(
            name="accuracy",
            title="Accuracy by epoch",
            text="Test accuracy after each epoch: mean over seeds, band from the worst to the best seed. The table gives the last "
            "epoch with a 95 % interval of the mean.",
            frame=accuracies,
            figure=plot.accuracy_curves(epochs),
            alt=f"Test accuracy after the last epoch, mean over seeds: {_spoken_accuracy(accuracies)}.",
            commands=commands,
        )
    )
    made.append(
        Section(
            name="time-to-accuracy",
            title=f"Time to {target:.0%} test accuracy",
            text="Training time alone, evaluation not counted, until the first epoch that reaches the target. A seed that never "
            "does is a miss: it counts as infinitely late in the median. The share of seeds has Wilson's 95 % interval.",
            frame=arrival,
            figure=plot.time_to_accuracy(targets, target),
            alt=f"Seeds that reached {target:.0%}: "
            + ", ".join(f"{r['label']} {r['num_reached']} of {r['num_seeds']}" for _, r in arrival.iterrows())
            + ".",
            commands=commands,
        )
    )
    return made


def _is_tutorial(config: RunConfig) -> bool:
    reference = RunConfig(dataset="mnist")
    names = ("dataset", "hidden_sizes", "activations", "batch_size", "optimizer", "lr", "weight_decay")
    return all(getattr(config, name) == getattr(reference, name) for name in names)


def _spoken_accuracy(accuracies: pd.DataFrame) -> str:
    return ", ".join(f"{row['label']} {row['mean_accuracy']:.4f}" for _, row in accuracies.iterrows())


def _protocol_section(results: Results) -> Section:
    return Section(
        name="protocol",
        title="How it was measured",
        text="The unit is a block: calls repeated for at least 20 ms (an epoch is one call) between two readings of a clock that first "
        "waits for the device. Before the first block the operation is repeated until two successive blocks agree within 2 %, or "
        "a time limit (column `settled`). Bars and medians are over blocks. Lines and low-high span order statistics of the blocks "
        "with the given coverage; the blocks of one process resemble each other, so these describe that process, and small "
        "differences between two sections prove nothing. Below: the sessions in this report.",
        frame=table.sessions(results),
    )


def _commands(results: Results, session_ids: set[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(results.sessions[key].command for key in results.sessions if key in session_ids))


# --- the head ---------------------------------------------------------------------------------------------------------


def summary(results: Results) -> str:
    """Machine and stack of the newest session, in a sentence."""
    e = max(results.sessions.values(), key=lambda session: session.started_at).environment
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
        timings = table.timings(blocks)
        for device in timings["device"].unique():
            part = timings[timings["device"] == device]
            made += _time_facts(part, device)
    for check in results.checks[-3:]:
        value = "equal bits" if check.first_difference is None else "bits differ"
        note = f"{check.config.device}; {check.num_steps} steps"
        made.append(Fact(name=f"Same seed, {check.name}", value=value, note=f"{note}; first: {check.first_difference}" if check.first_difference else note))  # noqa: E501
    epochs = table.epochs(results)
    if not epochs.empty:
        best = table.accuracies(epochs).sort_values("mean_accuracy").iloc[-1]
        made.append(
            Fact(
                name="Best test accuracy",
                value=f"{best['mean_accuracy']:.4f}",
                note=f"{best['label']}, {best['num_epochs']} epochs, {best['num_seeds']} seeds",
            )
        )
    return made


def _time_facts(timings: pd.DataFrame, device: str) -> list[Fact]:
    made = []
    step = timings[(timings["suite"] == "operations") & (timings["operation"] == "train_step")]
    if not step.empty:
        row = step.iloc[-1]
        made.append(
            Fact(
                name=f"Training step, {device}",
                value=display.seconds(row["median_s"]),
                note=f"batch {row['config'].batch_size}; {row['samples_per_s']:,.0f} samples/s",
            )
        )
    epoch = timings[timings["suite"] == "epochs"]
    times = {row["config"].loader: row["median_s"] for _, row in epoch.iterrows()}
    if "memory" in times:
        note = ""
        if "dataloader" in times:
            ratio = times["dataloader"] / times["memory"]
            note = f"the DataLoader loop takes {display.seconds(times['dataloader'])}, {ratio:.1f} times as long"
        made.append(Fact(name=f"Epoch in memory, {device}", value=display.seconds(times["memory"]), note=note))
    return made


# --- writing ----------------------------------------------------------------------------------------------------------


def write(results: Results, directory: Path, target: float) -> Path:
    """Write the report into a folder; returns the path of report.html.

    If `$GITHUB_STEP_SUMMARY` names a file, the Markdown (its figures left out) is appended to it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = sections(results, target)
    for section in made:
        if section.frame is not None:
            section.frame.to_csv(directory / f"{section.name}.csv", index=False)
        if section.figure is not None:
            section.figure.savefig(directory / f"{section.name}.png", dpi=160, facecolor="white")
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mlpbench"), autoescape=jinja2.select_autoescape(["html.jinja"]), trim_blocks=False
    )  # fmt: skip
    page = templates.get_template("report.html.jinja")
    text = templates.get_template("report.md.jinja")
    content = {"title": TITLE, "summary": summary(results), "facts": facts(results), "version": mlpbench.__version__}
    html = page.render(**content, sections=[_rendered(section) for section in made])
    (directory / "report.html").write_text(html, encoding="utf-8")
    (directory / "report.md").write_text(
        text.render(**content, sections=[_rendered(section) for section in made]), encoding="utf-8"
    )
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if step_summary:
        without_figures = [_rendered(section) | {"figure_name": None} for section in made]
        with Path(step_summary).open("a", encoding="utf-8") as file:
            file.write(text.render(**content, sections=without_figures))
    return directory / "report.html"


def _rendered(section: Section) -> dict[str, object]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "alt": section.alt,
        "commands": section.commands,
        "table": None if section.frame is None else display.table(section.frame),
        "svg": None if section.figure is None else _svg(section.figure, section.name, section.alt),
        "figure_name": None if section.figure is None else f"{section.name}.png",
    }


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element that takes the page's colours and speaks its text alternative."""
    buffer = io.StringIO()
    # the salt keeps the ids of the page's figures apart, and the same from run to run
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(plot.INK, "var(--ink)").replace(plot.LINE, "var(--line)")
    head, rest = svg.split(">", 1)
    view_box = head.split('viewBox="')[1].split('"')[0]
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view_box}" role="img" aria-label="{label}">{rest}'


# --- the terminal -----------------------------------------------------------------------------------------------------


def show(results: Results, console: Console, target: float) -> None:
    """Print every table."""
    console.print(summary(results))
    console.print()
    for section in sections(results, target):
        if section.frame is not None:
            display.show(console, section.title, display.table(section.frame))


def show_training(results: Results, console: Console, directory: Path) -> None:
    """Print a training run's epochs (the first and last of many), and draw its loss and accuracy into a folder."""
    epochs = table.epochs(results)
    columns = ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_s"]
    shown = epochs[columns].assign(epoch=epochs["epoch"] + 1)
    few = shown if len(shown) <= 12 else pd.concat([shown.head(4), shown.tail(4)])  # noqa: PLR2004
    display.show(console, "Training", display.table(few))
    directory.mkdir(parents=True, exist_ok=True)
    for quantity in ("loss", "accuracy"):
        plot.training(epochs, quantity).savefig(directory / f"{quantity}.png", dpi=160, facecolor="white")


def show_study(results: Results, console: Console, target: float) -> None:
    """Print a study's accuracies and times to the target accuracy."""
    epochs = table.epochs(results)
    display.show(console, "Test accuracy", display.table(table.accuracies(epochs)))
    arrival = table.time_to_accuracy(table.targets(epochs, target))
    display.show(console, f"Time to {target:.0%} test accuracy", display.table(arrival))


def show_timings(results: Results, console: Console) -> None:
    """Print the timings of settings that ran in turns, and their ratios to the first."""
    blocks = table.blocks(results)
    timings = table.timings(blocks)
    timings.insert(0, "workload", table.labels(timings["config"].tolist()))
    display.show(console, "Timings", display.table(timings.drop(columns=["suite", "config"])))
    ratios = table.ratios(blocks)
    if not ratios.empty:
        display.show(console, "Ratios", display.table(ratios))
