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
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.engines.cpp import cache, compiler
from mlpbench.errors import InputError, printable

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

# A loop that the compiler turns into vector instructions, so that the assembler must know them too.
_PROBE = 'extern "C" void probe(float* a, int n) { for (int i = 0; i < n; ++i) a[i] = a[i] * 2 + 1; }\n'
# A slow machine needs a second for the first and some minutes for the second.
_PROBE_LIMIT_S, _LIMIT_S = 30.0, 900.0

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
        library = self._open()
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

    def _open(self) -> ctypes.PyDLL:
        """Load the library, after a check of what is loaded.

        No other user can change the library between check and loading: they can neither write in its folder nor change
        the meaning of its path, and it is opened by no name of theirs. The shared lock keeps away the other processes
        of this user. So it can be loaded by its name, which debuggers and profilers then show.
        """
        path = self.path()
        cache.make_private(path.parent)
        reason = None
        for is_built in (False, True):
            with cache.locked(path.parent, is_shared=True):
                reason = cache.damage(path)
                if reason is None:
                    try:
                        # A PyDLL keeps the interpreter's lock, so that there are never two calls at the same time.
                        return ctypes.PyDLL(str(path))
                    except OSError as error:
                        reason = f"cannot be loaded ({error})"
            if not is_built:
                self.build(path, reason)
        cache.remove(path)
        raise InputError(printable(f"engine {self.engine}: the library that was built {reason}; {self.instead}"))

    def _files(self) -> tuple[Path, ...]:
        return _HEADER, self.source, *sorted(self.source.parent.glob(f"{self.source.stem}_*.h"))

    def path(self) -> Path:
        """Return the path of the compiled library: another for each source, compiler flags, PyTorch and processor."""
        key = hashlib.sha256(b"".join(file.read_bytes() for file in self._files()))
        key.update(repr((_FLAGS, _levels(), os.environ.get("CXX"), torch.__version__, processor())).encode())
        return cache.home() / f"{self.engine}-{key.hexdigest()[:16]}.so"

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
            InputError: if there is no compiler, or if CXX is no command.
        """
        setting = os.environ.get("CXX", "")
        try:
            chosen = shlex.split(setting)
        except ValueError as error:
            raise InputError(
                printable(f"CXX is {setting!r}, which is no command: {error}; set it to a C++ compiler, or unset it")
            ) from None
        if setting and not chosen:
            raise InputError(f"CXX is {setting!r}, which is no command; set it to a C++ compiler, or unset it")
        for command in [chosen] if chosen else [[name] for name in COMPILERS]:
            if shutil.which(command[0]):
                # It runs in another folder.
                return [str(Path(command[0]).absolute()), *command[1:]] if os.sep in command[0] else command
        names = " or ".join([printable(chosen[0]) or "program ''"] if chosen else COMPILERS)
        raise InputError(
            f"engine {self.engine} needs a C++ compiler, and found no {names}; install g++ or clang, or set CXX to a "
            f"compiler ({self.instead})"
        )

    def build(self, path: Path, reason: str | None = None) -> None:
        """Compile the library. It gets its name last, so that processes which build at once leave one whole library.

        `reason` says what is wrong with the library that has the name now.

        Raises:
            InputError: if there is no compiler, if it fails or hangs, or if the folder cannot be written.
        """
        cache.make_private(path.parent)
        command = self.compiler()
        notice = (
            f"building engine {self.engine} for this machine; this takes some seconds, once"
            if reason is None or not os.path.lexists(path)
            else printable(f"engine {self.engine}: {path} {reason}; building it again, which takes some seconds")
        )
        # A full disk, where standard error is a file, is no reason not to build.
        with contextlib.suppress(OSError):
            print(notice, file=sys.stderr, flush=True)
        try:
            with cache.workspace(path.parent) as folder:
                cache.store(self._compile(command, folder), path)
        except OSError as error:
            problem = error.strerror or error
            raise InputError(printable(f"engine {self.engine} cannot be built: {problem}; {self.instead}")) from None

    def _compile(self, command: list[str], folder: Path) -> Path:
        """Compile the library in a folder, and return its path there.

        The compiler works there, on copies of the sources. So a program that CXX names by mistake damages nothing else.

        Raises:
            InputError: if the compiler fails, or makes no library.
            OSError: if it hangs, or the folder cannot be written.
        """
        for file in self._files():
            copy = folder / file.parent.name / file.name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
        source, probe = folder / self.source.parent.name / self.source.name, folder / "probe.cpp"
        probe.write_text(_PROBE, encoding="utf-8")
        library = folder / "library.so"
        failure: compiler.CompileError | None = None
        for level in _levels():
            common = [*command, *_FLAGS, *level, "-o", str(library)]
            try:
                compiler.build([*common, str(probe)], library, limit_s=_PROBE_LIMIT_S, scratch=folder)
            except compiler.CompileError as error:
                failure = error
                continue
            try:
                # If it fails, a lower level would at best leave a slow library for ever.
                compiler.build([*common, str(source)], library, limit_s=_LIMIT_S, scratch=folder)
            except compiler.CompileError as error:
                failure = error
                break
            return library
        raise InputError(f"engine {self.engine}: {printable(command[0])} cannot build it: {failure} ({self.instead})")

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
