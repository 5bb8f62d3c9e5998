"""Examine which bits this machine's operations give, and which settings change them."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mlpbench.cli.exits import Answer

if TYPE_CHECKING:
    from mlpbench.certifying.examination import Effect, Examination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--quick", action="store_true", help="do not examine settings, which takes about 20 s")


def run(parsed: argparse.Namespace) -> Answer:
    """Examine the machine and print the findings; the answer is bad if a result is wrong."""
    from mlpbench.certifying import doctor
    from mlpbench.certifying.examination import defects
    from mlpbench.machine.environment import current, resolve_device
    from mlpbench.records.environment import UNKNOWN
    from mlpbench.reporting import terminal

    device = resolve_device(parsed.device)
    if not parsed.quick and device.type == "cpu":
        print("mlpbench: examining settings takes about 20 s; --quick leaves it out", file=sys.stderr)
    examination = doctor.examine(device, quick=parsed.quick)
    environment = current()
    facts = environment.texts() | {"cpu_model": environment.hardware.cpu}
    machine = {name: facts.get(name, UNKNOWN) for name in examination.table.environment}
    variables = [f"{name}={value}" for name, value in environment.stack.variables]
    console = terminal.console()
    for line in (
        "Do this machine's floating-point results match the reference, and which settings change them?",
        "this machine:    " + ", ".join((_machine(machine), *variables)),
        "reference table: " + _machine(examination.table.environment),
        *_portable(examination),
        *_operations(examination),
        *(_threads(examination) if device.type == "cpu" else ()),
        *(_settings(examination) if examination.by_setting else ()),
        *_verdict(examination),
    ):
        console.print(line)
    return Answer(bool(defects(examination)))


# --- text -------------------------------------------------------------------------------------------------------------


def list_readings(readings: Iterable[str]) -> str:
    """Format readings as text; add the dtype if only one of the two dtypes is listed.

    >>> list_readings(["exp float32", "exp float64", "mm float32", "randperm"])
    'exp, mm (float32), randperm'
    """
    dtypes: dict[str, list[str]] = {}
    for reading in readings:
        name, _, last = reading.rpartition(" ")
        if last.startswith("float"):
            dtypes.setdefault(name, []).append(last)
        else:
            dtypes[reading] = []
    return ", ".join(f"{name} ({listed[0]})" if len(listed) == 1 else name for name, listed in dtypes.items())


def _machine(environment: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in environment.items())


def _portable(examination: "Examination") -> Iterator[str]:
    """Yield the lines on the known answers."""
    yield "\nportable/1: are the known answers correct on this machine?"
    for part, is_right in examination.answers.items():
        yield f"✓ {part}" if is_right else f"✗ {part}: wrong; every machine must give the same numbers"


def _operations(examination: "Examination") -> Iterator[str]:
    """Yield the lines on the operations that differ from the reference table."""
    from mlpbench.certifying.examination import UNAVAILABLE, differing, first_stage, of_kind
    from mlpbench.certifying.probes import KINDS, PROBES

    yield "\nOperations of PyTorch: the same bits as in the reference table (CPU, 1 thread)?"
    here, reference = examination.here.one_thread, examination.table.digests
    different = differing(reference, here)
    missing = [name for name in here if UNAVAILABLE in (here[name], reference.get(name, UNAVAILABLE))]
    for kind, (title, reason) in KINDS.items():
        compared, unequal = of_kind(kind, here.keys() - set(missing)), of_kind(kind, different)
        if not unequal:
            yield f"✓ {title}: all {len(compared)} equal"
            continue
        sign = "✗" if kind == "exact" else "≠"
        yield f"{sign} {title}: {len(unequal)} of {len(compared)} differ: {list_readings(unequal)}; {reason}"
        for name, probe in PROBES.items():
            if probe.kind == kind and probe.reason != reason and not set(unequal).isdisjoint(probe.readings(name)):
                yield f"  {name}: {probe.reason}"
    if missing:
        yield f"? not available here, or not in the table: {list_readings(missing)}"
    stage = first_stage(different)
    if stage:
        yield f"  -> a default run gives other bits than on the reference machine, at the earliest in: {stage}"
    else:
        yield "  -> a default run on 1 thread gives the bits of the reference machine, within the operations tested"


def _threads(examination: "Examination") -> Iterator[str]:
    """Yield the lines on the operations that depend on the thread count."""
    from mlpbench.certifying.examination import differing, first_stage

    here = examination.here
    yield f"\nThread count: the same bits on {examination.num_threads} threads as on 1?"
    dependent = differing(here.one_thread, here.several_threads)
    if not dependent:
        yield f"✓ all {len(here.one_thread)} equal"
        return
    yield f"≠ {len(dependent)} of {len(here.one_thread)} differ: {list_readings(dependent)}"
    stage = first_stage(dependent)
    if stage:
        yield f"  -> a default run depends on the thread count, at the earliest in: {stage}"
        yield "     to fix the thread count: --set num_threads=N"
    else:
        yield "  -> a default run does not depend on the thread count, within the operations tested"


def _settings(examination: "Examination") -> Iterator[str]:
    """Yield the lines on the effect of each setting."""
    from mlpbench.certifying.examination import effect

    yield f"\nSettings: the effect of each one on this machine (measured on 1 and {examination.num_threads} threads)"
    for setting, after in examination.by_setting.items():
        change = effect(setting, examination.table, examination.here, after)
        yield from _setting(setting, change, changes_bits=after != examination.here)


def _setting(setting: str, change: "Effect", *, changes_bits: bool) -> Iterator[str]:
    """Yield the lines on the effect of one setting."""
    from mlpbench.certifying.examination import first_stage

    gains = {
        "no longer depend on the thread count": change.now_independent,
        "now equal to the reference machine, if that has the setting too": change.now_equal,
    }
    costs = {
        "but now depend on the thread count": change.now_dependent,
        "but no longer equal to the reference machine, if that has the setting too": change.now_different,
    }
    if not any(gains.values()):
        sign, summary = "-", "no benefit on this machine" if changes_bits else "changes no bits on this machine"
    elif first_stage([*change.now_dependent, *change.now_different]):
        sign, summary = "-", "makes a default run worse"
    else:
        sign, summary = "✓", "helps"
    yield f"{'✗' if change.wrong else sign} {setting}: {summary}"
    yield from (f"    {text}: {list_readings(names)}" for text, names in (gains | costs).items() if names)
    if change.wrong:
        yield f"    wrong, because there is only one right result: {list_readings(change.wrong)}"
    if change.stage != change.stage_before:
        consequence = (
            f"depends on the thread count, at the earliest in: {change.stage}"
            if change.stage
            else "no longer depends on the thread count"
        )
        yield f"    -> with it, a default run {consequence}"


def _verdict(examination: "Examination") -> Iterator[str]:
    """Yield the conclusion."""
    from mlpbench.certifying.examination import defects

    wrong = defects(examination)
    yield ""
    if wrong:
        yield f"✗ the arithmetic is wrong on this machine: {list_readings(wrong)}"
        yield "  -> Something changes how numbers are computed: flush to zero, unsafe compiler flags, an emulator, or a"
        yield "     defect. Do not trust engine=portable or other results of this machine until you know the cause."
        yield "     Try without LD_PRELOAD and without the variables of MKL, ATen and oneDNN. Then try another build of"
        yield "     PyTorch."
        return
    yield "The arithmetic of this machine is correct. PyTorch allows the differences above; nothing is broken."
    yield "  -> for the same bits on every machine and thread count: --set engine=portable"
