"""Make records and certificates to test with: examples by hand, and hypothesis strategies for any."""

from tests.strategies.example_certificate import certificate
from tests.strategies.example_records import (
    ENVIRONMENT,
    FAMILY_25,
    FAMILY_26,
    OTHER_ENVIRONMENT,
    as_before_schema_3,
    blocks,
    changed,
    check,
    measurement,
    memory,
    noise,
    plan,
    replicated,
    results,
    session,
    skip,
    timed,
    trained,
)
from tests.strategies.example_report import HOSTILE_REASON, example
from tests.strategies.random_records import any_floats, any_place, configs, histories, records

__all__ = [
    "ENVIRONMENT",
    "FAMILY_25",
    "FAMILY_26",
    "HOSTILE_REASON",
    "OTHER_ENVIRONMENT",
    "any_floats",
    "any_place",
    "as_before_schema_3",
    "blocks",
    "certificate",
    "changed",
    "check",
    "configs",
    "example",
    "histories",
    "measurement",
    "memory",
    "noise",
    "plan",
    "records",
    "replicated",
    "results",
    "session",
    "skip",
    "timed",
    "trained",
]
