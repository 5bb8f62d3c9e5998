from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.engines import cudagraph, recorder
from mlpbench.engines.cudagraph import CudaGraph
from mlpbench.engines.eager import Eager
from mlpbench.engines.recorder import record, warm_up
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS, Activation
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS

NUM_FEATURES, NUM_CLASSES, NUM_SAMPLES = 12, 5, 95
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@pytest.fixture
def recordings(monkeypatch):
    """Run the engine on the CPU, with long graphs of 4 steps, and return the list of the functions that it records.

    In place of a graph stands the function itself, warmed up as for a graph.
    """
    functions = []

    def stand_in(run, changed):
        warm_up(run, changed)
        functions.append(run)
        return run

    monkeypatch.setattr(cudagraph, "DEVICE", "cpu")
    monkeypatch.setattr(recorder, "NUM_STEPS", 4)
    monkeypatch.setattr(cudagraph, "record", stand_in)
    return functions


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


def engine_and_eager(config):
    """Return the engine and its model, and eager with a copy of the model."""
    model = model_of(config)
    other = deepcopy(model)
    return CudaGraph(model, config), model, Eager(other, config), other


# --- against eager


@every_optimizer
# With a short last batch, with full batches only, in one batch, and with fewer samples than a batch.
@pytest.mark.parametrize("batch_size", [10, 19, 95, 200])
def test_epochs_equal_those_of_eager(recordings, samples, optimizer, batch_size):
    engine, model, eager, other = engine_and_eager(config_of(optimizer))
    for epoch in range(3):
        order = datasets.batch_order(0, epoch, NUM_SAMPLES)
        assert_same_progress(engine.train(*samples, order, batch_size), eager.train(*samples, order, batch_size))
    assert_same_parameters(model, other)


@every_optimizer
def test_steps_equal_those_of_eager(recordings, samples, optimizer):
    engine, model, eager, other = engine_and_eager(config_of(optimizer))
    x, y = samples
    for size in (10, 10, 7, 10):
        for result, expected in zip(engine.step(x[:size], y[:size]), eager.step(x[:size], y[:size]), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)
            assert not result.requires_grad
    assert_same_parameters(model, other)


def test_step_does_not_overwrite_the_results_of_the_last(recordings, samples):
    engine, *_ = engine_and_eager(config_of())
    x, y = samples
    results = engine.step(x[:10], y[:10])
    copies = [each.clone() for each in results]
    engine.step(x[10:20], y[10:20])
    assert all(map(torch.equal, results, copies))


@every_optimizer
def test_parts_and_trace_equal_those_of_eager_between_epochs(recordings, samples, optimizer):
    engine, model, eager, other = engine_and_eager(config_of(optimizer))
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


@pytest.mark.parametrize("num_samples", [5, 40, 45, 83])
def test_part_of_an_epoch_equals_that_of_eager(recordings, samples, num_samples):
    engine, model, eager, other = engine_and_eager(config_of("momentum"))
    order = datasets.batch_order(0, 0, NUM_SAMPLES)[:num_samples]
    assert_same_progress(engine.train(*samples, order, 10), eager.train(*samples, order, 10))
    assert_same_parameters(model, other)


def test_samples_and_batch_size_can_change(recordings, samples):
    engine, model, eager, other = engine_and_eager(config_of("adam"))
    x, y = samples
    for each in (engine, eager):
        each.train(x, y, torch.arange(NUM_SAMPLES), 10)
        each.train(x, y, torch.arange(NUM_SAMPLES), 7)
        each.train(x[:50].clone(), y[:50].clone(), torch.arange(50), 7)
    assert_same_parameters(model, other)


# --- recordings


@every_optimizer
def test_recording_does_not_change_parameters_or_optimizer(recordings, samples, optimizer):
    engine, model, *_ = engine_and_eager(config_of(optimizer))
    x, y = samples
    engine.train(x, y, torch.arange(NUM_SAMPLES), 10)
    state = deepcopy([model.state_dict(), engine._optimizer.state_dict()])
    num_recordings = len(recordings)
    # Another batch size is recorded, although the order is empty.
    engine.train(x, y, torch.arange(0), 9)
    assert len(recordings) > num_recordings
    for after, before in zip(
        tensors_in([model.state_dict(), engine._optimizer.state_dict()]), tensors_in(state), strict=True
    ):
        assert torch.equal(after, before)
    assert all(p.grad is None for p in model.parameters())


def tensors_in(nested):
    """Return all tensors in nested dictionaries and lists."""
    if isinstance(nested, torch.Tensor):
        return [nested]
    if isinstance(nested, dict):
        nested = list(nested.values())
    return [tensor for each in nested for tensor in tensors_in(each)] if isinstance(nested, list) else []


def test_warm_up_runs_three_times_and_restores_the_values():
    number, history = torch.tensor(3.0), []

    def run():
        number.mul_(2)
        history.append(number.item())

    warm_up(run, [number])
    assert history == [6.0, 12.0, 24.0]
    assert number.item() == 3.0


def test_epochs_record_once_and_again_after_a_change(recordings, samples):
    engine, *_ = engine_and_eager(config_of())
    x, y = samples
    order = torch.arange(NUM_SAMPLES)
    for _ in range(3):
        engine.train(x, y, order, 10)
    # One of many steps, one of a single step, and one of a single short step.
    assert len(recordings) == 3
    engine.train(x, y, order, 19)
    assert len(recordings) == 5
    engine.train(x.clone(), y, order, 19)
    assert len(recordings) == 7


def test_beginning_of_an_epoch_records_everything_for_the_whole_epoch(recordings, samples):
    engine, *_ = engine_and_eager(config_of())
    engine.train(*samples, torch.arange(20), 10)
    num_recordings = len(recordings)
    engine.train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert len(recordings) == num_recordings


@every_optimizer
def test_next_engine_of_a_model_starts_anew_and_reuses_recordings(recordings, samples, optimizer):
    config = config_of(optimizer)
    model = model_of(config)
    initial = deepcopy(model.state_dict())
    order = torch.arange(NUM_SAMPLES)
    results = []
    for _ in range(2):
        model.load_state_dict(initial)
        engine = CudaGraph(model, config)
        results.append((engine.train(*samples, order, 10), values_of(model), engine.step(*samples)[0].item()))
        num_recordings = len(recordings)
    assert results[0] == results[1]
    assert num_recordings == len(recordings) == 4


def values_of(model):
    return [p.tolist() for p in model.parameters()]


def test_next_engine_with_another_config_records_its_own_steps(recordings, samples):
    config = config_of("momentum")
    model = model_of(config)
    other = deepcopy(model)
    CudaGraph(model, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    model.load_state_dict(other.state_dict())
    config = replace(config, lr=0.3)
    CudaGraph(model, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    Eager(other, config).train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert_same_parameters(model, other)


def test_parameters_in_new_memory_are_trained_there(recordings, samples):
    engine, model, eager, other = engine_and_eager(config_of("adam"))
    for each in (engine, eager):
        each.train(*samples, torch.arange(NUM_SAMPLES), 10)
    for p in model.parameters():
        p.data = p.data.clone()
    for each in (engine, eager):
        each.train(*samples, torch.arange(NUM_SAMPLES), 10)
        each.step(*samples)
    assert_same_parameters(model, other)


def test_recorder_is_dropped_with_the_last_reference_to_its_model(recordings, samples):
    config = config_of()
    model = model_of(config)
    engine = CudaGraph(model, config)
    engine.train(*samples, torch.arange(NUM_SAMPLES), 10)
    assert model in recorder._recorders
    num_known = len(recorder._recorders)
    del model, engine
    recordings.clear()
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
def test_graphs_train_as_eager(cuda, samples, optimizer, monkeypatch):
    monkeypatch.setattr(recorder, "NUM_STEPS", 4)
    config = config_of(optimizer, device="cuda")
    model = model_of(config).cuda()
    other = deepcopy(model)
    engine, eager = CudaGraph(model, config), Eager(other, config)
    # Autograd uses the parameters on another stream first, and the graph of these logits stays alive.
    logits = engine.forward(on_cuda(samples)[0])
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
    assert logits.requires_grad


@pytest.mark.cuda
def test_only_replaying_a_graph_changes_values(cuda):
    number = torch.tensor(3.0, device="cuda")
    replay = record(lambda: number.mul_(2), [number])
    assert number.item() == 3.0
    replay()
    assert number.item() == 6.0


@pytest.mark.cuda
def test_parts_of_a_step_run_between_the_graphs(cuda, samples):
    config = config_of("adamw", device="cuda")
    engine = CudaGraph(model_of(config).cuda(), config)
    x, y = on_cuda(samples)
    engine.train(x, y, torch.arange(NUM_SAMPLES), 10)
    engine.loss(x[:10], y[:10])
    engine.backward()
    engine.update()
    assert next(iter(engine.trace(x[:10], y[:10]))) == "forward linear0"
    assert engine.train(x, y, torch.arange(NUM_SAMPLES), 10).loss_sum > 0


# --- the state, and random numbers


@every_optimizer
def test_state_continues_in_another_engine_and_its_recordings_stay(recordings, samples, optimizer):
    engine, model, *_ = engine_and_eager(config_of(optimizer))
    other, other_model, *_ = engine_and_eager(config_of(optimizer))
    orders = [datasets.batch_order(0, epoch, NUM_SAMPLES) for epoch in range(3)]
    for order in orders[:2]:
        engine.train(*samples, order, 10)
    other.train(*samples, orders[0], 10)
    num_recorded = len(recordings)
    # The recorded steps go on with the tensors that they know.
    other.restore(engine.state())
    assert_same_progress(engine.train(*samples, orders[2], 10), other.train(*samples, orders[2], 10))
    assert len(recordings) == num_recorded
    assert all(map(torch.equal, model.parameters(), other_model.parameters()))


def test_random_layers_have_the_seed_of_the_run(recordings, samples, monkeypatch):
    entry = Activation(function="rrelu", formula=lambda x: (x, x), layer="torch.nn:RReLU")
    monkeypatch.setitem(ACTIVATIONS, "rrelu", entry)
    config = replace(config_of("momentum"), activations=("rrelu", "tanh"))
    order = datasets.batch_order(0, 0, NUM_SAMPLES)
    results = []
    for number in range(2):
        torch.rand(number)
        engine, model, *_ = engine_and_eager(config)
        before = torch.get_rng_state()
        for _ in range(2):
            engine.train(*samples, order, 10)
            engine.step(samples[0][:10], samples[1][:10])
        assert torch.equal(before, torch.get_rng_state())
        results.append([p.detach().clone() for p in model.parameters()])
        assert engine.num_steps == 2 * (10 + 1)
    assert all(map(torch.equal, *results))
