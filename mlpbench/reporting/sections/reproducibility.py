"""The report's page on reproducibility: how far the same bits reach, by the certificates that are there."""

import itertools
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.divergence import drift
from mlpbench.certifying.levels import (
    LEVELS,
    Pair,
    environment_differences,
    ladder,
    pairs,
    runs,
    surroundings,
    verified_level,
)
from mlpbench.config import RunConfig, format_value
from mlpbench.reporting import figures, frames
from mlpbench.reporting.section import Fact, Part, ReportData, Section

_COMMANDS = ("pytest bench/ -k certificates", "mlpbench certify OUT.json", "mlpbench verify CERT.json")
_EQUAL, _DIVERGED = "#8fd0b5", "#f0b48a"
_ON_COLOUR = "#101010"  # of text on these, in a light page and a dark one
_MOST_ALIKE = 2  # certificates of one place and one content that are compared; more would say the same again

# By what a place is named, where it differs: not by what no arithmetic depends on, or what `num_threads` says already.
_IRRELEVANT = ("python", "torchvision", "numpy", "os", "mlpbench", "commit", "dirty", "memory_bytes", "num_cpus",
               "gpu_memory_bytes", "cudnn", "cuda", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES", "KMP_AFFINITY",
               "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS",
               "PYTHONHASHSEED", "PYTORCH_CUDA_ALLOC_CONF")  # fmt: skip

_IF_NEEDED = ("cpu_model", "ATEN_CPU_CAPABILITY")  # only where places could not be told apart without it


def determinism(data: ReportData) -> Part:
    """Make the section of runs that were repeated with the same seed on this machine, and a fact for each."""
    reruns = frames.checks(data.results)
    if reruns.empty:
        return Part()
    section = Section(
        name="determinism",
        title="Same seed, same bits?",
        text="The same seed trained twice and compared bit for bit: every initial parameter, loss, gradient and "
        "updated parameter. PyTorch promises nothing across thread counts, because it splits sums differently.",
        frame=reruns,
        commands=frames.commands(data.results, {check.session for check in data.results.checks}),
    )
    facts = []
    for rerun in reruns.to_dict("records"):
        note = f"{rerun['device']}, {rerun['num_steps']} steps"
        if not rerun["equal_bits"]:
            note += f"; first difference: {rerun['first_difference']}"
        value = "equal bits" if rerun["equal_bits"] else "bits differ"
        facts.append(Fact(name=f"Same seed, {rerun['check']}", value=value, note=note))
    return Part(sections=(section,), facts=tuple(facts))


def make(data: ReportData) -> Part:
    """Make the sections of certificates: levels of every run, and for each run its matrix and its drift."""
    compared = [Run(run) for run in runs(data.certificates)]
    if not compared:
        return Part()
    sections = [
        Section(
            name="reproducibility",
            title="Reproducibility levels",
            text="A level is verified only if two certificates that differ in this way are equal in every digest. A "
            "run is claimed up to the last level before the first one that is not verified. Diverged: the first stage "
            "of the computation whose bits differ.",
            frame=pd.DataFrame(row for run in compared for row in run.levels()),
            commands=_COMMANDS,
        )
    ]
    for number, run in enumerate(compared):
        suffix = f"-{number + 1}" if number else ""
        sections += run.matrix(f"reproducibility-matrix{suffix}")
        sections += run.drifts(f"reproducibility-drift{suffix}")
    return Part(sections=tuple(sections), facts=tuple(_facts(compared)))


def _facts(compared: "Sequence[Run]") -> list[Fact]:
    """For each arithmetic, how far it was verified, over all runs: a level is refuted if it is in any."""
    made = []
    for arithmetic in dict.fromkeys(run.first.arithmetic for run in compared):
        every = [pair for run in compared if run.first.arithmetic == arithmetic for pair in run.pairs]
        level = verified_level(ladder(every))
        note = f"{LEVELS[level]}{_emulated(every, level)}; " if level else "no two certificates are equal; "
        steps = min((min(pair.one.num_steps, pair.other.num_steps) for pair in every), default=0)
        note += f"{len(every)} pairs of certificates, at least {steps} steps each"
        made.append(Fact(name=f"Same bits, {arithmetic}", value=f"L{level}", note=note))
    return made


def _emulated(compared: Iterable[Pair], level: int) -> str:
    """A word of it where another architecture is known by an emulator alone, which is not its silicon."""
    equal = [pair for pair in compared if pair.divergence is None and level in pair.levels]
    environments = [(pair.one.environment, pair.other.environment) for pair in equal]
    is_emulated = level == 5 and all("QEMU" in one.cpu_model + other.cpu_model for one, other in environments)
    return ", emulated" if is_emulated else ""


class Run:
    """Certificates of one run, by the place in which they were made."""

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        self.first = certificates[0]
        places: dict[str, list[Certificate]] = {}
        for certificate, name in zip(certificates, _names(certificates), strict=True):
            places.setdefault(name, []).append(certificate)
        kept = {name: _few(made) for name, made in places.items()}
        self._names = list(kept)
        self._name_of = {id(certificate): name for name, made in kept.items() for certificate in made}
        self.pairs = pairs([certificate for made in kept.values() for certificate in made])
        config = self.first.config
        self.title = f"{self.first.arithmetic}, {config.optimizer} on {config.dataset}"
        others = [
            f"{name}={format_value(getattr(config, name))}"
            for name in ("hidden_sizes", "activations", "batch_size", "lr", "momentum", "weight_decay", "seed")
            if getattr(config, name) != getattr(RunConfig(), name)
        ]
        self.title += f" ({' '.join(others)})" if others else ""

    def levels(self) -> list[dict[str, object]]:
        """A row for each level."""
        rungs = ladder(self.pairs)
        claimed = verified_level(rungs)
        return [
            {
                "run": self.title,
                "level": f"L{rung.level}",
                "same_bits_on": LEVELS[rung.level] + (_emulated(self.pairs, rung.level) if rung.num_equal else ""),
                "verdict": "diverged" if rung.num_diverged else "verified" if rung.num_equal else "not tried",
                "is_claimed": rung.level <= claimed,
                "num_equal_pairs": rung.num_equal,
                "num_diverged_pairs": rung.num_diverged,
                "first_difference": rung.first.stage if rung.first else "",
            }
            for rung in rungs
        ]

    def matrix(self, name: str) -> list[Section]:
        """Every place against each other, if there are several."""
        names = self._names
        if len(names) < 2:
            return []
        cells = dict.fromkeys(itertools.product(names, names))
        for pair in self.pairs:
            one, other = self._places_of(pair)
            found = cells[one, other] or (pair.divergence.stage if pair.divergence else "")
            cells[one, other] = cells[other, one] = found
        words = {None: "", "": "="}
        rows = [
            {"number": row + 1, "place": a}
            | {f"with_{column + 1}": words.get(cells[a, b], cells[a, b]) for column, b in enumerate(names)}
            for row, a in enumerate(names)
        ]
        between = [cells[a, b] for row, a in enumerate(names) for b in names[row + 1 :]]
        return [
            Section(
                name=name,
                title=f"Pairwise comparison: {self.title}",
                text="Each place against each other: = where every digest is equal, else where they first differ. The "
                "numbers are those of the places in the table.",
                frame=pd.DataFrame(rows),
                figure=_matrix(names, cells),
                alt=f"{self.title}: {between.count('')} of {len(between)} pairs of places have equal bits.",
                commands=_COMMANDS,
            )
        ]

    def _places_of(self, pair: Pair) -> tuple[str, str]:
        return self._name_of[id(pair.one)], self._name_of[id(pair.other)]

    def drifts(self, name: str) -> list[Section]:
        """How far other places are from the first, where any is."""
        rows = [row for place, pair in self._from_first().items() for row in _drift_rows(place, pair)]
        if not rows:
            return []
        frame = pd.DataFrame(rows)
        ends = frame.groupby("place", sort=False).tail(1)
        spoken = ", ".join(f"{row['place']} {row['relative_norm']:.2g}" for row in ends.to_dict("records"))
        return [
            Section(
                name=name,
                title=f"How far places drift apart: {self.title}",
                text=f"Parameters against those of the first place ({self._names[0]}), at the steps of "
                "which certificates keep values: the norm of the difference over the norm. The table has the last "
                "step, and the accuracy on the test half in both places where the runs are as long.",
                frame=ends.reset_index(drop=True),
                figure=_curves(frame),
                alt=f"Relative difference of the parameters after the last step: {spoken}.",
                commands=_COMMANDS,
            )
        ]

    def _from_first(self) -> dict[str, Pair]:
        """The first certificate against one of each other place that diverged."""
        found: dict[str, Pair] = {}
        for pair in self.pairs:
            if pair.one is self.first and pair.divergence is not None:
                found.setdefault(self._places_of(pair)[1], pair)
        return found


def _few(certificates: Sequence[Certificate]) -> list[Certificate]:
    """The last ones of each content."""
    by_content: dict[object, list[Certificate]] = {}
    for certificate in certificates:
        content = (certificate.before, certificate.steps, certificate.after)
        by_content.setdefault(content, []).append(certificate)
    return [certificate for made in by_content.values() for certificate in made[-_MOST_ALIKE:]]


def _names(certificates: Sequence[Certificate]) -> list[str]:
    """A name for each certificate's place: in what it differs from any other."""
    varying: dict[str, None] = {}
    for other in certificates[1:]:
        varying |= dict.fromkeys(environment_differences(certificates[0], other))
    shown = [name for name in varying if name not in _IRRELEVANT]
    named = [_name(certificate, shown) for certificate in certificates]
    for name in _IF_NEEDED:
        without = [other for other in shown if other != name]
        shorter = [_name(certificate, without) for certificate in certificates]
        if len(set(shorter)) == len(set(named)):
            shown, named = without, shorter
    return named


def _name(certificate: Certificate, shown: Sequence[str]) -> str:
    found = surroundings(certificate)
    parts = [_spoken(name, found[name]) for name in shown if found.get(name, "none") != "none"]
    return ", ".join(parts) or certificate.environment.machine


def _spoken(name: str, value: str) -> str:
    if name == "num_threads":
        return "1 thread" if value == "1" else f"{value} threads"
    if name == "torch":
        return f"torch {value.partition('+')[0]}"
    speaks_for_itself = name in ("engine", "device", "cpu_capability", "cpu_model", "architecture")
    return value if speaks_for_itself else f"{name} {value}"


def _drift_rows(place: str, pair: Pair) -> list[dict[str, object]]:
    is_as_long = pair.one.num_steps == pair.other.num_steps
    return [
        {
            "place": place,
            "step": found.step,
            "relative_norm": found.relative_norm,
            "loss_difference": found.loss,
            "first_place_accuracy": pair.one.test_accuracy if is_as_long else None,
            "test_accuracy": pair.other.test_accuracy if is_as_long else None,
        }
        for found in drift(pair.one, pair.other)
    ]


def _matrix(names: Sequence[str], cells: dict[tuple[str, str], str | None]) -> Figure:
    values = np.array([[_shade(cells[a, b]) for b in names] for a in names])
    words = np.array([[_word(cells[a, b]) for b in names] for a in names])
    with figures.canvas(1.6 + 0.36 * len(names)) as (figure, (axes,)):
        sns.heatmap(
            values, mask=np.isnan(values), annot=words, fmt="", cmap=[_EQUAL, _DIVERGED], vmin=0, vmax=1, cbar=False,
            linewidths=1, annot_kws={"color": _ON_COLOUR, "fontsize": 7}, ax=axes,
        )  # fmt: skip
        numbers = [str(index + 1) for index in range(len(names))]
        axes.set_xticklabels(numbers)
        axes.set_yticklabels(numbers, rotation=0)
        axes.set(xlabel="place", ylabel="place")
        axes.grid(visible=False)
    return figure


def _shade(difference: str | None) -> float:
    return np.nan if difference is None else float(bool(difference))


def _word(difference: str | None) -> str:
    """The cell's text: the step of the first difference, or what came before the first step."""
    if not difference:
        return "" if difference is None else "="
    words = difference.split(" ")
    return f"{words[0]} {words[1]}" if words[0] == "step" else words[0]


def _curves(frame: pd.DataFrame) -> Figure:
    shown = frame[frame["relative_norm"] > 0].assign(after=lambda part: part["step"] + 1)
    shown["place"] = [textwrap.fill(place, 42) for place in shown["place"]]  # a phone's width
    num_lines = sum(place.count("\n") + 1 for place in shown["place"].unique())
    with figures.canvas(2.9 + 0.2 * num_lines) as (figure, (axes,)):
        sns.lineplot(shown, x="after", y="relative_norm", hue="place", marker="o", ax=axes)
        axes.set(xscale="log", yscale="log", xlabel="steps of training", ylabel="relative difference (norm)")
        axes.xaxis.set_major_formatter("{x:g}")
        figures.legend_below(figure, axes)
    return figure
