"""Report reproducibility: reruns on this machine, and the levels that certificates of other machines confirm."""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd

from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.divergence import drift
from mlpbench.certifying.levels import (
    Pair,
    judge_levels,
    pairs,
    runs,
    surroundings,
    verified_level,
)
from mlpbench.config import RunConfig, format_value
from mlpbench.records.environment import CPU, NONE, decides
from mlpbench.records.facts import Decides
from mlpbench.reporting import frames
from mlpbench.reporting.figures import certificates as figures
from mlpbench.reporting.section import Fact, Part, ReportData, Section

_COMMANDS = ("pytest bench/ -k certificates", "mlpbench certify OUT.json", "mlpbench verify CERT.json")

MAX_COMPARED = 30
"""The certificates of a run of which every two are compared. Of more, each is compared with the most similar ones."""
MAX_PLACES = 12
"""The environments that a matrix shows at most."""

_MANY = (
    f" Of more than {MAX_COMPARED} certificates of a run, each is compared with the first, with those of the most "
    "similar machine and stack, and with equal ones."
)

# The facts that decide first whether two certificates are alike, from the highest level to the lowest.
_HIERARCHY = ("device", "architecture", "torch", *CPU, "cpu_capability")

# Equal certificates of one environment that are compared; more of them would show the same again.
_MAX_EQUAL = 2

# The settings of a run that name its environment, beside the facts that can change a bit.
_SETTINGS = ("engine", "device", "num_threads")


def determinism(data: ReportData) -> Part:
    """Make the section of reruns, and a fact for each."""
    reruns = frames.reruns(data.results)
    if reruns.empty:
        return Part()
    section = Section(
        name="determinism",
        title="Same seed, same bits?",
        text="The same seed trained twice and compared bit by bit: every initial parameter, loss, gradient and "
        "updated parameter. PyTorch does not promise equal bits for different thread counts, because it then adds in "
        "another order.",
        frame=reruns,
        commands=frames.commands(data.results, {rerun.session for rerun in data.results.checks}),
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
    """Make the sections of certificates: the levels of all runs, then the matrix and the drift of each run."""
    all_runs = [Run(certificates) for certificates in runs(data.certificates)]
    if not all_runs:
        return Part()
    sections = [
        Section(
            name="reproducibility",
            title="Reproducibility levels",
            text="A level is verified if certificates that differ in this way are equal in every digest, and none "
            "diverged. A level is claimed only if all levels up to it are verified. First difference: the first stage "
            f"of the computation whose bits differ.{'' if all(run.is_whole for run in all_runs) else _MANY}",
            frame=pd.DataFrame(row for run in all_runs for row in run.levels()),
            commands=_COMMANDS,
        )
    ]
    for number, run in enumerate(all_runs):
        suffix = f"-{number + 1}" if number else ""
        sections += run.matrix(f"reproducibility-matrix{suffix}")
        sections += run.drifts(f"reproducibility-drift{suffix}")
    return Part(sections=tuple(sections), facts=tuple(_facts(all_runs)))


def _facts(all_runs: "Sequence[Run]") -> list[Fact]:
    """Return the highest verified level of each arithmetic, over all its runs: one refuted run refutes the level."""
    facts = []
    for arithmetic in dict.fromkeys(run.first.arithmetic for run in all_runs):
        compared = [pair for run in all_runs if run.first.arithmetic == arithmetic for pair in run.pairs]
        results = judge_levels(compared)
        level = verified_level(results)
        note = f"{results[level - 1].scope}; " if level else "no two certificates are equal; "
        num_steps = min((min(pair.one.num_steps, pair.other.num_steps) for pair in compared), default=0)
        note += f"{len(compared)} pairs of certificates, at least {num_steps} steps each"
        facts.append(Fact(name=f"Same bits, {arithmetic}", value=f"L{level}", note=note))
    return facts


class Run:
    """Compare the certificates of one run with each other, by the environment in which they were written."""

    first: Certificate
    """The earliest certificate that is compared; the drift of the others is measured from it."""
    pairs: list[Pair]
    """The pairs that are compared: every two certificates, or, of many, the pairs of the most similar ones."""
    is_whole: bool
    """True if every two certificates are compared."""
    title: str
    """Arithmetic, optimizer and data set, and the fields that differ from the default."""

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        by_name: dict[str, list[Certificate]] = {}
        for certificate, name in zip(certificates, _names(certificates), strict=True):
            by_name.setdefault(name, []).append(certificate)
        # With every certificate, the name of its environment.
        named = [(certificate, name) for name, group in by_name.items() for certificate in _distinct(group)]
        self.first = named[0][0]
        self.title = _title(self.first)
        self._names = list(by_name)
        self._name_of = {id(certificate): name for certificate, name in named}
        self._contents = {name: {_content(certificate) for certificate in group} for name, group in by_name.items()}
        self._shown = _most_telling(self._contents)
        compared = [certificate for certificate, _ in named]
        places = [certificate for name in self._shown for certificate in _distinct(by_name[name])[:_MAX_EQUAL]]
        self.is_whole = len(compared) <= MAX_COMPARED
        self.pairs = pairs(compared) if self.is_whole else _telling_pairs(compared, places)

    def levels(self) -> list[dict[str, object]]:
        """Return a row for each level."""
        rungs = judge_levels(self.pairs)
        claimed = verified_level(rungs)
        return [
            {
                "run": self.title,
                "level": f"L{rung.level}",
                "same_bits_on": rung.scope,
                "verdict": "diverged" if rung.num_diverged else "verified" if rung.num_equal else "not tried",
                "is_claimed": rung.level <= claimed,
                "num_equal_pairs": rung.num_equal,
                "num_diverged_pairs": rung.num_diverged,
                "first_difference": rung.first.stage if rung.first else "",
            }
            for rung in rungs
        ]

    def matrix(self, name: str) -> list[Section]:
        """Make the section that compares environments with each other, if there are several."""
        names = self._shown
        if len(names) < 2:
            return []
        # The first stage that differs; empty: equal bits; None: not compared.
        stages: dict[tuple[str, str], str | None] = dict.fromkeys(itertools.product(names, names))
        for pair in self.pairs:
            one, other = self._names_of(pair)
            if (one, other) not in stages:
                continue
            stage = stages[one, other] or (pair.divergence.stage if pair.divergence else "")
            stages[one, other] = stages[other, one] = stage
        words = {None: "", "": "="}
        rows = [
            {"number": row + 1, "place": a}
            | {f"with_{column + 1}": words.get(stages[a, b], stages[a, b]) for column, b in enumerate(names)}
            for row, a in enumerate(names)
        ]
        compared = [stages[a, b] for row, a in enumerate(names) for b in names[row + 1 :]]
        return [
            Section(
                name=name,
                title=f"Pairwise comparison: {self.title}",
                text="Each environment against each other: = if every digest is equal, otherwise the first stage that "
                f"differs. The numbers are those of the environments in the table.{self._rest()}",
                frame=pd.DataFrame(rows),
                figure=figures.equality_matrix(names, stages),
                alt=f"{self.title}: {compared.count('')} of {len(compared)} pairs of environments have equal bits.",
                commands=_COMMANDS,
            )
        ]

    def _rest(self) -> str:
        """Return a sentence about the environments that the matrix does not show; empty if it shows all."""
        hidden = [name for name in self._names if name not in self._shown]
        if not hidden:
            return ""
        contents = [self._contents[name] for name in self._shown]
        num_equal = sum(self._contents[name] in contents for name in hidden)
        return (
            f" It shows {len(self._shown)} of {len(self._names)} environments, first one of each group with equal "
            f"bits. Of the other {len(hidden)}, {num_equal} have the same bits as one that is shown."
        )

    def _names_of(self, pair: Pair) -> tuple[str, str]:
        return self._name_of[id(pair.one)], self._name_of[id(pair.other)]

    def drifts(self, name: str) -> list[Section]:
        """Make the section of the distances between the first environment and others, if any diverged from it."""
        # Environments with the same bits drift in the same way, so the first of them stands for all.
        drifts = {_content(pair.other): _drift_rows(name, pair) for name, pair in reversed(self._diverged().items())}
        rows = pd.DataFrame(row for of_one in reversed(drifts.values()) for row in of_one)
        if rows.empty:
            return []
        norms_at_end = rows.groupby("place", sort=False)["relative_norm"].last()
        frame = rows[rows["place"].isin(norms_at_end.nlargest(MAX_PLACES - 1).index)]
        last = frame.groupby("place", sort=False).tail(1)
        norms = ", ".join(f"{row['place']} {row['relative_norm']:.2g}" for row in last.to_dict("records"))
        num_others = len(self._diverged()) - len(last)
        more = f" {num_others} others are equal to one of these, or drift less far." if num_others else ""
        return [
            Section(
                name=name,
                title=f"Drift between environments: {self.title}",
                text=f"Parameters against those of the first environment ({self._names[0]}), at the steps of which "
                "certificates store values: the norm of the difference over the norm. The table has the last of these "
                f"steps. It has the accuracy on the test set in both environments if the runs have equal length.{more}",
                frame=last.reset_index(drop=True),
                figure=figures.drift(frame),
                alt=f"Relative difference of the parameters after the last step: {norms}.",
                commands=_COMMANDS,
            )
        ]

    def _diverged(self) -> dict[str, Pair]:
        """Return the first certificate against one of each other environment that diverged from it, by name."""
        diverged: dict[str, Pair] = {}
        for pair in self.pairs:
            if pair.one is self.first and pair.divergence is not None:
                diverged.setdefault(self._names_of(pair)[1], pair)
        return diverged


def _title(certificate: Certificate) -> str:
    config = certificate.config
    others = [
        f"{name}={format_value(getattr(config, name))}"
        for name in ("hidden_sizes", "activations", "batch_size", "lr", "momentum", "weight_decay", "seed")
        if getattr(config, name) != getattr(RunConfig(), name)
    ]
    title = f"{certificate.arithmetic}, {config.optimizer} on {config.dataset}"
    return f"{title} ({' '.join(others)})" if others else title


def _distinct(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Return the certificates without most of the equal ones: the latest `_MAX_EQUAL` of each content stay."""
    by_content: dict[object, list[Certificate]] = {}
    for certificate in certificates:
        by_content.setdefault(_content(certificate), []).append(certificate)
    return [certificate for equal in by_content.values() for certificate in equal[-_MAX_EQUAL:]]


def _content(certificate: Certificate) -> int:
    """Return a number that equal certificates share."""
    return hash((certificate.before, certificate.steps, certificate.after))


def _most_telling(contents: Mapping[str, set[int]]) -> list[str]:
    """Return at most MAX_PLACES environments: first one of each group with equal bits, then the earliest others."""
    firsts: dict[frozenset[int], str] = {}
    for name, content in contents.items():
        firsts.setdefault(frozenset(content), name)
    chosen = set([*firsts.values(), *(name for name in contents if name not in set(firsts.values()))][:MAX_PLACES])
    return [name for name in contents if name in chosen]


def _telling_pairs(certificates: Sequence[Certificate], places: Sequence[Certificate]) -> list[Pair]:
    """Compare each certificate with the first and with its neighbours in three orders, and those shown with each other.

    Two orders are those of machine and stack, from the device down. Where certificates that agree down to some fact
    have different bits, two neighbours among them have. So the lowest level that any two refute is refuted by
    neighbours, too. The third order has certificates with equal bits together, which confirm levels.
    """
    index = {id(certificate): number for number, certificate in enumerate(certificates)}
    orders = [
        sorted(certificates, key=lambda c: _facts_in_order(c, ())),
        sorted(certificates, key=lambda c: _facts_in_order(c, _kernel_facts(c))),
        sorted(certificates, key=lambda c: (_content(c), _facts_in_order(c, ()))),
    ]
    couples = itertools.chain(
        ((certificates[0], other) for other in certificates[1:]),
        *map(itertools.pairwise, orders),
        itertools.combinations(places, 2),
    )
    numbers = sorted({tuple(sorted((index[id(one)], index[id(other)]))) for one, other in couples})
    return [pair for one, other in numbers for pair in pairs([certificates[one], certificates[other]])]


def _facts_in_order(certificate: Certificate, before_threads: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the facts of a certificate: those that decide levels, these, the thread count, and then all others."""
    facts = surroundings(certificate)
    first = [*_HIERARCHY, *before_threads, "num_threads"]
    return tuple((name, facts.get(name, "")) for name in (*first, *sorted(facts.keys() - set(first))))


def _kernel_facts(certificate: Certificate) -> list[str]:
    """Return the names of the facts that make a library use other kernels."""
    return sorted(name for name in surroundings(certificate) if Decides.KERNELS in decides(name))


def _names(certificates: Sequence[Certificate]) -> list[str]:
    """Return a name for the environment of each certificate: the facts in which it differs from any other."""
    facts = [_naming_facts(certificate) for certificate in certificates]
    first = facts[0]
    varying = list(dict.fromkeys(n for one in facts for n in (*first, *one) if first.get(n) != one.get(n)))
    names = [_name(certificate, one, varying) for certificate, one in zip(certificates, facts, strict=True)]
    # Details are left out if the names distinguish as many environments without them.
    for detail in [name for name in reversed(varying) if Decides.DETAIL in decides(name)]:
        fewer = [name for name in varying if name != detail]
        shorter = [_name(certificate, one, fewer) for certificate, one in zip(certificates, facts, strict=True)]
        if fewer and len(set(shorter)) == len(set(names)):
            varying, names = fewer, shorter
    return names


def _naming_facts(certificate: Certificate) -> dict[str, str]:
    """Return the facts that can change a bit, and the settings; the processor has its generation in its name."""
    texts = surroundings(certificate) | {"cpu_model": certificate.environment.hardware.cpu}
    return {
        name: text
        for name, text in texts.items()
        if text != NONE and (name in _SETTINGS or Decides.BITS in decides(name))
    }


def _name(certificate: Certificate, facts: Mapping[str, str], names: Sequence[str]) -> str:
    parts = [_in_words(name, facts[name]) for name in names if name in facts]
    return ", ".join(parts) or certificate.environment.machine


def _in_words(name: str, value: str) -> str:
    if name == "num_threads":
        return "1 thread" if value == "1" else f"{value} threads"
    if name == "torch":
        return f"torch {value.partition('+')[0]}"
    is_clear_alone = name in ("engine", "device", "cpu_capability", "cpu_model", "architecture")
    return value if is_clear_alone else f"{name} {value}"


def _drift_rows(name: str, pair: Pair) -> list[dict[str, object]]:
    is_as_long = pair.one.num_steps == pair.other.num_steps
    return [
        {
            "place": name,
            "step": distance.step,
            "relative_norm": distance.relative_norm,
            "loss_difference": distance.loss,
            "first_place_accuracy": pair.one.test_accuracy if is_as_long else None,
            "test_accuracy": pair.other.test_accuracy if is_as_long else None,
        }
        for distance in drift(pair.one, pair.other)
    ]
