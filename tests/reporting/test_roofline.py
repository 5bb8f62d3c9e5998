"""Test the time at the hardware limit: products counted by hand, and by PyTorch."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlpbench.config import RunConfig
from mlpbench.records.kinds import Peak
from mlpbench.reporting.roofline import NUM_CLASSES, NUM_INPUTS, best, flops, limit_s
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets

PEAK = Peak(session="s", device="cpu", num_threads=2, gemm_flops_per_s=1e9, copy_bytes_per_s=1e9)


def test_shapes_are_those_of_the_data():
    assert (NUM_INPUTS, NUM_CLASSES) == (datasets.SIDE**2, datasets.NUM_CLASSES) == (784, 10)


@pytest.mark.parametrize("operation", ["forward", "forward_backward", "train_step"])
@pytest.mark.parametrize("settings", [{}, {"hidden_sizes": (7, 33), "activations": ("relu",), "batch_size": 3}])
def test_flops_are_those_that_pytorch_counts(small, operation, settings):
    config = RunConfig(dataset=small, **settings)
    trainer = Trainer(config)
    trainer.prepare(operation)
    with FlopCounterMode(display=False) as counter:
        trainer.operation(operation)()
    assert flops(operation, config, config.batch_size) == counter.get_total_flops()


def test_flops_of_forward_and_backward_add_up():
    config = RunConfig()
    parts = [flops(operation, config, 100) for operation in ("forward", "backward", "forward_backward")]
    assert parts[0] + parts[1] == parts[2]


def test_operation_without_products_has_no_limit():
    assert limit_s("optimizer_step", RunConfig(), 100, PEAK) is None
    assert limit_s("forward", RunConfig(), 100, PEAK) == flops("forward", RunConfig(), 100) / 1e9


def test_best_peak_is_that_of_the_device_and_its_thread_count():
    one = Peak(session="s", device="cpu", num_threads=1, gemm_flops_per_s=5e8, copy_bytes_per_s=1e9)
    gpu = Peak(session="s", device="cuda", num_threads=2, gemm_flops_per_s=1e13, copy_bytes_per_s=1e12)
    assert best([one, PEAK, gpu], "cpu", 1) is one
    assert best([one, PEAK, gpu], "cpu", 2) is PEAK
    assert best([one, PEAK, gpu], "cuda", 8) is gpu
    assert best([one], "cpu", 2) is None


def test_measured_peaks_are_of_a_plausible_size():
    from mlpbench.machine import peaks

    measured = peaks.measure("s", torch.device("cpu"))
    assert {p.num_threads for p in measured} == {1, torch.get_num_threads()}
    assert all(p.gemm_flops_per_s > 1e8 and p.copy_bytes_per_s > 1e7 for p in measured)
