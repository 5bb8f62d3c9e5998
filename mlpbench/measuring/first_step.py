"""What an engine's first step costs: libraries that are built, graphs that are compiled, memory that is laid out."""

import os
import tempfile

from mlpbench.config import RunConfig
from mlpbench.machine.clock import now
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.measuring.timing import new_id
from mlpbench.records.kinds import Block, Measurement
from mlpbench.training.trainer import Trainer

OPERATION = "first_step"
_CACHES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def measure(config: RunConfig, session_id: str) -> tuple[Measurement, Block]:
    """Time from a trainer with its data to the end of the first step of an epoch, in a fresh process with empty caches.

    PyTorch itself is woken before, by a step of the default engine.

    Raises:
        InputError: if the engine cannot run here.
    """
    with tempfile.TemporaryDirectory() as folder:
        seconds, used, samples = in_fresh_process(_first_step, config, folder)
    measurement = Measurement(
        id=new_id(),
        session=session_id,
        suite="engines",
        group=new_id(),
        operation=OPERATION,
        config=used,
        clock="throughput",
        rounds=1,
        samples_per_call=samples,
        warm_up_s=0.0,
        settled=False,
    )
    return measurement, Block(measurement=measurement.id, round=0, order=0, iterations=1, wall_ns=round(seconds * 1e9))


def _first_step(config: RunConfig, folder: str) -> tuple[float, RunConfig, int]:
    os.environ.update(dict.fromkeys(_CACHES, folder))
    trainer = Trainer(RunConfig(device=config.device, dataset=config.dataset))  # wakes PyTorch and the data
    trainer.prepare("train_step")
    start = now()
    trainer = Trainer(config)
    trainer.use_threads()
    inputs = trainer.inputs
    size = trainer.samples_per_call("train_step")
    trainer.engine.train(inputs["train images"], inputs["train labels"], trainer.order(0)[:size], size)
    return now() - start, trainer.config, size
