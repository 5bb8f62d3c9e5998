"""Hold one record of each kind, and functions that compare written records with loaded ones."""

from mlpbench.records.codec import encode, seal
from mlpbench.records.kinds import KINDS, Acceptance, Conditions, Ending, Peak, Record
from mlpbench.records.results import Results
from tests import strategies

# One record of each kind, a second block and a second session.
HISTORY = [
    strategies.session("s"),
    strategies.measurement("m"),
    *strategies.blocks("m", [1.5, 1.25]),
    strategies.trained((0.5, 0.75)),
    strategies.check(first_difference="step 0 loss"),
    strategies.skip("no CUDA device, größer als 0"),
    strategies.plan(id="p"),
    Ending(plan="p", reason="all 3 pairs measured"),
    Conditions(
        session="s",
        load=0.25,
        steal_share=None,
        other_share=0.125,
        involuntary_switches=12,
        frequency_hz=2.5e9,
        core_latency_s=1.5e-07,
        gpu_clock_hz=None,
        gpu_throttle=("sw power cap",),
    ),
    Peak(session="s", device="cpu", num_threads=4, gemm_flops_per_s=2.4e11, copy_bytes_per_s=4.8e10),
    strategies.memory(2**40),
    strategies.noise(1.25),
    strategies.epoch(1),
    Acceptance(session="s", reasons=("no benchmark ran in two processes",)),
    strategies.session("t", environment=strategies.OTHER_ENVIRONMENT),
]


def as_bytes(history: list[Record]) -> bytes:
    """Return the file that holds these records."""
    return b"".join(encode(record).encode() + b"\n" for record in history)


def resealed(line: str) -> str:
    """Return a changed line with the checksum of its present content."""
    return seal(line[: line.rindex(',"crc32"')] + "}")


def content(loaded: Results) -> str:
    """Return all records as text, to compare them exactly.

    A repr is exact: except for nan, no two doubles share one, and -0.0 is not 0.0.
    """
    return repr({name: loaded.by_key(kind) if kind.key else loaded.of(kind) for name, kind in KINDS.items()})


def loaded_records(loaded: Results) -> list[str]:
    """Return each record as text."""
    return [repr(record) for record in loaded.records()]
