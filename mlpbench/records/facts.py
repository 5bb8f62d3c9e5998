"""Say what the facts about a machine and its software decide: which machine it is, times, or bits.

Uses the standard library only.
"""

import fnmatch
from collections.abc import Iterable
from enum import Flag, auto


class Decides(Flag):
    """Say what a fact decides."""

    MACHINE = auto()
    """Which machine it is. A restart does not change such a fact, and neither does the choice of CPUs for a process."""
    CPU = auto()
    """Which processor it is."""
    TIMES = auto()
    """It can change a time on one machine."""
    BITS = auto()
    """It can change a bit."""
    KERNELS = auto()
    """It makes a library use other kernels on one processor."""
    DETAIL = auto()
    """It names an environment only where nothing else distinguishes it."""


NOTHING = Decides(0)
BITS = Decides.TIMES | Decides.BITS

# The first pattern that matches a variable says what it decides. Nothing: it is not recorded. These are the names of
# folders and logs, and variables that libraries set by themselves when they are imported.
_VARIABLES: tuple[tuple[str, Decides], ...] = (
    *((pattern, NOTHING) for pattern in (
        "*_DIR", "*_HOME", "*_PATH", "*_FILE", "*_LOGS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "KMP_WARNINGS")),
    ("ATEN_CPU_CAPABILITY", BITS | Decides.KERNELS | Decides.DETAIL),
    *((pattern, BITS | Decides.KERNELS) for pattern in (
        "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
        "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "OPENBLAS_CORETYPE", "BLIS_ARCH_TYPE",
        "GLIBC_TUNABLES", "XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")),
    *((pattern, Decides.TIMES) for pattern in (
        "PYTORCH_*ALLOC_CONF", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "ONEDNN_*", "DNNL_*", "OPENBLAS_*", "BLIS_*",
        "VECLIB_*", "MALLOC_*", "TCMALLOC_*", "MIMALLOC_*", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MODULE_LOADING", "XLA_PYTHON_*", "JAX_*",
        "PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHON_GIL", "PYTHON_JIT")),
    *((pattern, BITS) for pattern in (
        "TORCH_*", "TORCHINDUCTOR_*", "TORCHDYNAMO_*", "PYTORCH_*", "TRITON_*", "CUBLAS_*", "CUBLASLT_*", "CUDNN_*",
        "NVIDIA_TF32_OVERRIDE", "LD_PRELOAD", "LD_BIND_NOW", "DYLD_INSERT_LIBRARIES")),
)  # fmt: skip


def of_variable(name: str) -> Decides:
    """Return what an environment variable decides."""
    return next((role for pattern, role in _VARIABLES if fnmatch.fnmatchcase(name, pattern)), NOTHING)


def is_variable(name: str) -> bool:
    """True if a fact is an environment variable: fields have names in lower case."""
    return name.isupper()


def recorded_variables(names: Iterable[str]) -> list[str]:
    """Return, sorted, those of the environment variables that are recorded: they can change times or bits."""
    return sorted(name for name in names if is_variable(name) and of_variable(name))


# The vector instructions for which PyTorch, MKL, oneDNN and OpenBLAS have kernels of their own.
_VECTOR_FLAGS = {
    "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512dq", "avx512cd", "avx512bw",
    "avx512vl", "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq",
    "avx512_bf16", "avx512_fp16", "avx10", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "asimdfhm", "fphp", "fcma", "sve", "sve2", "svebf16", "svei8mm", "bf16", "i8mm",
    "sme", "sme2",
}  # fmt: skip


def vector_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """Return, sorted, those of a processor's flags that stand for vector instructions."""
    return tuple(sorted(_VECTOR_FLAGS.intersection(flags)))
