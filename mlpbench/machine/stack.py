"""Read the installed software, its settings, and the share of the machine that this process may use."""

import hashlib
import os
import platform
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from mlpbench.config import digest_paths
from mlpbench.records.environment import NONE, Stack
from mlpbench.records.facts import recorded_variables

# The compilers of `engines/cpp/library.py`, which this package does not import; a test compares the two.
COMPILERS = ("c++", "g++", "clang++")
# A longer value, or one that cannot be printed, is recorded as a digest.
_LONGEST_VALUE = 200


def read() -> Stack:
    """Describe the software as it is now."""
    libraries = built_with(torch.__config__.show())
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return Stack(
        os=f"{platform.system()} {'.'.join(platform.release().split('-')[0].split('.')[:2])}",
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=version("torchvision"),
        numpy=version("numpy"),
        cuda=torch.version.cuda or NONE,
        cudnn=NONE if cudnn is None else str(cudnn),
        mkl=libraries["mkl"],
        onednn=libraries["onednn"],
        blas=libraries["blas"],
        glibc=_glibc(),
        compiler=compiler(),
        transparent_huge_pages=huge_pages(),
        num_allowed_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        num_threads=torch.get_num_threads(),
        matmul_precision=torch.get_float32_matmul_precision(),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        variables=tuple((name, _value(os.environ[name])) for name in recorded_variables(os.environ)),
    )


def built_with(description: str) -> dict[str, str]:
    """Return the versions of MKL and oneDNN and the name of the BLAS, by the text of `torch.__config__.show()`."""
    patterns = {
        "mkl": r"Math Kernel Library Version (\S+ Build \d+|\S+)",
        "onednn": r"(?:MKL-DNN|oneDNN) (v\S+)",
        "blas": r"BLAS_INFO=(\w+)",
    }
    matches = {name: re.search(pattern, description) for name, pattern in patterns.items()}
    return {name: match[1] if match else NONE for name, match in matches.items()}


def compiler() -> str:
    """Return the compiler of the engines that are built here: its name, and the beginning of its SHA-256.

    To ask it for its version would start a process.
    """
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError:
        chosen = []
    path = next(filter(None, map(shutil.which, chosen[:1] or COMPILERS)), None)
    if path is None:
        return NONE
    file = Path(path).resolve()
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:8]
    except OSError:
        return file.name
    return " ".join([file.name, *chosen[1:], digest])


def huge_pages(path: Path = Path("/sys/kernel/mm/transparent_hugepage/enabled")) -> str | None:
    """Return the chosen mode of transparent huge pages; None if the system does not tell."""
    try:
        match = re.search(r"\[(\w+)\]", path.read_text())
    except OSError:
        return None
    return match[1] if match else None


def _glibc() -> str:
    """Return the version of the GNU C library, `none` if this is another one."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return NONE
    return (name or NONE).removeprefix("glibc ")


def _value(text: str) -> str:
    """Return the value of a variable as a record may hold it: printable, short, and without a path."""
    value = digest_paths(text)
    if value.isprintable() and len(value) <= _LONGEST_VALUE:
        return value
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"({len(text)} characters, sha256 {digest})"
