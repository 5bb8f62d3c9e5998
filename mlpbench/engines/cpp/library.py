"""Compile an engine's C++ for this machine at first use, with any C++ compiler, and load it.

The functions are called through ctypes. So the C++ needs no headers of PyTorch or Python and is built in seconds;
`torch.utils.cpp_extension` would need ninja and half a minute.
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
from typing import Self

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.errors import InputError

_HEADER = Path(__file__).with_name("native.h")
COMPILERS = ("c++", "g++", "clang++")

# None of these may change a bit. The last two only say that nobody reads errno or the floating-point flags.
_FLAGS = (
    "-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-fast-math", "-fno-unsafe-math-optimizations",
    "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip

# Flags for the processor: the first group that the compiler accepts is used.
_NATIVE = (("-march=native",), ("-mcpu=native",), ())
# The same for a lower vector level. PyTorch's own kernels run at this level, which `ATEN_CPU_CAPABILITY` can lower.
_BELOW_NATIVE = {"DEFAULT": ((),), "AVX2": (("-mavx2", "-mfma"), ())}
POINTER, INT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def fields(kind: type, *names: str) -> list[tuple[str, type]]:
    """Return fields of one type, for a `ctypes.Structure`."""
    return [(name, kind) for name in names]


class OptimizerSettings(ctypes.Structure):
    """Mirror the structure of the same name in native.h."""

    _fields_ = (("kind", INT), *fields(REAL, "lr", "momentum", "decay", "power1", "power2"))

    @classmethod
    def of(cls, kind: int, config: RunConfig) -> Self:
        """Return the settings of a config, before the first step. `kind` is the code of its optimizer."""
        return cls(kind, config.lr, config.momentum, config.weight_decay, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """Describe the C++ of an engine: build it, load it, and read its enumerations."""

    engine: str
    """The engine's name, for messages."""
    source: Path
    """The C++ file. Headers beside it whose names begin with its stem and `_` (`fused_vectors.h`) belong to it."""
    instead: str
    """The advice to a user if it cannot be built."""

    def load(self, *mirrors: type[ctypes.Structure]) -> ctypes.PyDLL:
        """Return the compiled functions; build them first if this was not done before.

        Each of `mirrors` is the Python side of a C++ structure with the same name (without a leading `_`). The C++ has
        `EXPORT_SIZE` for it, so that a field that only one side has is an error here, before it corrupts memory.

        Raises:
            InputError: if there is no compiler, if it fails, or if the library cannot be written or loaded.
            AssertionError: if a mirror has another size than its structure.
        """
        path = self.path()
        if not path.exists():
            self.build(path)
        try:
            # A PyDLL keeps the interpreter's lock, so that there are never two calls at the same time.
            library = ctypes.PyDLL(str(path))
        except OSError as error:
            raise InputError(f"engine {self.engine} was built, but cannot be loaded: {error}; {self.instead}") from None
        for mirror in mirrors:
            name, size = mirror.__name__.removeprefix("_"), ctypes.sizeof(mirror)
            size_of = library[f"size_of_{name}"]
            size_of.restype = INT
            if size_of() != size:
                raise AssertionError(
                    f"{self.source.name}: {name} has {size_of()} bytes, but {mirror.__module__}.{mirror.__name__} has "
                    f"{size}; give both the same fields"
                )
        return library

    def _files(self) -> tuple[Path, ...]:
        return _HEADER, self.source, *sorted(self.source.parent.glob(f"{self.source.stem}_*.h"))

    def path(self) -> Path:
        """Return the path of the compiled library: another for each source, compiler flags, PyTorch and processor."""
        key = hashlib.sha256(b"".join(file.read_bytes() for file in self._files()))
        key.update(repr((_FLAGS, _levels(), os.environ.get("CXX"), torch.__version__, processor())).encode())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "mlpbench" / f"{self.engine}-{key.hexdigest()[:16]}.so"

    def enumeration(self, name: str) -> dict[str, int]:
        """Read the names and codes of an enumeration from the C++; kLeakyRelu becomes `leaky_relu`.

        So each name is listed in one place, next to its code.
        """
        text = "".join(file.read_text(encoding="utf-8") for file in self._files())
        declaration = re.search(rf"enum {name} : Int {{([^}}]*)}}", text)
        assert declaration, f"{self.source.name} declares {name}"
        members = [member.strip().removeprefix("k") for member in declaration[1].split(",")]
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", member).lower(): code for code, member in enumerate(members)}

    def compiler(self) -> list[str]:
        """Return the command of the C++ compiler: `$CXX`, or the first one that is installed.

        Raises:
            InputError: if there is no compiler.
        """
        chosen = shlex.split(os.environ.get("CXX", ""))
        for command in [chosen] if chosen else [[name] for name in COMPILERS]:
            if shutil.which(command[0]):
                return command
        raise InputError(
            f"engine {self.engine} needs a C++ compiler, and found no {' or '.join(chosen[:1] or COMPILERS)}; "
            f"install g++ or clang, or set CXX to a compiler ({self.instead})"
        )

    def build(self, path: Path) -> None:
        """Compile the library. It gets its name last, so that processes which build at once leave one whole library.

        Raises:
            InputError: if there is no compiler, if it fails, or if the folder cannot be written.
        """
        compiler = self.compiler()
        print(
            f"building engine {self.engine} for this machine; this takes some seconds, once",
            file=sys.stderr,
            flush=True,
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                library = Path(folder) / "library.so"
                for level in _levels():
                    command = [*compiler, *_FLAGS, *level, str(self.source), "-o", str(library)]
                    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
                    if result.returncode == 0:
                        library.replace(path)
                        return
        except OSError as error:
            raise InputError(f"engine {self.engine} cannot be built: {error}; {self.instead}") from None
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line] or lines or [f"exit code {result.returncode}"]
        raise InputError(f"engine {self.engine}: {compiler[0]} cannot build it: {errors[0]} ({self.instead})")

    def sizes(self, parameters: list[Tensor], num_layers: int) -> list[int]:
        """Return the widths of a perceptron, from its inputs to its outputs, as its parameters' shapes have them.

        Raises:
            InputError: if the parameters are not float32 on the CPU, weight and bias of each layer in turn.
        """
        if len(parameters) != 2 * num_layers or [p.dim() for p in parameters] != [2, 1] * num_layers:
            raise InputError(
                f"engine {self.engine}: {num_layers} layers must have a weight and a bias each, in this order"
            )
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
    """Return the properties that decide the available instructions. A virtual machine's model name alone does not."""
    description = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")
        keys = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
        description += [line for line in first.splitlines() if line.partition(":")[0].strip() in keys]
    return tuple(description)


def give_threads(library: ctypes.PyDLL) -> None:
    """Let a library run on PyTorch's own threads."""
    library.native_threads.argtypes = [POINTER] * 3
    library.native_threads(*threads())


def threads() -> list[int | None]:
    """Return the addresses of three functions in the OpenMP library that PyTorch itself runs on.

    They are GOMP_parallel, omp_get_thread_num and omp_get_num_threads. They are None if PyTorch has another OpenMP; the
    C++ then runs on one thread.
    """
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    with contextlib.suppress(OSError, AttributeError):
        pytorch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return [ctypes.cast(getattr(pytorch, name), POINTER).value for name in names]
    return [None] * len(names)
