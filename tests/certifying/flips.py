"""Make certificates that differ: runs in which one bit is flipped, and files whose content is changed."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from mlpbench.certifying import certificate
from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.certify import certify
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import known_answers
from mlpbench.workload import datasets

NUM_STEPS = 6
NAMES = [f"linear{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")]


def resealed(original: Certificate, path, **changes) -> Certificate:
    """Write a changed certificate with a correct seal, and read it."""
    certificate.write(path, replace(original, **changes))
    return certificate.read(path)


class Flip(NamedTuple):
    """Describe a bit to flip."""

    where: str
    """images, labels, initial, gradient or update."""
    step: int
    """The step, for a gradient or an update."""
    name: str
    """The parameter, for an initial value, a gradient or an update."""
    position: int
    bit: int


def flip(tensor: torch.Tensor, position: int, bit: int) -> None:
    """Change one bit of a tensor in place."""
    array = tensor.detach().numpy()
    flat = np.ascontiguousarray(array).reshape(-1).copy()
    content = flat.view(np.uint8)
    content[(position % flat.size) * flat.itemsize + (bit // 8) % flat.itemsize] ^= 1 << (bit % 8)
    tensor.detach().copy_(torch.from_numpy(flat.reshape(array.shape)))


def injected(monkeypatch, config, flipped):
    """Certify a run in which one bit is flipped; return the stage that must be named, and the certificate."""
    where, step, name, position, bit = flipped
    # The known answers would notice the flip.
    monkeypatch.setattr(known_answers, "check", lambda device: None)
    if where in ("images", "labels"):
        dataset = datasets.load(config.dataset)
        parts = {kind: getattr(dataset.train, kind).clone() for kind in ("images", "labels")}
        # The lowest bit of a label, so that 8 and 9 stay valid labels.
        flip(parts[where], position, bit if where == "images" else 0)
        changed = replace(dataset, train=datasets.Images(**parts))
        monkeypatch.setitem(datasets.DATASETS, config.dataset, lambda: changed)
        datasets._load.cache_clear()
        datasets.resident.cache_clear()
        stage = f"data train {where}"
    elif where == "initial":
        original = portable.initial_parameters

        def initial_parameters(*arguments):
            parameters = original(*arguments)
            flip(parameters[name], position, bit)
            return parameters

        monkeypatch.setattr(portable, "initial_parameters", initial_parameters)
        stage = f"initial {name}"
    else:
        original = getattr(portable.Network, {"gradient": "backward", "update": "update"}[where])
        calls = []

        def flipping(network):
            original(network)
            calls.append(None)
            if len(calls) == step + 1:
                index = NAMES.index(name)
                pair = (network._weights, network._biases)[index % 2]
                flip(network.gradients[index] if where == "gradient" else pair[index // 2], position, bit)

        monkeypatch.setattr(portable.Network, original.__name__, flipping)
        stage = f"step {step} {where} {name}"
    return stage, certify(config, NUM_STEPS)
