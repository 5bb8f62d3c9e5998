"""Train with the same seed twice, and find the first stage whose bits differ.

Both runs use one machine and one PyTorch, so that a result holds for no other machine.
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
    """Return the initial parameters and every tensor of a run's first steps, by stage, in the order of computing."""
    trainer = Trainer(config)
    trainer.use_threads()
    stages = {f"initial {name}": _array(p) for name, p in trainer.model.named_parameters()}
    for step in range(num_steps):
        stages |= {f"step {step} {name}": _array(tensor) for name, tensor in trainer.trace_step().items()}
    return stages


def _array(tensor: torch.Tensor) -> NDArray[np.floating]:
    """Copy a tensor to an array in which minus zero is zero."""
    array: NDArray[np.floating] = (tensor.detach() + 0.0).cpu().numpy().copy()
    return array


def first_difference(one: Trace, other: Trace) -> str | None:
    """Return the first stage whose bits differ; None if all bits are equal.

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
    """Return a config with one thread for a run on several threads, and with two for a run on one."""
    num_threads = config.num_threads or torch.get_num_threads()
    return replace(config, num_threads=1 if num_threads > 1 else 2)


# Each entry runs a config again, and returns the config and the trace of that second run.
RERUNS: dict[str, Callable[[RunConfig], tuple[RunConfig, Trace]]] = {
    "same process": lambda config: (config, trace(config, NUM_STEPS)),
    "fresh process": lambda config: (config, in_fresh_process(trace, config, NUM_STEPS)),
    "other thread count": lambda config: (
        _other_thread_count(config),
        in_fresh_process(trace, _other_thread_count(config), NUM_STEPS),
    ),
}


def rerun(name: str, config: RunConfig, session_id: str) -> Check:
    """Run twice and compare; the name says how the second run differs.

    Raises:
        InputError: if no rerun has that name.
    """
    run_again = choose(RERUNS, name, "rerun")
    one = trace(config, NUM_STEPS)
    other_config, other = run_again(config)
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
    """Return the largest absolute difference; it is 0 for equal bits, even for those of a NaN."""
    unequal = [stage for stage in stages if one[stage].tobytes() != other[stage].tobytes()]
    # A run whose training diverged may subtract infinity from infinity.
    with np.errstate(invalid="ignore"):
        differences = (float(np.abs(one[stage].astype(np.float64) - other[stage]).max()) for stage in unequal)
        return max(differences, default=0.0)
