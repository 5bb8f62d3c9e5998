"""C++ that is compiled for this machine at first use, by whatever compiler there is.

It is called through ctypes, so that it needs the headers of neither PyTorch nor Python, and is built in seconds;
`torch.utils.cpp_extension` would need ninja, and half a minute.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mlpbench.engines import argument_checks
from mlpbench.errors import InputError

_HEADER = Path(__file__).with_name("native.h")
COMPILERS = ("c++", "g++", "clang++")

# Nothing here may change a bit: the last two only say that nobody reads errno or the floating-point flags.
_FLAGS = (
    "-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-fast-math", "-fno-unsafe-math-optimizations",
    "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip

_NATIVE = (("-march=native",), ("-mcpu=native",), ())
# By the level that PyTorch's own kernels run at, which `ATEN_CPU_CAPABILITY` lowers; the first that the compiler takes.
_BELOW_NATIVE = {"DEFAULT": ((),), "AVX2": (("-mavx2", "-mfma"), ())}
POINTER, INT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def fields(kind: type, *names: str) -> list[tuple[str, type]]:
    """Fields of one type, for a `ctypes.Structure`."""
    return [(name, kind) for name in names]


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """The C++ of an engine, and what its messages say."""

    engine: str
    source: Path  # files of its name with a suffix of their own (`fused_vectors.h`) belong to it
    instead: str  # what to do where it cannot be built

    def load(self) -> ctypes.PyDLL:
        """The compiled functions; built first, where that was not done before.

        Raises:
            InputError: if there is no compiler, if it fails, or if what it made cannot be kept or loaded.
        """
        path = self.path()
        if not path.exists():
            self.build(path)
        try:
            return ctypes.PyDLL(str(path))  # keeps the interpreter's lock: no two calls at once
        except OSError as error:
            raise InputError(f"engine {self.engine} was built, but cannot be loaded: {error}; {self.instead}") from None

    def path(self) -> Path:
        """Where the library belongs: a name for every source, way of compiling, PyTorch and processor."""
        parts = sorted(self.source.parent.glob(f"{self.source.stem}_*.h"))
        key = hashlib.sha256(b"".join(part.read_bytes() for part in (_HEADER, self.source, *parts)))
        key.update(repr((_FLAGS, _levels(), os.environ.get("CXX"), torch.__version__, processor())).encode())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "mlpbench" / f"{self.engine}-{key.hexdigest()[:16]}.so"

    def enumeration(self, name: str, file: str | None = None) -> dict[str, int]:
        """Read an enumeration from the source, or from another file beside it: kLeakyRelu is `leaky_relu`.

        So a name is listed once, where its code is.
        """
        text = (self.source.with_name(file) if file else self.source).read_text(encoding="utf-8")
        declaration = re.search(rf"enum {name} : Int {{([^}}]*)}}", text)
        assert declaration, f"{self.source.name} declares {name}"
        members = [member.strip().removeprefix("k") for member in declaration[1].split(",")]
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", member).lower(): code for code, member in enumerate(members)}

    def compiler(self) -> list[str]:
        """The command of the C++ compiler: `$CXX`, or the first that is there.

        Raises:
            InputError: if there is none.
        """
        chosen = shlex.split(os.environ.get("CXX", ""))
        for command in [chosen] if chosen else [[name] for name in COMPILERS]:
            if shutil.which(command[0]):
                return command
        raise InputError(
            f"engine {self.engine} needs a C++ compiler, and there is no {' or '.join(chosen[:1] or COMPILERS)}; "
            f"install g++ or clang, or set CXX to one ({self.instead})"
        )

    def build(self, path: Path) -> None:
        """Compile under another name and rename, so that processes which do it at once leave one whole library.

        Raises:
            InputError: if there is no compiler, if it fails, or if the folder cannot be written.
        """
        compiler = self.compiler()
        print(f"building mlpbench's {self.engine} for this machine: once, some seconds", file=sys.stderr, flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / "library.so"
                for level in _levels():
                    command = [*compiler, *_FLAGS, *level, str(self.source), "-o", str(made)]
                    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
                    if done.returncode == 0:
                        made.replace(path)
                        return
        except OSError as error:
            raise InputError(f"engine {self.engine} cannot be built: {error}; {self.instead}") from None
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "error" in line] or said or [f"exit code {done.returncode}"]
        raise InputError(f"engine {self.engine}: {compiler[0]} cannot build it: {errors[0]} ({self.instead})")

    def sizes(self, parameters: list[Tensor], num_layers: int) -> list[int]:
        """From the inputs to the outputs of a perceptron, as the shapes of its parameters have them.

        Raises:
            InputError: if they are not float32 on the CPU, weight and bias of each layer in turn.
        """
        if len(parameters) != 2 * num_layers or [p.dim() for p in parameters] != [2, 1] * num_layers:
            raise InputError(f"engine {self.engine}: {num_layers} layers have a weight and a bias each, in turn")
        sizes = [parameters[0].shape[1], *(len(bias) for bias in parameters[1::2])]
        for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
            argument_checks.require(
                self.engine, weight, f"weight of layer {i}", torch.float32, (sizes[i + 1], sizes[i])
            )
            argument_checks.require(self.engine, bias, f"bias of layer {i}", torch.float32, (sizes[i + 1],))
        return sizes


def _levels() -> tuple[tuple[str, ...], ...]:
    return _BELOW_NATIVE.get(torch.backends.cpu.get_cpu_capability(), _NATIVE)


def processor() -> tuple[str, ...]:
    """What decides which instructions there are; a model's name alone does not, on a virtual machine."""
    described = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")
        kept = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
        described += [line for line in first.splitlines() if line.partition(":")[0].strip() in kept]
    return tuple(described)


def give_threads(library: ctypes.PyDLL) -> None:
    """Let a library run on PyTorch's own threads."""
    library.native_threads.argtypes = [POINTER] * 3
    library.native_threads(*threads())


def threads() -> list[int | None]:
    """Addresses in the OpenMP library that PyTorch itself runs on; where it has another, none: then on one thread.

    They are those of GOMP_parallel, omp_get_thread_num and omp_get_num_threads.
    """
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    with contextlib.suppress(OSError, AttributeError):
        pytorch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return [ctypes.cast(getattr(pytorch, name), POINTER).value for name in names]
    return [None] * len(names)
