"""Define the training that the tests of fused_cuda use."""

import importlib.util

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.workload.models import MODELS

CONFIG = RunConfig(hidden_sizes=(13, 20), activations=("tanh", "elu"), lr=0.02, weight_decay=0.01)
NUM_FEATURES, NUM_CLASSES, NUM_SAMPLES = 17, 5, 30

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def model_of(config, num_classes=NUM_CLASSES):
    torch.manual_seed(1)
    return MODELS["mlp"](config, NUM_FEATURES, num_classes)


def samples(device, num_classes=NUM_CLASSES, scale=1.0):
    """Return random inputs and labels."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(num_classes, (NUM_SAMPLES,), generator=generator)
    return (scale * torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)).to(device), y.to(device)
