"""Make small certificates by hand."""

import struct
from dataclasses import fields

import numpy as np

from mlpbench.certifying.certificate import FORMAT, Certificate, Detail, Entry, Stage, pack
from mlpbench.config import RunConfig
from mlpbench.records.environment import Environment
from tests.strategies.example_records import ENVIRONMENT, changed


def certificate(
    *,
    first_difference: str | None = None,
    offset: float = 1e-8,
    created_at: str = "2026-01-01T00:00:00+00:00",
    environment: Environment = ENVIRONMENT,
    variables=(),
    **changes,
) -> Certificate:
    """Return a certificate of two stages and two steps.

    From the stage `first_difference` on, its values differ by `offset` from those of a certificate without one.
    """
    config_fields = {f.name for f in fields(RunConfig)}
    config = RunConfig(
        **{"engine": "portable", "num_threads": 2} | {k: v for k, v in changes.items() if k in config_fields}
    )
    environment = changed(
        environment, variables=variables, **{k: v for k, v in changes.items() if k not in config_fields}
    )
    names = [
        "initial linear0.weight",
        "step 0 loss",
        "step 0 update linear0.weight",
        "step 1 loss",
        "step 1 update linear0.weight",
        "test logits",
    ]
    start = len(names) if first_difference is None else names.index(first_difference)
    differs = [index >= start for index in range(len(names))]
    digests = [("f" if each else "0") * 32 for each in differs]
    samples = [pack(np.array([1.0 + offset * each, 2.0])) for each in differs]

    def entry(index):
        return Entry(stage=names[index], dtype="float32", num_values=2, digest=digests[index], samples=samples[index])

    def step(index):
        return f"{struct.pack('>d', 1.0 + offset * differs[index]).hex()} {digests[index + 1][:12]} " + "".join(
            digest[:4] for digest in digests[index : index + 2]
        )

    return Certificate(
        format=FORMAT,
        recipe="sha256-1",
        created_at=created_at,
        config=config,
        environment=environment,
        num_steps=2,
        zoom=None,
        arithmetic="portable/1" if config.engine == "portable" else "PyTorch",
        bits=21 if config.engine == "portable" else None,
        before=(entry(0),),
        stages=tuple(Stage(name=n, dtype="float32", num_values=2) for n in ("loss", "update linear0.weight")),
        steps=(step(1), step(3)),
        after=(entry(5),),
        test_accuracy=0.5 + offset,
        details=tuple(
            Detail(step=s, digests=tuple(digests[i : i + 2]), samples=tuple(samples[i : i + 2]))
            for s, i in enumerate((1, 3))
        ),
    )
