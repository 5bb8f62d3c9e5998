"""Measure which bits the operations of this machine give, and which settings change them.

Three questions: Is `portable/1` correct here? Which operations of PyTorch give other bits than on the reference
machine? What does each setting change? The reference table, `known_bits.json`, has the digest of every reading on one
thread, and the digests that a setting changes.

As a command, the module has two roles:

    python -m mlpbench.certifying.doctor read SETTING DEVICE THREADS
    python -m mlpbench.certifying.doctor write-table

`read` prints the digests of this process; `examine` starts it. `write-table` writes the reference table again, which is
needed after a probe has changed. Use a CPU with AVX-512 for it, because all settings exist only there.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from mlpbench.certifying.examination import UNAVAILABLE, Examination, Reading, ReferenceTable
from mlpbench.certifying.probes import PROBES, SIZES, Compute, Draw
from mlpbench.engines.portable import known_answers
from mlpbench.errors import InputError
from mlpbench.machine.environment import current
from mlpbench.records.environment import decides
from mlpbench.records.facts import Decides
from mlpbench.workload.digest import digest

DETERMINISTIC = "torch.use_deterministic_algorithms(True)"
AS_IT_IS = "as it is"
"""The name of the reading without any setting."""


def digests(device: torch.device) -> dict[str, str]:
    """Return the digest of every reading, on the current thread count.

    It is UNAVAILABLE for an operation that this PyTorch cannot run on the device.
    """
    by_reading = {}
    for name, probe in PROBES.items():
        for reading, dtype in probe.readings(name).items():
            try:
                by_reading[reading] = digest(_results(probe.compute, dtype, device))
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                by_reading[reading] = UNAVAILABLE
    return by_reading


def _results(compute: Compute, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return the results of a probe for every size, or for one size if the probe chooses its own shapes."""
    results: dict[str, Tensor] = {}
    for size in SIZES:
        draw = Draw(dtype, device, size)
        output = compute(draw)
        tensors = [output] if isinstance(output, Tensor) else output
        results |= {f"{size} {i}": tensor for i, tensor in enumerate(tensors)}
        if not draw.is_sized:
            break
    return results


def settings() -> list[str]:
    """Return the settings that may make a default run on this CPU more reproducible, as a user would write them."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    levels = ("avx2", "default") if has_avx2 else ("default",)
    modes = ("COMPATIBLE", "AVX2,STRICT") if torch._C.has_mkl else ()
    return [DETERMINISTIC, *(f"ATEN_CPU_CAPABILITY={name}" for name in levels), *(f"MKL_CBWR={name}" for name in modes)]


def read(setting: str, device: torch.device, num_threads: int) -> Reading:
    """Read the digests of this process on one thread and on `num_threads`, which stays set.

    A GPU has no threads and is read only once.
    """
    torch.use_deterministic_algorithms(setting == DETERMINISTIC)
    torch.set_num_threads(1)
    one_thread = digests(device)
    torch.set_num_threads(num_threads)
    several_threads = digests(device) if device.type == "cpu" else one_thread
    return Reading(one_thread=one_thread, several_threads=several_threads)


def _read_under(setting: str, device: torch.device, num_threads: int) -> Reading:
    """Read the digests of a fresh process, because libraries read environment variables only once.

    Raises:
        InputError: if the process fails.
    """
    # Without the passive policy, waiting threads may use all CPUs, and a reading may take minutes.
    variables = {"OMP_WAIT_POLICY": "PASSIVE"} | dict(re.findall(r"([A-Z_]+)=(\S+)", setting))
    command = (sys.executable, "-m", "mlpbench.certifying.doctor", "read", setting, device.type, str(num_threads))
    process = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)  # noqa: S603
    if process.returncode:
        error = process.stderr.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
        raise InputError(f"doctor: the process that reads PyTorch's bits failed (setting: {setting}): {error}")
    one_thread, several_threads = json.loads(process.stdout.splitlines()[-1])
    return Reading(one_thread=one_thread, several_threads=several_threads)


def _read_all(names: Iterable[str], device: torch.device, num_threads: int) -> dict[str, Reading]:
    """Read under each setting, two at a time, because most of the time is the start of Python on one CPU."""
    with ThreadPoolExecutor(2) as pool:
        futures = {setting: pool.submit(_read_under, setting, device, num_threads) for setting in names}
        return {setting: future.result() for setting, future in futures.items()}


def _is_right(part: str, device: torch.device) -> bool:
    """True if the known answer of a part of portable/1 is correct here."""
    try:
        return known_answers.answer(part, device) == known_answers.ANSWERS[part]
    # The tables that portable/1 computes are not the published ones.
    except InputError:
        return False


def table() -> ReferenceTable:
    """Return the stored reference table."""
    stored = json.loads(files("mlpbench.certifying").joinpath("known_bits.json").read_text("utf-8"))
    return ReferenceTable(environment=stored["environment"], digests=stored["digests"], by_setting=stored["under"])


def examine(device: torch.device, *, quick: bool) -> Examination:
    """Check the known answers, and read this machine's digests.

    Unless `quick`, a CPU is also read under each setting, which takes some seconds each.

    Raises:
        InputError: if a process that reads fails.
    """
    num_threads = max(2, torch.get_num_threads())
    names = settings() if device.type == "cpu" and not quick else []
    readings = _read_all([AS_IT_IS, *names], device, num_threads)
    return Examination(
        table=table(),
        num_threads=num_threads,
        answers={part: _is_right(part, device) for part in known_answers.ANSWERS},
        here=readings.pop(AS_IT_IS),
        by_setting=readings,
    )


def _write_table() -> None:
    """Write the reference table from the readings of this machine."""
    facts = current().texts()
    environment = {name: text for name, text in facts.items() if decides(name) & (Decides.CPU | Decides.BITS)}
    readings = _read_all([AS_IT_IS, *settings()], torch.device("cpu"), 1)
    usual = readings.pop(AS_IT_IS).one_thread
    changes = {
        setting: {name: digest for name, digest in reading.one_thread.items() if digest != usual[name]}
        for setting, reading in readings.items()
    }
    stored = {"format": 1, "environment": {**environment, "num_threads": 1}, "digests": usual, "under": changes}
    Path(__file__).with_name("known_bits.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def _main(arguments: list[str] | None = None) -> None:
    """Run one of the roles of the module."""
    parser = argparse.ArgumentParser(prog="python -m mlpbench.certifying.doctor")
    roles = parser.add_subparsers(dest="role", required=True)
    reader = roles.add_parser("read", help="print the digests of this process, on one thread and on several")
    reader.add_argument("setting")
    reader.add_argument("device", type=torch.device)
    reader.add_argument("num_threads", type=int)
    roles.add_parser("write-table", help="write the reference table again")
    parsed = parser.parse_args(arguments)
    if parsed.role == "read":
        reading = read(parsed.setting, parsed.device, parsed.num_threads)
        print(json.dumps([reading.one_thread, reading.several_threads]))
    else:
        _write_table()


if __name__ == "__main__":
    _main()
