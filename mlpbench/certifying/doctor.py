"""What the arithmetic of this machine does to bits, by measuring.

Does `portable/1` come out right; which operations of PyTorch give other bits than on the machine of the stored table;
and what would which setting change. The table, `known_bits.json`, has the digest of every reading on one thread, and
those that a setting changes. `python -m mlpbench.certifying.doctor` writes it anew, which a changed probe
needs; do that on a CPU with AVX-512, where no setting is missing.
"""

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
from mlpbench.workload.digest import digest

DETERMINISTIC = "torch.use_deterministic_algorithms(True)"
AS_IT_IS = "as it is"


def digests(device: torch.device) -> dict[str, str]:
    """Every reading, on the number of threads that is set; UNAVAILABLE for what this PyTorch cannot do there."""
    found = {}
    for name, probe in PROBES.items():
        for reading, dtype in probe.readings(name).items():
            try:
                found[reading] = digest(_results(probe.compute, dtype, device))
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                found[reading] = UNAVAILABLE
    return found


def _results(compute: Compute, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    for size in SIZES:
        draw = Draw(dtype, device, size)
        made = compute(draw)
        results |= {f"{size} {i}": tensor for i, tensor in enumerate([made] if isinstance(made, Tensor) else made)}
        if not draw.is_sized:
            break
    return results


def settings() -> list[str]:
    """What might make an ordinary run on this CPU steadier, as one would set it."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    levels = ("avx2", "default") if has_avx2 else ("default",)
    modes = ("COMPATIBLE", "AVX2,STRICT") if torch._C.has_mkl else ()
    return [DETERMINISTIC, *(f"ATEN_CPU_CAPABILITY={name}" for name in levels), *(f"MKL_CBWR={name}" for name in modes)]


def read(setting: str, device: torch.device, num_threads: int) -> Reading:
    """Digests of this process on one thread and on so many, which stays set; on a GPU, without threads, only once."""
    torch.use_deterministic_algorithms(setting == DETERMINISTIC)
    torch.set_num_threads(1)
    one = digests(device)
    torch.set_num_threads(num_threads)
    return Reading(one=one, many=digests(device) if device.type == "cpu" else one)


def _read_under(setting: str, device: torch.device, num_threads: int) -> Reading:
    """The same of a new process, as libraries look at variables only once; spinning threads might take minutes."""
    variables = {"OMP_WAIT_POLICY": "PASSIVE"} | dict(re.findall(r"([A-Z_]+)=(\S+)", setting))
    command = (sys.executable, "-m", "mlpbench.certifying.doctor", setting, device.type, str(num_threads))
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        told = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise InputError(f"doctor, {setting}: PyTorch cannot be read: {told}")
    one, many = json.loads(done.stdout.splitlines()[-1])
    return Reading(one=one, many=many)


def _read_all(named: Iterable[str], device: torch.device, num_threads: int) -> dict[str, Reading]:
    """Two at a time, as most of it is the start of Python on one CPU."""
    with ThreadPoolExecutor(2) as pool:
        begun = {setting: pool.submit(_read_under, setting, device, num_threads) for setting in named}
        return {setting: reading.result() for setting, reading in begun.items()}


def _holds(part: str, device: torch.device) -> bool:
    try:
        return known_answers.answer(part, device) == known_answers.ANSWERS[part]
    except InputError:  # its tables are not the published ones
        return False


def table() -> ReferenceTable:
    """The stored table."""
    stored = json.loads(files("mlpbench.certifying").joinpath("known_bits.json").read_text("utf-8"))
    return ReferenceTable(environment=stored["environment"], digests=stored["digests"], under=stored["under"])


def examine(device: torch.device, *, quick: bool) -> Examination:
    """Known answers, readings and, unless `quick`, readings under each setting (seconds each; on a CPU only).

    Raises:
        InputError: if a process that reads fails.
    """
    num_threads = max(2, torch.get_num_threads())
    tried = settings() if device.type == "cpu" and not quick else []
    readings = _read_all([AS_IT_IS, *tried], device, num_threads)
    return Examination(
        table=table(),
        num_threads=num_threads,
        answers={part: _holds(part, device) for part in known_answers.ANSWERS},
        here=readings.pop(AS_IT_IS),
        under=readings,
    )


def _write_table() -> None:
    about = {n: getattr(current(), n) for n in ("torch", "architecture", "cpu_model", "cpu_capability", "os")}
    readings = _read_all([AS_IT_IS, *settings()], torch.device("cpu"), 1)
    usual = readings.pop(AS_IT_IS).one
    changed = {name: {n: bits for n, bits in of.one.items() if bits != usual[n]} for name, of in readings.items()}
    stored = {"format": 1, "environment": {**about, "num_threads": 1}, "digests": usual, "under": changed}
    Path(__file__).with_name("known_bits.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        found = read(sys.argv[1], torch.device(sys.argv[2]), int(sys.argv[3]))
        print(json.dumps([found.one, found.many]))
    else:
        _write_table()
