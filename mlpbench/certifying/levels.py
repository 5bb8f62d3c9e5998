"""Judge how widely the same bits are reproduced: levels, each confirmed by equal certificates of the same run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.divergence import Divergence, check_same_run, first_divergence
from mlpbench.certifying.scope import LEVELS, scope
from mlpbench.errors import InputError
from mlpbench.records.environment import CPU, Likeness, Sameness, compare, decides
from mlpbench.records.facts import Decides


def compare_surroundings(one: Certificate, other: Certificate) -> Likeness:
    """Compare the machines, stacks and settings of two certificates; environment variables have their own names."""
    ours, theirs = surroundings(one), surroundings(other)
    return compare(ours, theirs, dict.fromkeys((*ours, *theirs)))


def surroundings(certificate: Certificate) -> dict[str, str]:
    """Return the machine, the stack, the source and the settings of a certificate, by fact; without unknown facts.

    The thread count is that of the run.
    """
    environment, config = certificate.environment, certificate.config
    variables = dict(environment.stack.variables)
    facts = {name: text for name, text in environment.texts().items() if name not in variables}
    own = {"mlpbench": environment.mlpbench, "source": environment.source}
    settings = {"engine": config.engine, "device": config.device, "num_threads": str(certificate.num_threads)}
    return facts | own | settings | variables


def confirmed_levels(one: Certificate, other: Certificate) -> tuple[int, ...]:
    """Return the levels that are confirmed if these two certificates are equal.

    L1 is among them unless the two are known to be of two machines; `scope` says if it is known that they are of one.
    Each kind of difference between them adds its level. Thread counts and vector levels do not count between two runs
    on GPUs.
    """
    differing = compare_surroundings(one, other).differing
    are_on_gpus = one.config.device == other.config.device == "cuda"
    fields_of = {
        2: () if are_on_gpus else ("num_threads",),
        3: () if are_on_gpus else (*CPU, "cpu_capability"),
        4: ("torch",),
        5: ("architecture",),
        6: ("device",),
    }
    levels = [level for level, names in fields_of.items() if any(name in differing for name in names)]
    sameness = one.environment.hardware.compare(other.environment.hardware).sameness
    return tuple(levels) if sameness is Sameness.DIFFERENT else (1, *levels)


def _refuted(one: Certificate, other: Certificate, levels: tuple[int, ...]) -> int:
    """Return the level that is refuted if these two certificates differ: the highest of those that equality confirms.

    It is at least L3 if a variable made a library use other kernels, because these may be the cause. Equality with
    other kernels does not confirm L3, because the processor is the same. It is also L3 if the machines differ only in
    something that has no level, or if one certificate does not tell the generation of its processor and the other does.
    """
    may_use_other_kernels = any(Decides.KERNELS in decides(name) for name in compare_surroundings(one, other).differing)
    may_be_other_processors = bool(one.environment.hardware.compare(other.environment.hardware).one_sided)
    return max(*levels, 3 if may_use_other_kernels or may_be_other_processors or not levels else 1, 1)


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
    scope: str
    """What the equal pairs differ in, and how many of each: `2 thread counts (1, 2)`."""


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
    return [_pair(one, other) for one, other in combinations(run, 2)]


def _pair(one: Certificate, other: Certificate) -> Pair:
    levels = confirmed_levels(one, other)
    return Pair(
        one=one,
        other=other,
        levels=levels,
        refuted=_refuted(one, other, levels),
        divergence=first_divergence(one, other),
    )


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
                scope=scope(level, [(pair.one, pair.other) for pair in equal]),
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
