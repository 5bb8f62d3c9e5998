from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.engines import cudagraph, recorder
from mlpbench.engines.cudagraph import CudaGraph
from mlpbench.engines.eager import Eager
from mlpbench.engines.recorder import record, without_trace
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS

NUM_FEATURES, NUM_CLASSES, NUM_SAMPLES = 12, 5, 95
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@pytest.fixture
def recorded(monkeypatch):
    """The number of steps of each recording; in place of a graph, the function itself, warmed up as a graph's."""
    made = []

    def stand_in(run, changed):
        without_trace(run, changed)
        made.append(run)
        return run

    monkeypatch.setattr(cudagraph, "DEVICE", "cpu")
    monkeypatch.setattr(cudagraph, "NUM_STEPS", 4)
    monkeypatch.setattr(cudagraph, "record", stand_in)
    return made


def config_of(optimizer="sgd", **changes):
    return RunConfig(
        hidden_sizes=(9, 7),
        activations=("tanh", "custom_elu"),
        optimizer=optimizer,
        weight_decay=0.01,
        lr=0.05,
        **changes,
    )


def model_of(config):
    torch.manual_seed(1)
    return MODELS["mlp"](config, NUM_FEATURES, NUM_CLASSES)


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    return torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator), y


def assert_same_parameters(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def assert_same_progress(progress, other):
    assert progress.num_correct == other.num_correct
    assert progress.loss_sum == pytest.approx(other.loss_sum, rel=1e-6)
    assert progress.last_loss == pytest.approx(other.last_loss, rel=1e-6)


def both(config):
    """The engine and eager, each on its own copy of a model; with the models."""
    model = model_of(config)
    other = deepcopy(model)
    return CudaGraph(model, config), model, Eager(other, config), other


# --- against eager


@every_optimizer
@pytest.mark.parametrize("batch_size", [10, 19, 95, 200])  # a short last batch, none, and fewer samples than a batch
def test_epochs_are_those_of_eager(recorded, samples, optimizer, batch_size):
    engine, model, eager, other = both(config_of(optimizer))
    for epoch in range(3):
        order = datasets.batch_order(0, epoch, NUM_SAMPLES)
        assert_same_progress(engine.train(*samples, order, batch_size), eager.train(*samples, order, batch_size))
    assert_same_parameters(model, other)


@every_optimizer
def test_steps_are_those_of_eager(recorded, samples, optimizer):
    engine, model, eager, other = both(config_of(optimizer))
    x, y = samples
    for size in (10, 10, 7, 10):
        for outcome, expected in zip(engine.step(x[:size], y[:size]), eager.step(x[:size], y[:size]), strict=True):
            torch.testing.assert_close(outcome, expected, rtol=1e-6, atol=1e-7)
            assert not outcome.requires_grad
    assert_same_parameters(model, other)


def test_outcome_of_a_step_is_not_overwritten_by_the_next(recorded, samples):
    engine, *_ = both(config_of())
    x, y = samples
    first = engine.step(x[:10], y[:10])
    kept = [each.clone() for each in first]
    engine.step(x[10:20], y[10:20])
    assert all(map(torch.equal, first, kept))


@every_optimizer
def test_parts_and_trace_are_those_of_eager_between_epochs(recorded, samples, optimizer):
    engine, model, eager, other = both(config_of(optimizer))
    x, y = samples
    for each in (engine, eager):
        each.train(x, y, torch.arange(NUM_SAMPLES), 10)
        each.loss(x[:10], y[:10])
        each.backward()
        each.update()
        each.train(x, y, torch.arange(NUM_SAMPLES), 10)
    stages, expected = engine.trace(x[:10], y[:10]), eager.trace(x[:10], y[:10])
    assert list(stages) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(stages[name], tensor, rtol=1e-6, atol=1e-7)
    assert_same_parameters(model, other)


@pytest.mark.parametrize("num_named", [5, 40, 45, 83])
def test_part_of_an_epoch_is_trained(recorded, samples, num_named):
    engine, model, eager, other = both(config_of("momentum"))
    order = datasets.batch_order(0, 0, NUM_SAMPLES)[:num_named]
    assert_same_progress(engine.train(*samples, order, 10), eager.train(*samples, order, 10))
    assert_same_parameters(model, other)


def test_samples_and_size_of_a_batch_may_change(recorded, samples):
    engine, model, eager, other = both(config_of("adam"))
    x, y = samples
    for each in (engine, eager):
        each.train(x, y, torch.arange(NUM_SAMPLES), 10)
        each.train(x, y, torch.arange(NUM_SAMPLES), 7)
        each.train(x[:50].clone(), y[:50].clone(), torch.arange(50), 7)
    assert_same_parameters(model, other)


# --- what is recorded, and when


@every_optimizer
def test_recording_leaves_parameters_and_optimizer_as_they_were(recorded, samples, optimizer):
    engine, model, *_ = both(config_of(optimizer))
    x, y = samples
    engine.train(x, y, torch.arange(NUM_SAMPLES), 10)
    state = deepcopy([model.state_dict(), engine._optimizer.state_dict()])
    num_recorded = len(recorded)
    order = torch.arange(0)
    engine.train(x, y, order, 9)  # records, and trains on nothing
    assert len(recorded) > num_recorded
    for tensor, had in zip(
        tensors_of([model.state_dict(), engine._optimizer.state_dict()]), tensors_of(state), strict=True
    ):
        assert torch.equal(tensor, had)
    assert all(p.grad is None for p in model.parameters())


def tensors_of(nested):
    if isinstance(nested, torch.Tensor):
        return [nested]
    if isinstance(nested, dict):
        nested = nested.values()
    return (
        [tensor for each in nested for tensor in tensors_of(each)]
        if isinstance(nested, type({}.values()) | list)
        else []
    )


def test_warm_up_runs_and_leaves_no_trace():
    number, seen = torch.tensor(3.0), []

    def run():
        number.mul_(2)
        seen.append(number.item())

    without_trace(run, [number])
    assert seen == [6.0, 12.0, 24.0]
    assert number.item() == 3.0


def test_epochs_record_once_and_a_change_records_anew(recorded, samples):
    engine, *_ = both(config_of())
    x, y = samples
    order = torch.arange(NUM_SAMPLES)
    for _ in range(3):
        engine.train(x, y, order, 10)
    assert len(recorded) == 3  # long, of one step, and of one short step
    engine.train(x, y, order, 19)
    assert len(recorded) == 5
    engine.train(x.clone(), y, order, 19)
    assert len(recorded) == 7


def test_beginning_of_an_epoch_records_all_that_the_epoch_needs(recorded, samples):
    engine, *_ = both(config_of())
    engine.train(*samples, torch.arange(20), 10)
    num_recorded = len(recorded)
    engine.train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert len(recorded) == num_recorded


@every_optimizer
def test_next_engine_of_a_model_starts_afresh_and_records_nothing_again(recorded, samples, optimizer):
    config = config_of(optimizer)
    model = model_of(config)
    initial = deepcopy(model.state_dict())
    order = torch.arange(NUM_SAMPLES)
    outcomes = []
    for _ in range(2):
        model.load_state_dict(initial)
        engine = CudaGraph(model, config)
        outcomes.append((engine.train(*samples, order, 10), digest_of(model), engine.step(*samples)[0].item()))
        num_recorded = len(recorded)
    assert outcomes[0] == outcomes[1]
    assert num_recorded == len(recorded) == 4


def digest_of(model):
    return [p.tolist() for p in model.parameters()]


def test_next_engine_of_another_config_records_its_own(recorded, samples):
    config = config_of("momentum")
    model = model_of(config)
    other = deepcopy(model)
    CudaGraph(model, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    model.load_state_dict(other.state_dict())
    config = replace(config, lr=0.3)
    CudaGraph(model, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    Eager(other, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert_same_parameters(model, other)


def test_parameters_that_moved_are_trained_where_they_are(recorded, samples):
    engine, model, eager, other = both(config_of("adam"))
    for each in (engine, eager):
        each.train(*samples, torch.arange(NUM_SAMPLES), 10)
    for p in model.parameters():
        p.data = p.data.clone()
    for each in (engine, eager):
        each.train(*samples, torch.arange(NUM_SAMPLES), 10)
        each.step(*samples)
    assert_same_parameters(model, other)


def test_model_is_forgotten_with_its_last_reference(recorded, samples):
    config = config_of()
    model = model_of(config)
    engine = CudaGraph(model, config)
    engine.train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert model in recorder._recorders
    num_known = len(recorder._recorders)
    del model, engine
    recorded.clear()
    assert len(recorder._recorders) == num_known - 1


def test_another_device_is_refused():
    config = config_of()
    with pytest.raises(InputError) as error:
        CudaGraph(model_of(config), config)
    assert str(error.value) == "engine cudagraph needs a CUDA device; set device=cuda, or engine=eager"


# --- on CUDA


def on_cuda(samples):
    return [tensor.cuda() for tensor in samples]


@pytest.mark.cuda
@every_optimizer
def test_graphs_train_as_eager_does(cuda, samples, optimizer, monkeypatch):
    monkeypatch.setattr(cudagraph, "NUM_STEPS", 4)
    config = config_of(optimizer, device="cuda")
    model = model_of(config).cuda()
    other = deepcopy(model)
    engine, eager = CudaGraph(model, config), Eager(other, config)
    held = engine.forward(on_cuda(samples)[0])  # its graph has met the parameters on another stream
    x, y = on_cuda(samples)
    for epoch in range(3):
        order = datasets.batch_order(0, epoch, NUM_SAMPLES)
        progress, expected = engine.train(x, y, order, 10), eager.train(x, y, order, 10)
        assert progress.loss_sum == pytest.approx(expected.loss_sum, rel=1e-4)
        assert progress.last_loss == pytest.approx(expected.last_loss, rel=1e-3)
        assert abs(progress.num_correct - expected.num_correct) <= 1
    torch.testing.assert_close(engine.step(x[:10], y[:10])[1], eager.step(x[:10], y[:10])[1], rtol=1e-3, atol=1e-4)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    assert held.requires_grad


@pytest.mark.cuda
def test_recording_a_graph_changes_nothing_and_replaying_it_does(cuda):
    number = torch.tensor(3.0, device="cuda")
    replay = record(lambda: number.mul_(2), [number])
    assert number.item() == 3.0
    replay()
    assert number.item() == 6.0


@pytest.mark.cuda
def test_parts_of_a_step_run_beside_the_graphs(cuda, samples):
    config = config_of("adamw", device="cuda")
    engine = CudaGraph(model_of(config).cuda(), config)
    x, y = on_cuda(samples)
    engine.train(x, y, torch.arange(NUM_SAMPLES), 10)
    engine.loss(x[:10], y[:10])
    engine.backward()
    engine.update()
    assert next(iter(engine.trace(x[:10], y[:10]))) == "forward linear0"
    assert engine.train(x, y, torch.arange(NUM_SAMPLES), 10).loss_sum > 0
