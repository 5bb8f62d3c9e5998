"""Read the environments of older records: schemas 1 and 2, and certificates of format 1.

Uses the standard library only.
"""

from dataclasses import dataclass

from mlpbench.records.environment import NONE, Environment, Hardware, Stack
from mlpbench.records.ranges import Count, Positive


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatEnvironment:
    """Hold the environment of records of schemas 1 and 2, and of certificates of format 1."""

    cpu_model: str
    architecture: str
    num_cpus: Positive
    """CPUs that the process may use; how many the machine has is unknown."""
    cpu_capability: str
    memory_bytes: Count
    gpu_model: str | None
    gpu_memory_bytes: Count | None
    os: str
    python: str
    torch: str
    torchvision: str
    numpy: str
    cuda: str | None
    cudnn: str | None
    num_threads: Positive
    matmul_precision: str
    deterministic_algorithms: bool
    variables: tuple[tuple[str, str], ...]
    mlpbench: str
    commit: str
    dirty: bool


def from_flat(flat: FlatEnvironment) -> Environment:
    """Return the environment of an older record; the facts that it does not have are unknown."""
    return Environment(
        hardware=Hardware(
            cpu_model=flat.cpu_model,
            architecture=flat.architecture,
            gpu_model=flat.gpu_model or NONE,
            # 0 stood for a size that the system does not tell.
            memory_bytes=flat.memory_bytes or None,
            gpu_memory_bytes=flat.gpu_memory_bytes,
        ),
        stack=Stack(
            os=flat.os,
            python=flat.python,
            torch=flat.torch,
            torchvision=flat.torchvision,
            numpy=flat.numpy,
            cuda=flat.cuda or NONE,
            cudnn=flat.cudnn or NONE,
            num_allowed_cpus=flat.num_cpus,
            cpu_capability=flat.cpu_capability,
            num_threads=flat.num_threads,
            matmul_precision=flat.matmul_precision,
            deterministic_algorithms=flat.deterministic_algorithms,
            variables=flat.variables,
        ),
        mlpbench=flat.mlpbench,
        commit=flat.commit,
        dirty=flat.dirty,
    )
