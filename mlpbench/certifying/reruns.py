"""CHECKS: does the same seed give the same bits again, and where do two runs first part?

Compares within one machine and one PyTorch; nothing here speaks about another machine.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlpbench.config import RunConfig
from mlpbench.errors import choose
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.records.kinds import Check
from mlpbench.training.trainer import Trainer

NUM_STEPS = 10
Trace = dict[str, NDArray[np.floating]]


def trace(config: RunConfig, num_steps: int) -> Trace:
    """The initial parameters, and every tensor of a run's first steps by stage, in the order of computing."""
    trainer = Trainer(config)
    trainer.use_threads()
    stages = {f"initial {name}": _array(p) for name, p in trainer.model.named_parameters()}
    for step in range(num_steps):
        stages |= {f"step {step} {name}": _array(tensor) for name, tensor in trainer.trace_step().items()}
    return stages


def _array(tensor: torch.Tensor) -> NDArray[np.floating]:
    """A copy in which minus zero is zero."""
    array: NDArray[np.floating] = (tensor.detach() + 0.0).cpu().numpy().copy()
    return array


def first_difference(one: Trace, other: Trace) -> str | None:
    """The first stage whose bits differ; None if all are equal.

    Raises:
        ValueError: if the runs do not have the same stages.
    """
    if list(one) != list(other):
        raise ValueError("traces of different stages cannot be compared")
    for stage, array in one.items():
        if array.tobytes() != other[stage].tobytes():
            return stage
    return None


def _other_thread_count(config: RunConfig) -> RunConfig:
    """One thread for a run on several, and two for a run on one."""
    num_threads = config.num_threads or torch.get_num_threads()
    return replace(config, num_threads=1 if num_threads > 1 else 2)


CHECKS: dict[str, Callable[[RunConfig], tuple[RunConfig, Trace]]] = {
    "same process": lambda config: (config, trace(config, NUM_STEPS)),
    "fresh process": lambda config: (config, in_fresh_process(trace, config, NUM_STEPS)),
    "other thread count": lambda config: (
        _other_thread_count(config),
        in_fresh_process(trace, _other_thread_count(config), NUM_STEPS),
    ),
}


def check(name: str, config: RunConfig, session_id: str) -> Check:
    """Run twice and compare; the second time as the check's name says.

    Raises:
        InputError: for an unknown check.
    """
    again = choose(CHECKS, name, "check")
    one = trace(config, NUM_STEPS)
    other_config, other = again(config)
    stage = first_difference(one, other)
    return Check(
        session=session_id,
        name=name,
        config=config,
        other=other_config,
        num_steps=NUM_STEPS,
        num_stages=len(one),
        first_difference=stage,
        max_abs_difference=None if stage is None else _distance(one, other, [stage]),
        final_abs_difference=_distance(one, other, [s for s in one if s.startswith(f"step {NUM_STEPS - 1} update")]),
    )


def _distance(one: Trace, other: Trace, stages: list[str]) -> float:
    """The largest difference; equal bits are no distance apart, not even those of a NaN."""
    apart = [stage for stage in stages if one[stage].tobytes() != other[stage].tobytes()]
    with np.errstate(invalid="ignore"):  # infinity from infinity, in a run that diverged
        return max((float(np.abs(one[stage].astype(np.float64) - other[stage]).max()) for stage in apart), default=0.0)
