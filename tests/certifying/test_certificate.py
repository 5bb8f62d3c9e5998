"""Certificates: what is made, read and compared, and whether a single flipped bit is found and its stage named."""

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlpbench.certifying import certificate, divergence
from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.certify import certify
from mlpbench.certifying.divergence import drift, first_divergence
from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import known_answers
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from tests import strategies
from tests.conformance import every_engine, needs_compiler

NUM_STEPS = 6
NAMES = [f"linear{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")]

pytestmark = pytest.mark.usefixtures("restore_threads")


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, engine="portable", hidden_sizes=(9, 8), activations=("relu", "elu"), num_threads=1)


@pytest.fixture
def made(config):
    return certify(config, NUM_STEPS)


def resealed(made: Certificate, path, **changes) -> Certificate:
    certificate.write(path, replace(made, **changes))
    return certificate.read(path)


def line_of(call) -> str:
    """The line by which a call refuses its input; none if it does not."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


class Flip(NamedTuple):
    """A bit to flip: of which tensor, and in which step if there is one in each."""

    where: str  # images | labels | initial | gradient | update
    step: int
    name: str
    position: int
    bit: int


def flip(tensor: torch.Tensor, position: int, bit: int) -> None:
    """Change one bit of a tensor in place."""
    array = tensor.detach().numpy()
    flat = np.ascontiguousarray(array).reshape(-1).copy()
    content = flat.view(np.uint8)
    content[(position % flat.size) * flat.itemsize + (bit // 8) % flat.itemsize] ^= 1 << (bit % 8)
    tensor.detach().copy_(torch.from_numpy(flat.reshape(array.shape)))


# --- making


def test_a_certificate_has_every_stage_in_the_order_of_computing(made):
    assert [e.stage for e in made.before] == [
        *("table exp", "table tanh", "table log"),
        *("data train images", "data train labels", "data test images", "data test labels"),
        *(f"initial {name}" for name in NAMES),
        "order of epoch 0",
    ]
    assert [s.name for s in made.stages] == [
        *("forward linear0", "forward relu0", "forward linear1", "forward elu1", "forward linear2", "loss", "dlogits"),
        *(f"gradient linear{layer}.{kind}" for layer in (2, 1, 0) for kind in ("weight", "bias")),
        *(f"update {name}" for name in NAMES),
    ]
    assert [detail.step for detail in made.details] == [0, 1, 2, 4, 5]
    assert (made.arithmetic, made.bits, made.num_steps) == ("portable/1", 21, NUM_STEPS)
    assert made.num_entries == 14 + NUM_STEPS * 20 + 5 * 19 + 1


@every_engine
def test_the_same_run_again_is_equal(config, engine):
    config = replace(config, engine=engine)
    one, other = certify(config, NUM_STEPS), certify(config, NUM_STEPS)
    assert first_divergence(one, other) is None
    assert all(apart.relative_norm == apart.loss == 0 for apart in drift(one, other))
    assert one.arithmetic == ENGINES[engine].arithmetic


def test_a_run_over_several_epochs_has_each_epochs_order(config):
    made = certify(replace(config, batch_size=300), 10)  # 4 whole batches an epoch
    assert [e.stage for e in made.before if e.stage.startswith("order")] == [f"order of epoch {i}" for i in range(3)]


def test_zoom_keeps_more_values_of_that_step(config):
    made = certify(config, NUM_STEPS, zoom=3)
    by_step = {detail.step: detail for detail in made.details}
    assert sorted(by_step) == [0, 1, 2, 3, 4, 5]
    index = [s.name for s in made.stages].index("forward linear0")
    assert [len(certificate.unpack(by_step[step].samples[index])) for step in (2, 3)] == [8, 64]
    assert first_divergence(made, certify(config, NUM_STEPS)) is None


@pytest.mark.parametrize("zoom", [-1, NUM_STEPS])
def test_zoom_outside_of_the_run_is_refused(config, zoom):
    with pytest.raises(InputError, match="the run has the steps 0 to 5"):
        certify(config, NUM_STEPS, zoom=zoom)


def test_a_run_that_diverges_is_refused(config):
    with pytest.raises(InputError, match="training came to"):
        certify(replace(config, lr=1e30), NUM_STEPS)


def test_six_hundred_steps_take_less_than_200_kilobytes(tmp_path):
    path = tmp_path / "c.json"
    certificate.write(path, certify(RunConfig(engine="portable"), 600, zoom=300))
    assert path.stat().st_size < 200_000


def test_samples_are_values_of_the_tensor_with_minus_zero_as_zero():
    values = np.array([0.1, -0.0, 1e-300, -5.0])
    assert certificate.unpack(certificate.pack(values)).tobytes() == (values + 0.0).tobytes()


# --- files


def test_a_certificate_survives_its_file(made, tmp_path):
    certificate.write(tmp_path / "deep" / "c.json", made)
    assert certificate.read(tmp_path / "deep" / "c.json") == made


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_a_flipped_bit_of_the_file_is_found(made, tmp_path, choice):
    path = tmp_path / "c.json"
    certificate.write(path, made)
    content = bytearray(path.read_bytes())
    position = choice.draw(st.integers(0, len(content) - 2))  # the last is the newline
    content[position] ^= 1 << choice.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        certificate.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_a_sealed_file_of_any_content_is_read_or_refused(made, tmp_path, choice):
    content = json.loads(json.dumps(certificate.plain(made)))
    place, key = strategies.any_place(content, choice)
    place[key] = choice.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([]) | st.just({})
    )
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"mlpbench_certificate": 1, **content, "sha256": certificate._seal(content)}))
    assert line_of(
        lambda: [compare(made, certificate.read(path)) for compare in (first_divergence, drift)]
    ).isprintable()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "is not a certificate"),
        (b'{"mlpbench_certificate": 1, "a": ' + b"[" * 990 + b"]" * 990 + b"}", ""),
        (b"9" * 10_000, "not JSON"),
        (b"[]", "is not a certificate; `mlpbench certify` makes one"),
        (b'{"kind": "session"}', "is not a certificate"),
        (b'{"mlpbench_certificate": 2}', "is a certificate of format 2; this mlpbench reads 1"),
        (b'{"mlpbench_certificate": 1}', "is damaged"),
    ],
)
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path, content, line, capsys):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
    assert str(path) in error


@pytest.mark.parametrize("name", ["missing.json", ".", "nul\0.json"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, capsys):
    assert main(["verify", str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_certificates_under_a_folder_are_found_and_damaged_ones_told(made, tmp_path):
    path = certificate.place(tmp_path, made)
    certificate.write(path, made)
    (path.parent / "broken.json").write_text("{")
    (tmp_path / "elsewhere.json").write_text("{")
    found, (problem,) = certificate.find([tmp_path])
    assert found == {path: made}
    assert "broken.json" in problem


# --- one flipped bit, anywhere


def injected(monkeypatch, config, flipped):
    """A run in which one bit was flipped: the stage that has to be named, and the certificate."""
    where, step, name, position, bit = flipped
    monkeypatch.setattr(known_answers, "check", lambda device: None)  # which would notice
    if where in ("images", "labels"):
        dataset = datasets.load(config.dataset)
        half = {kind: getattr(dataset.train, kind).clone() for kind in ("images", "labels")}
        flip(half[where], position, bit if where == "images" else 0)  # 8 and 9 stay labels
        changed = replace(dataset, train=datasets.Images(**half))
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

        def changed(network):
            original(network)
            calls.append(None)
            if len(calls) == step + 1:
                index = NAMES.index(name)
                pair = (network._weights, network._biases)[index % 2]
                flip(network.gradients[index] if where == "gradient" else pair[index // 2], position, bit)

        monkeypatch.setattr(portable.Network, original.__name__, changed)
        stage = f"step {step} {where} {name}"
    return stage, certify(config, NUM_STEPS)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Flip,
        where=st.sampled_from(["images", "labels", "initial", "gradient", "gradient", "update"]),
        step=st.integers(0, NUM_STEPS - 1),
        name=st.sampled_from(NAMES),
        position=st.integers(0, 10**9),
        bit=st.integers(0, 22),  # of the mantissa: a flipped exponent may give infinity, which is refused
    )
)
def test_one_flipped_bit_is_found_and_its_stage_named(config, made, flipped):
    try:
        with pytest.MonkeyPatch.context() as patch:
            stage, other = injected(patch, config, flipped)
    finally:
        datasets._load.cache_clear()
        datasets.resident.cache_clear()
    found = first_divergence(made, other)
    assert found is not None
    assert found.stage == stage
    assert first_divergence(other, made).stage == stage


def test_zoom_tells_how_large_a_difference_is_where_a_plain_certificate_has_no_values(config):
    name = "linear0.bias"  # 9 values, so that a zoomed step has them all
    with pytest.MonkeyPatch.context() as patch:
        stage, other = injected(patch, config, Flip("gradient", 3, name, 4, 22))
    plain = first_divergence(certify(config, NUM_STEPS), other)
    assert (plain.stage, plain.num_samples) == (stage, 0) == (f"step 3 gradient {name}", 0)
    with pytest.MonkeyPatch.context() as patch:
        flipped = portable.Network.backward
        calls = []

        def backward(network):
            flipped(network)
            calls.append(None)
            if len(calls) == 4:
                network.gradients[1][4] += 0.25

        patch.setattr(known_answers, "check", lambda device: None)
        patch.setattr(portable.Network, "backward", backward)
        other = certify(config, NUM_STEPS, zoom=3)
    found = first_divergence(certify(config, NUM_STEPS, zoom=3), other)
    assert (found.num_samples, found.num_different) == (9, 1)
    assert found.max_abs == pytest.approx(0.25)
    assert found.relative_norm > 0
    assert found.ulps > 1000


# --- comparing


def with_samples(made, path, index, values):
    """The first step's stage `index` with other values and another digest."""
    detail = made.details[0]
    samples = list(detail.samples)
    samples[index] = certificate.pack(np.asarray(values, dtype=np.float64))
    digests = list(detail.digests)
    digests[index] = "0" * 32
    changed = replace(detail, digests=tuple(digests), samples=tuple(samples))
    return resealed(made, path, details=(changed, *made.details[1:]))


def test_sizes_of_a_difference_are_those_of_the_values(made, tmp_path):
    index = [s.name for s in made.stages].index("update linear0.weight")
    values = np.array([1.0, -2.0, 0.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    other = values.copy()
    other[0] = np.nextafter(np.float32(1), np.float32(2))  # one float32 apart
    one, two = (with_samples(made, tmp_path / f"{i}.json", index, v) for i, v in enumerate((values, other)))
    one = replace(one, details=(replace(one.details[0], digests=made.details[0].digests), *one.details[1:]))
    found = first_divergence(one, two)
    assert found.stage == "step 0 update linear0.weight"
    assert (found.num_samples, found.num_different, found.ulps) == (8, 1, 1)
    assert found.max_abs == 2.0**-23
    assert found.relative_norm == pytest.approx(2.0**-23 / np.linalg.norm(values))


@pytest.mark.parametrize(
    ("a", "b", "dtype", "ulps"),
    [
        (0.0, 5e-324, "float64", 1),
        (-5e-324, 5e-324, "float64", 2),
        (1.0, 1.0 + 2**-23, "float32", 1),
        (1.0, 1.0 + 2**-23, "float64", 2**29),
        (-1.0, 1.0, "float32", 2 * 0x3F800000),
    ],
)
def test_ulps_are_steps_between_neighbours_of_the_type(a, b, dtype, ulps):
    (x,), (y,) = (divergence._ordered(np.array([v]), dtype) for v in (a, b))
    assert y - x == ulps


def test_a_shorter_run_is_compared_as_far_as_it_goes(config, made):
    assert first_divergence(made, certify(config, 3)) is None
    assert first_divergence(certify(config, 3), made) is None


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"lr": 0.5}, {"hidden_sizes": (9, 7)}, {"engine": "eager"}, {"batch_size": 50}]
)
def test_another_run_cannot_be_compared(config, made, changes):
    with pytest.raises(InputError, match=f"not of the same run: {next(iter(changes))}"):
        first_divergence(made, certify(replace(config, **changes), 2))


@pytest.mark.parametrize("changes", [{"num_threads": 2}, {"loader": "dataloader"}, {"num_epochs": 3}])
def test_how_it_was_computed_may_differ(config, made, changes):
    assert first_divergence(made, certify(replace(config, **changes), 2)) is None


def test_another_version_of_the_arithmetic_cannot_be_compared(made, tmp_path):
    other = resealed(made, tmp_path / "c.json", arithmetic="portable/2")
    with pytest.raises(InputError, match="arithmetic portable/1 and portable/2"):
        first_divergence(made, other)


def test_a_run_that_ends_with_what_is_not_finite_is_refused(config):
    with pytest.raises(InputError, match="engine portable: training came to nan"):
        certify(replace(config, lr=1e300), 1)


def test_a_stage_of_another_size_or_type_is_another_stage(made, tmp_path):
    (logits,) = made.after
    for changed in (replace(logits, dtype="float32"), replace(logits, num_values=4301)):
        other = resealed(made, tmp_path / "c.json", after=(changed,))
        with pytest.raises(InputError, match="one lacks the stage 'test logits'"):
            first_divergence(made, other)


def test_a_certificate_without_the_first_order_is_equal_to_none(made, tmp_path):
    other = resealed(made, tmp_path / "c.json", before=made.before[:-1])
    with pytest.raises(InputError, match="one lacks the stage 'order of epoch 0'"):
        first_divergence(made, other)


def test_runs_without_updates_have_no_drift(made, tmp_path):
    stages = tuple(replace(stage, name=f"other {stage.name}") for stage in made.stages)
    other = resealed(made, tmp_path / "c.json", stages=stages)
    assert drift(other, other) == []


def test_the_engine_may_differ_where_the_arithmetic_is_the_same(config, made, tmp_path):
    other = resealed(made, tmp_path / "c.json", config=replace(made.config, engine="portable_fused"))
    assert first_divergence(made, other) is None


def test_a_copy_of_a_certificate_is_not_another(made, tmp_path):
    path = certificate.place(tmp_path, made)
    certificate.write(path, made)
    (path.parent / "copy.json").write_bytes(path.read_bytes())
    found, _ = certificate.find([tmp_path, path.parent.parent])
    assert len(found) == 1


def test_a_config_too_large_for_this_machine_is_refused(made, tmp_path, monkeypatch, capsys):
    def no_memory(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mlpbench.certifying.certify.Trainer", no_memory)
    path = tmp_path / "c.json"
    certificate.write(path, made)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 2
    assert "cannot be built here" in capsys.readouterr().err


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("mlpbench.certifying.certify.Trainer", None)
    assert main(["certify", str(tmp_path / "file" / "c.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_only_the_steps_that_both_have_are_called_verified(config, made, tmp_path, capsys):
    paths = [tmp_path / name for name in ("long.json", "short.json")]
    for path, one in zip(paths, (made, certify(config, 2)), strict=True):
        certificate.write(path, one)
    assert main(["verify", *map(str, paths)]) == 0
    assert "verified: all bits equal over the first 2 of 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_certificate_that_lacks_a_stage_is_equal_to_none(made, tmp_path, place):
    other = resealed(made, tmp_path / "c.json", **{place: getattr(made, place)[:-1] if place == "after" else ()})
    with pytest.raises(InputError, match="one lacks the stage"):
        first_divergence(made, other)


def test_drift_grows_from_where_runs_part(config):
    one = certify(config, NUM_STEPS)
    with pytest.MonkeyPatch.context() as patch:
        _, other = injected(patch, config, Flip("update", 2, "linear0.bias", 4, 22))
    apart = {d.step: d.relative_norm for d in drift(one, other)}
    assert apart[0] == apart[1] == 0
    assert apart[2] > 0
    assert apart[5] > 0


# --- the verbs


def test_certify_and_verify_by_the_command_line(tmp_path, small, capsys):
    workload = ["--set", "hidden_sizes=9,8", "--set", "activations=relu,elu", "--dataset", small]
    path, results = tmp_path / "c.json", tmp_path / "results"
    assert main(["certify", str(path), "--steps", "4", *workload]) == 0
    assert f"{path}: " in capsys.readouterr().out
    assert main(["verify", str(path), "--results", str(results), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "verified: all bits equal over 4 steps (portable/1); confirms L1 (this machine)" in out
    (own,) = results.rglob("certificates/*.json")
    assert main(["verify", str(path), str(own)]) == 0
    assert main(["certify", "--steps", "2", "--results", str(results), *workload]) == 0
    assert len(list(results.rglob("certificates/*.json"))) == 2


@needs_compiler
def test_another_engine_of_the_same_arithmetic_verifies(tmp_path, made, capsys):
    path = tmp_path / "c.json"
    certificate.write(path, made)
    assert main(["verify", str(path), "--engine", "portable_fused", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "engine: certificate portable, this run portable_fused" in out
    assert "confirms L1 (this machine)" in out
    assert main(["verify", str(path), "--engine", "eager", "--results", str(tmp_path)]) == 2
    assert "not of the same run: engine" in capsys.readouterr().err


def test_verify_names_the_first_stage_that_differs(tmp_path, config, made, capsys):
    path = tmp_path / "c.json"
    with pytest.MonkeyPatch.context() as patch:
        stage, other = injected(patch, config, Flip("update", 1, "linear1.bias", 3, 22))
    certificate.write(path, other)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"diverged at {stage}: 1 of the 8 sampled values differs" in out
    assert "machine and software stack are the same" in out
    assert "parameters after step 5 differ by " in out
    assert "test accuracy: " in out


def test_what_cannot_run_here_could_not_be_checked(tmp_path, made, capsys):
    path = tmp_path / "c.json"
    certificate.write(path, replace(made, config=replace(made.config, dataset="unheard_of")))
    assert main(["verify", str(path)]) == 2
    assert "unknown dataset 'unheard_of'" in capsys.readouterr().err


def test_a_certificate_of_cuda_is_verified_on_the_cpu_where_there_is_no_cuda(tmp_path, made, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "c.json"
    certificate.write(path, replace(made, config=replace(made.config, device="cuda")))
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "L6 (CPU and GPU)" in captured.out
    assert "verifying on the cpu" in captured.err
