"""Make readings and examinations by hand, as `mlpbench doctor` would measure them."""

from mlpbench.certifying.examination import Examination, Reading, ReferenceTable
from mlpbench.certifying.probes import PROBES

READINGS = {reading: probe for name, probe in PROBES.items() for reading in probe.readings(name)}
# Hand-made digests, all equal.
EQUAL = dict.fromkeys(READINGS, "a")
SETTING = "MKL_CBWR=COMPATIBLE"


def reading(one=(), several=()) -> Reading:
    """Return a reading that differs from EQUAL on one thread, and in more operations on several threads."""
    one_thread = EQUAL | dict.fromkeys(one, "b")
    return Reading(one_thread=one_thread, several_threads=one_thread | dict.fromkeys(several, "c"))


def table(environment=None, by_setting=None) -> ReferenceTable:
    """Return a reference table whose digests are EQUAL."""
    return ReferenceTable(environment=environment or {}, digests=EQUAL, by_setting=by_setting or {})


def examination(here: Reading, by_setting=None, answers=(True, True, True)) -> Examination:
    """Return an examination with a hand-made reference table."""
    return Examination(
        table=table({"torch": "2.99", "num_threads": 1}, {SETTING: {}}),
        num_threads=2,
        answers=dict(zip(("grid", "functions", "steps"), answers, strict=True)),
        here=here,
        by_setting=by_setting or {},
    )
