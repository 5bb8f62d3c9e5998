"""Make a certificate: run the first steps of a config, and store digests of everything that they compute."""

import hashlib
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from mlpbench.certifying.certificate import (
    ENTRY_HEX,
    FORMAT,
    NUM_SAMPLES,
    NUM_STEPS,
    NUM_ZOOMED,
    RECIPE,
    STAGE_HEX,
    STEP_HEX,
    Certificate,
    Detail,
    Entry,
    Stage,
    pack,
    positions,
)
from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine import environment
from mlpbench.training.trainer import Trainer
from mlpbench.workload.digest import digest


def certify(config: RunConfig, num_steps: int = NUM_STEPS, zoom: int | None = None) -> Certificate:
    """Train for `num_steps` whole batches from a fresh state, and store what is needed to find a first difference.

    The stages of every step are digested. Some steps also get sampled values: the first three, those whose number is a
    power of two, the last one, and `zoom`. The step `zoom` gets more of them.

    Raises:
        InputError: if the config cannot run here, or if `zoom` is not a step of the run. Also if a value is not finite
            and the engine promises bits.
    """
    if zoom is not None and not 0 <= zoom < num_steps:
        raise InputError(f"--zoom {zoom}: the run has the steps 0 to {num_steps - 1}")
    try:
        trainer = Trainer(config)
    # PyTorch's allocator raises a RuntimeError if the memory is too small.
    except (MemoryError, RuntimeError) as error:
        raise InputError(f"{config} cannot be built on this machine: {str(error).splitlines()[0]}") from None
    trainer.use_threads()
    before = list(_before(trainer, num_steps))
    steps, details = [], []
    for step in range(num_steps):
        tensors = trainer.trace_step()
        loss = tensors["loss"].item()
        trainer.engine.check(loss)
        digests = [_digest(name, tensor) for name, tensor in tensors.items()]
        step_digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        steps.append(
            f"{struct.pack('>d', loss).hex()} {step_digest[:STEP_HEX]} {''.join(d[:STAGE_HEX] for d in digests)}"
        )
        if step < 3 or step.bit_count() == 1 or step in (num_steps - 1, zoom):
            details.append(
                Detail(
                    step=step,
                    digests=tuple(d[:ENTRY_HEX] for d in digests),
                    samples=tuple(_samples(t, NUM_ZOOMED if step == zoom else NUM_SAMPLES) for t in tensors.values()),
                )
            )
    stages = tuple(
        Stage(name=name, dtype=_dtype(tensor), num_values=tensor.numel()) for name, tensor in tensors.items()
    )
    logits = trainer.logits()
    for result in (logits, *trainer.model.parameters()):
        trainer.engine.check(result.detach().abs().amax().item())
    correct = (logits.argmax(1) == trainer.inputs["test labels"]).sum().item()
    return Certificate(
        format=FORMAT,
        recipe=RECIPE,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        arithmetic=trainer.engine.arithmetic,
        bits=trainer.engine.bits,
        config=trainer.config,
        environment=environment.current(),
        num_steps=num_steps,
        zoom=zoom,
        before=tuple(before),
        stages=stages,
        steps=tuple(steps),
        details=tuple(details),
        after=(_entry("test logits", logits),),
        test_accuracy=correct / len(logits),
    )


def _before(trainer: Trainer, num_steps: int) -> Iterator[Entry]:
    """Yield the inputs of a run: tables, data, initial parameters, and the order of every epoch that it reaches."""
    for name, table in trainer.engine.tables().items():
        yield _entry(f"table {name}", table)
    for name, tensor in trainer.inputs.items():
        yield _entry(f"data {name}", tensor)
    for name, parameter in trainer.model.named_parameters():
        yield _entry(f"initial {name}", parameter.detach())
    for name, numbers in trainer.engine.randomness.samples().items():
        yield _entry(f"random numbers of {name}", numbers)
    if trainer.engine.randomness.is_used:
        yield _entry("random numbers beyond the seed", _beyond_seed(trainer))
    steps_per_epoch = len(trainer.inputs["train labels"]) // trainer.samples_per_call("train_step")
    for epoch in range(math.ceil(num_steps / steps_per_epoch)):
        yield _entry(f"order of epoch {epoch}", trainer.order(epoch))


def _beyond_seed(trainer: Trainer) -> Tensor:
    """Return 0 (1,) if the first step has the same bits twice, else a number that is another one in every run.

    A model can hold a generator where nobody can seed it.
    """
    runs: list[list[Tensor]] = []
    for _ in range(2):
        trainer.reset()
        runs.append([tensor.clone() for tensor in trainer.trace_step().values()])
    trainer.reset()
    unequal = [one for one, other in zip(*runs, strict=True) if _digest("", one) != _digest("", other)]
    return torch.stack(
        [tensor.double().cpu().sum() for tensor in unequal[:1]] or [torch.zeros((), dtype=torch.float64)]
    )


def _entry(stage: str, tensor: Tensor) -> Entry:
    return Entry(
        stage=stage,
        dtype=_dtype(tensor),
        num_values=tensor.numel(),
        digest=_digest(stage, tensor)[:ENTRY_HEX],
        samples=_samples(tensor, NUM_SAMPLES),
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _digest(stage: str, tensor: Tensor) -> str:
    """Return the digest of a tensor without the name of its recipe."""
    return digest({stage: tensor}).removeprefix(f"{RECIPE}:")


def _samples(tensor: Tensor, num_samples: int) -> str:
    """Return the sampled values of a tensor, encoded."""
    flat = tensor.detach().flatten()
    indices = torch.from_numpy(positions(len(flat), num_samples)).to(flat.device)
    return pack(flat[indices].cpu().numpy().astype(np.float64))
