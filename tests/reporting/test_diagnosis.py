"""Test the limit of a run, from times with a known limit."""

import pytest

from mlpbench.config import RunConfig
from mlpbench.reporting import diagnosis, frames
from tests.strategies import results, session, timed


def steps(throughput_ms: float, device_ms: float):
    config = RunConfig(device="cuda")
    return frames.blocks(
        results(
            session(),
            timed("t", [throughput_ms] * 3, suite="clocks", config=config),
            timed("d", [device_ms] * 3, suite="clocks", config=config, clock="device"),
        )
    )


@pytest.mark.parametrize(("device_ms", "bound"), [(0.1, "launch-bound"), (0.95, "device-bound")])
def test_step_is_device_bound_if_the_device_is_busy(device_ms, bound):
    frame = steps(1.0, device_ms)
    assert diagnosis.device_busy(frame)["busy_share"].tolist() == [pytest.approx(device_ms)]
    (result,) = diagnosis.diagnoses(frame)
    assert (result.subject, result.bound) == ("Training step, cuda", bound)
    assert result.reason == f"the device is busy {100 * device_ms:.0f} % of the time"


@pytest.mark.parametrize(("loader_ms", "bound", "percent"), [(2500, "input-bound", 80), (600, "not input-bound", 17)])
def test_epoch_is_input_bound_if_most_of_it_is_loading(loader_ms, bound, percent):
    records = [
        timed(name, [ms] * 3, suite="epochs", operation="epoch", config=RunConfig(loader=name))
        for name, ms in (("memory", 500), ("dataloader", loader_ms))
    ]
    (result,) = diagnosis.diagnoses(frames.blocks(results(session(), *records)))
    assert (result.subject, result.bound) == ("DataLoader loop, cpu", bound)
    assert result.reason == f"{percent} % of its epoch is loading"


def test_one_clock_alone_gives_no_diagnosis():
    assert diagnosis.diagnoses(frames.blocks(results(session(), timed("t", [1.0])))) == []
