"""Judge how widely the same bits are reproduced: levels, each confirmed by equal certificates of the same run."""

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

# Environment variables that make a library use other kernels.
_KERNELS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def environment_differences(one: Certificate, other: Certificate) -> dict[str, tuple[str, str]]:
    """Return the differences between the machines and stacks of two certificates, by field.

    Environment variables have their own names. A missing one is `-`.
    """
    ours, theirs = surroundings(one), surroundings(other)
    return {
        name: (ours.get(name, "-"), theirs.get(name, "-"))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name, "-") != theirs.get(name, "-")
    }


def surroundings(certificate: Certificate) -> dict[str, str]:
    """Return the machine, the stack and the settings of a certificate, by field; an absent value is `none`.

    Environment variables have their own names.
    """
    environment = certificate.environment
    machine = {
        f.name: format_value(getattr(environment, f.name))
        for f in fields(Environment)
        if f.name not in ("variables", "num_threads")
    }
    config = certificate.config
    settings = {"engine": config.engine, "device": config.device, "num_threads": str(certificate.num_threads)}
    return machine | settings | dict(environment.variables)


def confirmed_levels(one: Certificate, other: Certificate) -> tuple[int, ...]:
    """Return the levels that are confirmed if these two certificates are equal.

    L1 is among them if both are of one machine. Each kind of difference between them adds its level. Thread counts and
    vector levels do not count between two runs on GPUs.
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
    levels = [level for level, names in fields_of.items() if any(name in differences for name in names)]
    is_one_machine = one.environment.machine == other.environment.machine and 5 not in levels
    return (1, *levels) if is_one_machine else tuple(levels)


def _refuted(one: Certificate, other: Certificate) -> int:
    """Return the level that is refuted if these two certificates differ: the highest level of their differences.

    It is at least L3 if a variable made a library use other kernels, because these may be the cause. Equality with
    other kernels does not confirm L3, because the processor is the same. It is also L3 if the machines differ only in
    something that has no level.
    """
    differences = environment_differences(one, other)
    levels = confirmed_levels(one, other)
    may_use_other_kernels = any(name in differences for name in _KERNELS) or not levels
    return max(*levels, 3 if may_use_other_kernels else 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Hold two certificates of the same run, and their first difference."""

    one: Certificate
    other: Certificate
    levels: tuple[int, ...]
    """The levels that are confirmed if the two are equal."""
    refuted: int
    """The level that is refuted if the two differ."""
    divergence: Divergence | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelResult:
    """Hold the evidence on one level."""

    level: int
    num_equal: int
    """The number of equal pairs that confirm this level."""
    num_diverged: int
    """The number of diverged pairs that refute this level."""
    first: Divergence | None
    """The divergence of the earliest of those."""


def runs(certificates: Iterable[Certificate]) -> list[list[Certificate]]:
    """Group certificates by run, however it was computed; the order is that of their creation."""
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
    """True if the two certificates can be compared."""
    try:
        check_same_run(one, other)
    except InputError:
        return False
    return True


def pairs(run: Sequence[Certificate]) -> list[Pair]:
    """Compare every two certificates of one run."""
    return [
        Pair(
            one=one,
            other=other,
            levels=confirmed_levels(one, other),
            refuted=_refuted(one, other),
            divergence=first_divergence(one, other),
        )
        for one, other in combinations(run, 2)
    ]


def judge_levels(pairs_of_run: Iterable[Pair]) -> list[LevelResult]:
    """Return the evidence of the pairs of one run on each level.

    An equal pair confirms every level in which the two differ. A diverged pair refutes only the highest of them,
    because each of its differences may be the cause.
    """
    pairs_of_run = list(pairs_of_run)
    results = []
    for level in LEVELS:
        equal = [pair for pair in pairs_of_run if pair.divergence is None and level in pair.levels]
        diverged = [pair for pair in pairs_of_run if pair.divergence is not None and level == pair.refuted]
        results.append(
            LevelResult(
                level=level,
                num_equal=len(equal),
                num_diverged=len(diverged),
                first=diverged[0].divergence if diverged else None,
            )
        )
    return results


def verified_level(results: Iterable[LevelResult]) -> int:
    """Return the highest level up to which every level is confirmed and none is refuted; 0 if L1 is not confirmed."""
    highest = 0
    for result in results:
        if not result.num_equal or result.num_diverged:
            break
        highest = result.level
    return highest
