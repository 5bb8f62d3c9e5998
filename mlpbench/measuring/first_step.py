"""Measure what an engine's first step costs: libraries to build, graphs to compile, memory to lay out."""

import os
import tempfile

from mlpbench.config import Clock, RunConfig
from mlpbench.machine.clock import now
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.measuring.timing import new_id
from mlpbench.records.kinds import Block, Measurement
from mlpbench.training.trainer import Trainer

OPERATION = "first_step"

# The environment variables that say where engines keep what they built.
_CACHE_VARIABLES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def measure(config: RunConfig, session_id: str) -> tuple[Measurement, Block]:
    """Time the building of a trainer and its first step of an epoch, in a fresh process with empty caches.

    PyTorch itself starts up before, in a step of the default engine, so that its start is not part of the time.

    Raises:
        InputError: if the engine cannot run here.
    """
    with tempfile.TemporaryDirectory() as folder:
        seconds, resolved_config, num_samples = in_fresh_process(_first_step, config, folder)
    measurement = Measurement(
        id=new_id(),
        session=session_id,
        suite="engines",
        group=new_id(),
        operation=OPERATION,
        config=resolved_config,
        clock=Clock.THROUGHPUT.value,
        rounds=1,
        samples_per_call=num_samples,
        warm_up_s=0.0,
        settled=False,
    )
    return measurement, Block(measurement=measurement.id, round=0, order=0, iterations=1, wall_ns=round(seconds * 1e9))


def _first_step(config: RunConfig, folder: str) -> tuple[float, RunConfig, int]:
    """Return the seconds, the config with its device resolved, and the number of samples of the step."""
    os.environ.update(dict.fromkeys(_CACHE_VARIABLES, folder))
    # This starts PyTorch, and loads the data.
    trainer = Trainer(RunConfig(device=config.device, dataset=config.dataset))
    trainer.prepare("train_step")
    start = now()
    trainer = Trainer(config)
    trainer.use_threads()
    inputs = trainer.inputs
    size = trainer.samples_per_call("train_step")
    trainer.engine.train(inputs["train images"], inputs["train labels"], trainer.order(0)[:size], size)
    return now() - start, trainer.config, size
