"""The verb doctor: what this machine does to bits, in plain words."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlpbench.certifying.examination import Effect, Examination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--quick", action="store_true", help="do not try settings, which takes about 20 s")


def run(parsed: argparse.Namespace) -> int:
    """Examine the machine and print the findings; the exit code is 1 if a result is wrong."""
    from mlpbench.certifying import doctor
    from mlpbench.certifying.examination import defects
    from mlpbench.machine.environment import current, resolve_device
    from mlpbench.reporting import terminal

    device = resolve_device(parsed.device)
    if not parsed.quick and device.type == "cpu":
        print("mlpbench: trying settings in new processes takes some 20 s; --quick leaves it out", file=sys.stderr)
    found = doctor.examine(device, quick=parsed.quick)
    environment = current()
    ours = {name: getattr(environment, name) for name in found.table.environment}
    console = terminal.console()
    for line in (
        "here:  " + ", ".join((_machine(ours), *(f"{name}={value}" for name, value in environment.variables))),
        "table: " + _machine(found.table.environment),
        *_portable(found),
        *_operations(found),
        *(_threads(found) if device.type == "cpu" else ()),
        *(_settings(found) if found.under else ()),
        *_verdict(found),
    ):
        console.print(line, markup=False)
    return 1 if defects(found) else 0


# --- telling ----------------------------------------------------------------------------------------------------------


def spoken(readings: Iterable[str]) -> str:
    """Operations, each with its type where only one of its two is meant.

    >>> spoken(["exp float32", "exp float64", "mm float32", "randperm"])
    'exp, mm (float32), randperm'
    """
    types: dict[str, list[str]] = {}
    for reading in readings:
        name, _, last = reading.rpartition(" ")
        if last.startswith("float"):
            types.setdefault(name, []).append(last)
        else:
            types[reading] = []
    return ", ".join(f"{name} ({of[0]})" if len(of) == 1 else name for name, of in types.items())


def _machine(environment: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in environment.items())


def _portable(found: "Examination") -> Iterator[str]:
    yield "\nportable/1: do its known answers come out?"
    for part, is_right in found.answers.items():
        yield f"✓ {part}" if is_right else f"✗ {part}: other numbers than everywhere else"


def _operations(found: "Examination") -> Iterator[str]:
    from mlpbench.certifying.examination import UNAVAILABLE, differing, first_stage, of_kind
    from mlpbench.certifying.probes import KINDS, PROBES

    yield "\nPyTorch's operations: the same bits as the table (of a CPU, on 1 thread)?"
    here, there = found.here.one, found.table.digests
    different = differing(there, here)
    missing = [name for name in here if UNAVAILABLE in (here[name], there.get(name, UNAVAILABLE))]
    for kind, (title, reason) in KINDS.items():
        every, apart = of_kind(kind, here.keys() - set(missing)), of_kind(kind, different)
        sign = "✓" if not apart else "✗" if kind == "exact" else "≠"
        yield f"{sign} {title}: " + (
            f"{len(apart)} of {len(every)} differ: {spoken(apart)}; {reason}" if apart else f"all {len(every)} the same"
        )
        for name, probe in PROBES.items():
            if probe.kind == kind and probe.reason != reason and not set(apart).isdisjoint(probe.readings(name)):
                yield f"  {name}: {probe.reason}"
    if missing:
        yield f"? not available here, or not in the table: {spoken(missing)}"
    stage = first_stage(different)
    if stage:
        yield f"  -> a default run has other bits than one on the table's machine: at the earliest, {stage}"
    else:
        yield "  -> a default run on 1 thread has the bits of the table's machine, as far as these tell"


def _threads(found: "Examination") -> Iterator[str]:
    from mlpbench.certifying.examination import differing, first_stage

    yield f"\nThe number of threads: the same bits on {found.num_threads} as on 1?"
    depend = differing(found.here.one, found.here.many)
    if not depend:
        yield f"✓ all {len(found.here.one)} the same"
        return
    yield f"≠ {len(depend)} of {len(found.here.one)} differ: {spoken(depend)}"
    stage = first_stage(depend)
    if stage:
        yield f"  -> a default run depends on it: at the earliest, {stage}; fix it with --set num_threads=N"
    else:
        yield "  -> a default run does not depend on it"


def _settings(found: "Examination") -> Iterator[str]:
    from mlpbench.certifying.examination import effect

    yield f"\nSettings: what would each change here? Measured on 1 and {found.num_threads} threads"
    for setting, after in found.under.items():
        yield from _told(setting, effect(setting, found.table, found.here, after), is_same=after == found.here)


def _told(setting: str, change: "Effect", *, is_same: bool) -> Iterator[str]:
    from mlpbench.certifying.examination import first_stage

    threads, there = "on the number of threads", "as on the table's machine, if that has the setting too"
    gains = {f"no longer depend {threads}": change.steadied, f"now {there}": change.agreed}
    costs = {f"but now depend {threads}": change.unsettled, f"but no longer {there}": change.parted}
    if any(gains.values()):
        worse = first_stage([*change.unsettled, *change.parted])
        sign, told = ("-", "makes a default run worse") if worse else ("✓", "helps")
    else:
        sign, told = "-", "changes no bits here" if is_same else "gains nothing here"
    yield f"{'✗' if change.broken else sign} {setting}: {told}"
    yield from (f"    {what}: {spoken(names)}" for what, names in (gains | costs).items() if names)
    if change.broken:
        yield f"    wrong, though there is one right answer: {spoken(change.broken)}"
    if change.stage != change.stage_before:
        how = f"depends {threads}: at the earliest, {change.stage}" if change.stage else f"no longer depends {threads}"
        yield f"    -> a default run then {how}"


def _verdict(found: "Examination") -> Iterator[str]:
    from mlpbench.certifying.examination import defects

    wrong = defects(found)
    yield ""
    if wrong:
        yield f"✗ the arithmetic fails here: {spoken(wrong)}"
        yield "  -> something changes how numbers are computed: flush to zero, unsafe compiler flags, an emulator,"
        yield "     a defect. Trust neither engine=portable nor other results here until it is found: try without"
        yield "     LD_PRELOAD and the variables of MKL, ATen and oneDNN, then another build of PyTorch"
        return
    yield "the arithmetic is right here: what differs above is PyTorch's freedom, not a defect"
    yield "  -> the same bits on any machine and number of threads: --set engine=portable"
