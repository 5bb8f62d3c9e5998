"""Say over what a reproducibility level was tried: how many machines, thread counts, processors or versions."""

from collections.abc import Iterable, Sequence

from mlpbench.certifying.certificate import Certificate
from mlpbench.records.environment import CPU, Hardware, Sameness

LEVELS = {
    1: "this machine",
    2: "any thread count",
    3: "any CPU and vector level",
    4: "PyTorch versions",
    5: "x86 and ARM",
    6: "CPU and GPU",
    7: "any world size",
}
"""The aim of each level. A pair of certificates confirms a part of it; `scope` names that part."""

# More names would make a line that nobody reads.
_MAX_NAMES = 6

Pairs = Sequence[tuple[Certificate, Certificate]]


def scope(level: int, equal: Pairs) -> str:
    """Return over what these equal pairs confirm a level; its aim if there are none."""
    certificates = [certificate for pair in equal for certificate in pair]
    machines = [certificate.environment.hardware for certificate in certificates]
    if not equal:
        text = LEVELS[level]
    elif level == 1:
        text = _machines(equal)
    elif level == 2:
        text = _list("thread count", sorted({certificate.num_threads for certificate in certificates}))
    elif level == 3:
        text = _processors(equal)
    elif level == 4:
        versions = {certificate.environment.stack.torch.partition("+")[0] for certificate in certificates}
        text = _list("PyTorch version", _by_version(versions))
    elif level == 5:
        text = _architectures(machines)
    elif level == 6:
        gpus = sorted({str(machine.gpu_model) for machine in machines if machine.has_gpu})
        text = f"CPU and {_list('GPU', gpus)}" if gpus else LEVELS[level]
    else:
        text = LEVELS[level]
    return text


def _list(noun: str, items: Iterable[object]) -> str:
    """Return a number of things and their names: `2 thread counts (1, 2)`."""
    names = [str(item) for item in items]
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({_joined(names)})"


def _joined(names: Sequence[str]) -> str:
    parts = [*names[:_MAX_NAMES], *([f"{len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else [])]
    return ("; " if any("," in name for name in names) else ", ").join(parts)


def _by_version(texts: Iterable[str]) -> list[str]:
    """Return version numbers in their order: 2.9 comes before 2.10."""
    return sorted(
        texts, key=lambda text: [(int(part), "") if part.isdecimal() else (-1, part) for part in text.split(".")]
    )


def _machines(equal: Pairs) -> str:
    """Return on how many machines a run was repeated; one machine is only claimed where it is known."""
    known = [p for p in equal if p[0].environment.hardware.compare(p[1].environment.hardware).sameness is Sameness.SAME]
    machines = {one.environment.machine for one, _ in known or equal}
    text = "this machine" if len(machines) == 1 else f"each of {len(machines)} machines"
    if known:
        return text
    one, other = (certificate.environment.hardware for certificate in equal[0])
    unknown = one.compare(other).unknown
    missing = "CPU generation" if "cpu_model_number" in unknown else ", ".join(unknown)
    text = text.replace("this machine", "one machine")
    return f"{text} as far as recorded ({missing} unknown)"


def _processors(equal: Pairs) -> str:
    """Return the processors that are known to differ, and the vector levels."""
    pairs = [(one.environment.hardware, other.environment.hardware) for one, other in equal]
    answers = [one.compare(other, CPU).sameness for one, other in pairs]
    compared = [
        hardware
        for pair, answer in zip(pairs, answers, strict=True)
        if answer is Sameness.DIFFERENT
        for hardware in pair
    ]
    # The best known come first, so that a description with less in it is not counted as another processor.
    different: list[Hardware] = []
    for hardware in sorted(compared, key=lambda hardware: len(hardware.texts()), reverse=True):
        if all(hardware.compare(other, CPU).sameness is Sameness.DIFFERENT for other in different):
            different.append(hardware)
    levels = sorted({c.environment.stack.cpu_capability for pair in equal for c in pair})
    if not different:
        known = "" if Sameness.SAME in answers else " as far as recorded"
        return f"other vector levels on 1 CPU{known} ({', '.join(levels)})"
    # Two steppings of one generation have one name.
    text = f"{len(different)} CPUs ({_joined(sorted({hardware.cpu for hardware in different}))})"
    return text if len(levels) == 1 else f"{text}, {_list('vector level', levels)}"


def _architectures(machines: Iterable[Hardware]) -> str:
    """Return the architectures, and how many of them were only emulated."""
    is_real: dict[str, bool] = {}
    for hardware in machines:
        name = hardware.architecture or "unknown"
        is_real[name] = is_real.get(name, False) or not hardware.is_emulated
    emulated = list(is_real.values()).count(False)
    text = _list("architecture", sorted(is_real))
    return f"{text.removesuffix(')')}; {emulated} emulated)" if emulated else text
