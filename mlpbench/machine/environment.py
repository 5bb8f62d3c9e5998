"""Read the machine and the installed software, and start a session."""

import functools
import os
import platform
import subprocess
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import mlpbench
from mlpbench.config import without_paths
from mlpbench.errors import InputError
from mlpbench.records.kinds import Environment, Session

# Environment variables that are known to change times or bits of the workload. Paths in their values are left out.
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
    "KMP_AFFINITY", "LD_PRELOAD", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip


def resolve_device(name: str) -> torch.device:
    """Return the device for a name: cpu, cuda or auto (CUDA if available, else the CPU).

    Raises:
        InputError: for another name, or for cuda without a CUDA device.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise InputError(f"unknown device {name!r}; known: cpu, cuda, auto")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        built = torch.version.cuda is not None
        reason = "no CUDA device is visible" if built else "this PyTorch was built without CUDA"
        raise InputError(f"device cuda: {reason}; use device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@functools.cache
def current() -> Environment:
    """Describe this machine and its software, as they were at the first call."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    cudnn = torch.backends.cudnn.version() if gpu else None
    commit, dirty = _commit()
    return Environment(
        cpu_model=_cpu_model(),
        architecture=platform.machine(),
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        memory_bytes=_memory_bytes(),
        gpu_model=gpu.name if gpu else None,
        gpu_memory_bytes=gpu.total_memory if gpu else None,
        os=f"{platform.system()} {'.'.join(platform.release().split('-')[0].split('.')[:2])}",
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=version("torchvision"),
        numpy=version("numpy"),
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        num_threads=torch.get_num_threads(),
        matmul_precision=torch.get_float32_matmul_precision(),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        variables=tuple((name, without_paths(os.environ[name])) for name in VARIABLES if name in os.environ),
        mlpbench=mlpbench.__version__,
        commit=commit,
        dirty=dirty,
    )


def start_session(
    command: str, preset: str = "-", *, run: str | None = None, process: int = 0, side: str = ""
) -> Session:
    """Return a new session of this process. Without `run`, the session is a run by itself."""
    session_id = uuid.uuid4().hex[:12]
    return Session(
        id=session_id,
        run=run or session_id,
        process=process,
        side=side,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        preset=preset,
        environment=current(),
    )


def _cpu_model() -> str:
    """Return the name of the processor.

    Linux has it in /proc/cpuinfo. There, `platform` would give the architecture only.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    """Return the size of the physical memory, 0 if it is not available."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _commit() -> tuple[str, bool]:
    """Return the commit of the source of mlpbench, and whether the source differs from it.

    Results do not count as source. An installed package has no commit: its version takes that place.
    """
    package = Path(mlpbench.__file__).parent
    git = ["git", "-C", str(package)]
    if _output([*git, "ls-files", "__init__.py"]) != "__init__.py":
        return f"v{mlpbench.__version__}", False
    commit = _output([*git, "rev-parse", "--short=12", "HEAD"])
    status = _output([*git, "status", "--porcelain", "--", ":/mlpbench", ":/bench", ":/pyproject.toml"])
    return commit or f"v{mlpbench.__version__}", bool(status)


def _output(command: list[str]) -> str:
    """Return the output of a command, empty if it cannot run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
