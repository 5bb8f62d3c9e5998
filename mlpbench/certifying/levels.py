"""How far the same bits reach: levels, each claimed only where two certificates of the same run were equal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.divergence import Divergence, check_same_run, first_divergence
from mlpbench.config import format_value
from mlpbench.errors import InputError
from mlpbench.records.kinds import Environment

LEVELS = {
    1: "this machine",
    2: "any thread count",
    3: "any CPU and vector level",
    4: "PyTorch versions",
    5: "x86 and ARM",
    6: "CPU and GPU",
    7: "any world size",
}

# Variables by which a library takes other kernels.
_KERNELS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def environment_differences(one: Certificate, other: Certificate) -> dict[str, tuple[str, str]]:
    """What differs between the machines and stacks of two certificates, by field; variables by their own names."""
    ours, theirs = surroundings(one), surroundings(other)
    return {
        name: (ours.get(name, "-"), theirs.get(name, "-"))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name, "-") != theirs.get(name, "-")
    }


def surroundings(certificate: Certificate) -> dict[str, str]:
    """How a certificate was computed and on what, by field, `none` for what is not there; variables by their names."""
    environment = certificate.environment
    found = {
        f.name: format_value(getattr(environment, f.name))
        for f in fields(Environment)
        if f.name not in ("variables", "num_threads")
    }
    config = certificate.config
    how = {"engine": config.engine, "device": config.device, "num_threads": str(certificate.num_threads)}
    return found | how | dict(environment.variables)


def axes(one: Certificate, other: Certificate) -> tuple[int, ...]:
    """The levels that equality of these two speaks for: 1 on one machine, and one for each kind of difference.

    Threads and vector levels say nothing of two runs on GPUs.
    """
    differences = environment_differences(one, other)
    are_on_gpus = one.config.device == other.config.device == "cuda"
    fields_of = {
        2: () if are_on_gpus else ("num_threads",),
        3: () if are_on_gpus else ("cpu_model", "cpu_capability"),
        4: ("torch",),
        5: ("architecture",),
        6: ("device",),
    }
    found = [level for level, names in fields_of.items() if any(name in differences for name in names)]
    is_one_machine = one.environment.machine == other.environment.machine and 5 not in found
    return (1, *found) if is_one_machine else tuple(found)


def _refuted(one: Certificate, other: Certificate) -> int:
    """The level that a difference between these two speaks against: the highest in which they differ.

    A variable by which a library takes other kernels may be the cause, though equality under it is no other processor.
    So may be whatever else two machines differ in.
    """
    differences = environment_differences(one, other)
    levels = axes(one, other)
    has_other_kernels = any(name in differences for name in _KERNELS) or not levels
    return max(*levels, 3 if has_other_kernels else 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two certificates of the same run, and where they first differ."""

    one: Certificate
    other: Certificate
    levels: tuple[int, ...]  # for which equality speaks
    refuted: int  # the level that a difference speaks against
    divergence: Divergence | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """What is known about one level."""

    level: int
    num_equal: int  # pairs of certificates that differ in this way, and are equal
    num_diverged: int  # pairs whose highest difference is this, and that diverged
    first: Divergence | None  # of the earliest of those


def runs(certificates: Iterable[Certificate]) -> list[list[Certificate]]:
    """Certificates by what was run, however it was computed; in the order in which they were made."""
    groups: list[list[Certificate]] = []
    for certificate in sorted(certificates, key=lambda c: c.created_at):
        for group in groups:
            if _is_same_run(group[0], certificate):
                group.append(certificate)
                break
        else:
            groups.append([certificate])
    return groups


def _is_same_run(one: Certificate, other: Certificate) -> bool:
    try:
        check_same_run(one, other)
    except InputError:
        return False
    return True


def pairs(run: Sequence[Certificate]) -> list[Pair]:
    """Every two certificates of one run."""
    return [
        Pair(
            one=one,
            other=other,
            levels=axes(one, other),
            refuted=_refuted(one, other),
            divergence=first_divergence(one, other),
        )
        for one, other in combinations(run, 2)
    ]


def ladder(compared: Iterable[Pair]) -> list[Rung]:
    """What pairs of one run say about each level.

    A pair that is equal speaks for every level in which the two differ; one that is not, only against the highest,
    as each of its differences may be the cause.
    """
    compared = list(compared)
    made = []
    for level in LEVELS:
        equal = [pair for pair in compared if pair.divergence is None and level in pair.levels]
        diverged = [pair for pair in compared if pair.divergence is not None and level == pair.refuted]
        made.append(
            Rung(
                level=level,
                num_equal=len(equal),
                num_diverged=len(diverged),
                first=diverged[0].divergence if diverged else None,
            )
        )
    return made


def verified_level(rungs: Iterable[Rung]) -> int:
    """The highest level up to which every level was verified, and none refuted; 0: no more than that seeds are set."""
    highest = 0
    for rung in rungs:
        if not rung.num_equal or rung.num_diverged:
            break
        highest = rung.level
    return highest
