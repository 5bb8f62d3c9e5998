"""The roof: products counted by hand, and against PyTorch's own count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlpbench.config import RunConfig
from mlpbench.records.kinds import Peak
from mlpbench.reporting.roofline import NUM_INPUTS, find, flops, roof_s
from mlpbench.training.trainer import Trainer
from mlpbench.workload.datasets import NUM_CLASSES, SIDE

PEAK = Peak(session="s", device="cpu", num_threads=2, gemm_flops_per_s=1e9, copy_bytes_per_s=1e9)


def test_shapes_are_those_of_the_data():
    assert (NUM_INPUTS, NUM_CLASSES) == (SIDE**2, 10)


@pytest.mark.parametrize("operation", ["forward", "forward_backward", "train_step"])
@pytest.mark.parametrize("settings", [{}, {"hidden_sizes": (7, 33), "activations": ("relu",), "batch_size": 3}])
def test_flops_are_those_that_pytorch_counts(small, operation, settings):
    config = RunConfig(dataset=small, **settings)
    trainer = Trainer(config)
    trainer.prepare(operation)
    with FlopCounterMode(display=False) as counter:
        trainer.operation(operation)()
    assert flops(operation, config, config.batch_size) == counter.get_total_flops()


def test_backward_is_what_forward_backward_has_more_than_forward():
    config = RunConfig()
    parts = [flops(operation, config, 100) for operation in ("forward", "backward", "forward_backward")]
    assert parts[0] + parts[1] == parts[2]


def test_an_operation_without_products_has_no_roof():
    assert roof_s("optimizer_step", RunConfig(), 100, PEAK) is None
    assert roof_s("forward", RunConfig(), 100, PEAK) == flops("forward", RunConfig(), 100) / 1e9


def test_the_roof_is_that_of_the_device_and_its_threads():
    one = Peak(session="s", device="cpu", num_threads=1, gemm_flops_per_s=5e8, copy_bytes_per_s=1e9)
    gpu = Peak(session="s", device="cuda", num_threads=2, gemm_flops_per_s=1e13, copy_bytes_per_s=1e12)
    assert find([one, PEAK, gpu], "cpu", 1) is one
    assert find([one, PEAK, gpu], "cpu", 2) is PEAK
    assert find([one, PEAK, gpu], "cuda", 8) is gpu
    assert find([one], "cpu", 2) is None


def test_no_product_is_faster_than_the_measured_peak_by_far():
    from mlpbench.machine import peaks

    found = peaks.measure("s", torch.device("cpu"))
    assert {p.num_threads for p in found} == {1, torch.get_num_threads()}
    assert all(p.gemm_flops_per_s > 1e8 and p.copy_bytes_per_s > 1e7 for p in found)
