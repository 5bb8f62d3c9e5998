"""Test that a file of every schema loads for ever, and the present schema is written byte for byte as before."""

import math
from dataclasses import replace

import pytest

from mlpbench.config import RunConfig
from mlpbench.records import store
from mlpbench.records.codec import SCHEMA, decode
from mlpbench.records.environment import NONE, Environment, Hardware, Stack
from mlpbench.records.flat_environment import FlatEnvironment, from_flat
from mlpbench.records.kinds import (
    KINDS,
    Acceptance,
    Block,
    Check,
    Conditions,
    Ending,
    EpochResult,
    Measurement,
    Memory,
    Noise,
    Peak,
    Plan,
    Session,
    Skip,
    TrainResult,
)
from tests.paths import GOLDEN
from tests.records.history import as_bytes, content, resealed
from tests.strategies import results

FILE_1 = GOLDEN / "records_v1.jsonl"
FILE_2 = GOLDEN / "records_v2.jsonl"
FILE_3 = GOLDEN / "records_v3.jsonl"

CONFIG = RunConfig(
    model="mlp",
    hidden_sizes=(64, 32),
    activations=("relu", "custom_tanh"),
    dataset="mnist",
    loader="dataloader",
    batch_size=10,
    num_epochs=2,
    optimizer="nesterov",
    lr=0.1,
    momentum=0.8,
    weight_decay=1e-05,
    engine="eager",
    device="cuda",
    num_threads=4,
    seed=9223372036854775807,
)
OTHER_CONFIG = RunConfig(
    model="mlp",
    hidden_sizes=(64, 32),
    activations=("relu", "custom_tanh"),
    dataset="mnist",
    loader="memory",
    batch_size=10,
    num_epochs=2,
    optimizer="nesterov",
    lr=0.1,
    momentum=0.8,
    weight_decay=1e-05,
    engine="eager",
    device="cpu",
    num_threads=None,
    seed=0,
)
RECORDS_1 = [
    Session(
        id="5e5510e0",
        run="5e5510e0",
        process=0,
        side="",
        started_at="2026-11-01T12:00:00+00:00",
        command="pytest bench/ --preset quick",
        preset="quick",
        environment=from_flat(
            FlatEnvironment(
                cpu_model="Example CPU @ 2.5 GHz",
                architecture="x86_64",
                num_cpus=8,
                cpu_capability="AVX512",
                memory_bytes=34359738368,
                gpu_model="Example GPU",
                gpu_memory_bytes=17179869184,
                os="Linux 6.1",
                python="3.12.4",
                torch="2.11.0",
                torchvision="0.26.0",
                numpy="2.1.0",
                cuda="13.0",
                cudnn="9.1",
                num_threads=4,
                matmul_precision="highest",
                deterministic_algorithms=False,
                variables=(("CUBLAS_WORKSPACE_CONFIG", ":4096:8"), ("OMP_NUM_THREADS", "4")),
                mlpbench="0.1.0",
                commit="0123abc",
                dirty=False,
            )
        ),
    ),
    Measurement(
        id="3ea50001",
        session="5e5510e0",
        suite="epochs",
        group="96009001",
        operation="epoch",
        config=CONFIG,
        clock="throughput",
        rounds=0,
        samples_per_call=60000,
        warm_up_s=1.25,
        settled=False,
    ),
    Block(
        measurement="3ea50001",
        round=0,
        order=1,
        iterations=3,
        wall_ns=9007199254740993,
        device_ns=1234567,
        flags=("throttled", "loaded"),
    ),
    Block(measurement="3ea50001", round=1, order=0, iterations=3, wall_ns=20000001, device_ns=None, flags=()),
    TrainResult(
        session="5e5510e0",
        config=CONFIG,
        num_train=60000,
        num_test=10000,
        train_loss=(0.30000000000000004, math.nan),
        train_accuracy=(0.5455, 0.0),
        last_loss=(5e-324, math.inf),
        test_loss=(1.7976931348623157e308, -math.inf),
        test_accuracy=(0.8112, 0.098),
        train_s=(2.0, 2.5),
        evaluate_s=(0.1, -0.0),
        digests=(("initial", "sha256:0a"), ("final", "sha256:0b")),
    ),
    Check(
        session="5e5510e0",
        name="repeat",
        config=CONFIG,
        other=CONFIG,
        num_steps=10,
        num_stages=170,
        first_difference=None,
        max_abs_difference=None,
        final_abs_difference=None,
    ),
    Check(
        session="5e5510e0",
        name="device",
        config=CONFIG,
        other=OTHER_CONFIG,
        num_steps=10,
        num_stages=170,
        first_difference="step 0 gradient layers.0.weight",
        max_abs_difference=1.4901161193847656e-08,
        final_abs_difference=math.inf,
    ),
    Skip(
        session="5e5510e0",
        operation="train_step",
        config=OTHER_CONFIG,
        reason='größer: "a" \\ b, and\na second line',
    ),
]


# Schema 2 added these; its file holds them after the records of schema 1.
RECORDS_2 = [
    *RECORDS_1,
    Block(
        measurement="3ea50001", round=2, order=0, iterations=3, wall_ns=20000001, control_ns=700001, flags=("waited",)
    ),
    Plan(
        id="91a40001",
        started_at="2026-11-02T12:00:00+00:00",
        command="mlpbench ab --b commit=HEAD",
        a=(),
        b=("env:OMP_NUM_THREADS=1", "commit=HEAD"),
        operations=("train_step", "epoch"),
        config=CONFIG,
        pairs=12,
        rounds=20,
        first="b",
        interleaved=True,
        margin_ratio=1.03,
    ),
    Ending(plan="91a40001", reason="every verdict reached after 6 pairs"),
    Conditions(
        session="5e5510e0",
        load=0.25,
        steal_share=None,
        other_share=0.1,
        involuntary_switches=12,
        frequency_hz=2.5e9,
        core_latency_s=1.5e-07,
        gpu_clock_hz=None,
        gpu_throttle=("sw power cap",),
    ),
    Peak(session="5e5510e0", device="cpu", num_threads=4, gemm_flops_per_s=2.4e11, copy_bytes_per_s=4.8e10),
    Memory(
        session="5e5510e0",
        operation="train_step",
        config=CONFIG,
        peak_bytes=734003200,
        before_bytes=731906048,
        source="resident set",
    ),
    Noise(
        session="5e5510e0",
        suite="ab",
        operation="train_step",
        config=CONFIG,
        processes=5,
        comparisons=66,
        floor_ratio=1.04,
        false_alarms=0,
    ),
]


# Schema 3 has more in the environment of a session, and the kind epoch.
ENVIRONMENT_3 = Environment(
    hardware=Hardware(
        cpu_model="Example CPU @ 2.5 GHz",
        cpu_vendor="ExampleVendor",
        cpu_family=25,
        cpu_model_number=17,
        cpu_stepping=1,
        architecture="x86_64",
        num_cpus=16,
        threads_per_core=2,
        caches=(("L1d", 32768), ("L1i", 32768), ("L2", 1048576), ("L3", 33554432)),
        vector_flags=("avx", "avx2", "fma"),
        cpu_quota=7.5,
        hypervisor="KVM",
        gpu_model="Example GPU",
        memory_bytes=34359738368,
        gpu_memory_bytes=None,
    ),
    stack=Stack(
        os="Linux 6.1",
        python="3.12.4",
        cpu_capability="AVX512",
        torch="2.11.0",
        torchvision="0.26.0",
        numpy="2.1.0",
        cuda=NONE,
        cudnn=NONE,
        mkl="2024.2-Product Build 20240605",
        onednn="v3.7.1",
        blas="mkl",
        glibc="2.36",
        compiler="g++-12 0123abcd",
        transparent_huge_pages=None,
        num_allowed_cpus=8,
        num_threads=4,
        matmul_precision="highest",
        deterministic_algorithms=False,
        variables=(("LD_PRELOAD", "(a path, sha256 0123abcd)"), ("OMP_NUM_THREADS", "4")),
    ),
    mlpbench="0.1.0",
    commit="0123456789ab",
    dirty=True,
    source_digest="ba9876543210",
)
EPOCH_3 = EpochResult(
    session="5e5510e0",
    config=CONFIG,
    num_train=60000,
    num_test=10000,
    index=1,
    train_loss=0.30000000000000004,
    train_accuracy=0.5455,
    last_loss=math.inf,
    test_loss=math.nan,
    test_accuracy=0.098,
    train_s=2.5,
    evaluate_s=0.1,
    digests=(("parameters", "sha256-1:0b"), ("state", "sha256-1:0c")),
)
ACCEPTANCE_3 = Acceptance(session="5e5510e0", reasons=("80% of the blocks were disturbed",))
RECORDS_3 = [replace(RECORDS_2[0], environment=ENVIRONMENT_3), *RECORDS_2[1:], EPOCH_3, ACCEPTANCE_3]


@pytest.mark.parametrize(
    ("path", "records"), [(FILE_1, RECORDS_1), (FILE_2, RECORDS_2), (FILE_3, RECORDS_3)], ids=["1", "2", "3"]
)
def test_golden_file_of_every_schema_loads(path, records):
    loaded = store.load([path])
    assert content(loaded) == content(results(*records))
    assert loaded.problems == []


def test_lines_change_only_with_the_schema_number():
    assert SCHEMA > 3 or as_bytes(RECORDS_3) == FILE_3.read_bytes()


def test_golden_file_has_every_kind():
    assert {type(record) for record in RECORDS_3} == set(KINDS.values())


def test_line_of_schema_1_with_a_field_of_schema_2_is_damaged():
    line = FILE_1.read_text().splitlines()[0].replace('"schema":1', '"schema":1,"process":3')
    with pytest.raises(ValueError, match="session of schema 1 has 'process', a field of schema 2"):
        decode(line)


@pytest.mark.parametrize(
    ("index", "values"),
    [
        (0, {"run": "5e5510e0", "process": 0, "side": ""}),
        (1, {"rounds": 0}),
        (2, {"control_ns": None}),
    ],
)
def test_fields_of_schema_2_have_stated_values_in_lines_of_schema_1(index, values):
    line = FILE_1.read_text().splitlines()[index]
    record = decode(line)
    assert {name: getattr(record, name) for name in values} == values
    assert not any(f'"{name}":' in line for name in values)


@pytest.mark.parametrize("path", [FILE_1, FILE_2])
def test_environment_of_an_older_line_knows_no_more_than_the_line(path):
    environment = store.load([path]).sessions["5e5510e0"].environment
    assert environment.hardware.texts() == {
        "cpu_model": "Example CPU @ 2.5 GHz",
        "architecture": "x86_64",
        "gpu_model": "Example GPU",
        "memory_bytes": "34359738368",
        "gpu_memory_bytes": "17179869184",
    }
    assert environment.stack.num_allowed_cpus == 8
    assert environment.machine == "example-cpu-2-5-ghz-8cpu-example-gpu"


@pytest.mark.parametrize(("path", "schema"), [(FILE_2, 2), (FILE_3, 3)])
def test_environment_of_one_schema_is_damage_in_another(path, schema):
    line = path.read_text().splitlines()[0].replace(f'"schema":{schema}', f'"schema":{5 - schema}')
    with pytest.raises(ValueError, match=r"environment (has unknown|lacks) fields"):
        decode(resealed(line))
