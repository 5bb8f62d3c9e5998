"""Check that every part tells two generations of one processor apart, and knows one machine again."""

from datetime import date
from pathlib import Path

import pytest

from mlpbench.certifying import certificate as certificates
from mlpbench.certifying.levels import confirmed_levels
from mlpbench.cli import compare as verb
from mlpbench.cli.main import main
from mlpbench.errors import InputError
from mlpbench.judging import baseline
from mlpbench.judging.evidence import collect
from mlpbench.judging.verdict import Margins, judge
from mlpbench.records.kinds import Peak
from mlpbench.records.store import append, results_file
from mlpbench.reporting import curves, frames
from mlpbench.reporting.sections import history
from tests.strategies import (
    FAMILY_25,
    FAMILY_26,
    certificate,
    changed,
    noise,
    replicated,
    results,
    session,
    trained,
)

STEADY = [[1.0, 1.01], [1.01, 1.0], [0.99, 1.0], [1.0, 1.02], [1.02, 1.01]]
# The first machine after a restart, and with half of its CPUs allowed, as taskset does it.
RESTARTED = changed(FAMILY_25, memory_bytes=8 * 2**30 - 4096)
RESTRICTED = changed(FAMILY_25, num_allowed_cpus=1, num_threads=1)
LATER = "2026-02-01T00:00:00+00:00"


def sessions(environment):
    """Return two sessions, `s` of the first machine and a later `t` of the given one."""
    return [session("s", environment=FAMILY_25), session("t", environment=environment, started_at=LATER)]


def write(path, *records):
    for item in records:
        for record in item if isinstance(item, list) else [item]:
            append(path, record)
    return path


# --- two generations, everything else equal


def test_store_has_a_folder_for_each_generation():
    folders = [results_file(Path(), e, date(2026, 1, 1)).parent.name for e in (FAMILY_25, FAMILY_26)]
    assert [folder.rpartition("-")[0] for folder in folders] == ["amd-epyc-25-17-1-2cpu", "amd-epyc-26-2-1-2cpu"]


def test_history_has_a_series_for_each_generation():
    records = [
        replicated(STEADY, run=f"{family}{day}", started_at=f"2026-01-0{day}T00:00:00+00:00", environment=environment)
        for family, environment in (("a", FAMILY_25), ("b", FAMILY_26))
        for day in (1, 2)
    ]
    points = history.frame(results(*records))
    assert points.groupby("machine").size().to_dict() == {FAMILY_25.machine: 2, FAMILY_26.machine: 2}


def test_noise_floor_is_that_of_its_generation(tmp_path):
    write(tmp_path / FAMILY_25.machine / "aa.jsonl", session(environment=FAMILY_25), noise(1.15))
    # A file in the wrong folder changes nothing.
    write(tmp_path / FAMILY_25.machine / "other.jsonl", sessions(FAMILY_26), noise(1.5, session="t"))
    assert verb._noise_ratio(tmp_path, FAMILY_25.machine) == 1.15
    assert verb._noise_ratio(tmp_path, FAMILY_26.machine) == 1.0


def test_baseline_belongs_to_its_generation(tmp_path):
    one, other = (
        write(tmp_path / name, replicated(STEADY, run=name, environment=environment))
        for name, environment in (("a.jsonl", FAMILY_25), ("b.jsonl", FAMILY_26))
    )
    baseline.accept(tmp_path, [one])
    with pytest.raises(InputError, match=f"no baseline of {FAMILY_26.machine}"):
        baseline.find(tmp_path, FAMILY_26.machine)
    assert baseline.find(tmp_path, FAMILY_25.machine) != baseline.accept(tmp_path, [other])
    with pytest.raises(InputError, match="results of several machines"):
        baseline.accept(tmp_path, [one, other])


def test_curves_of_training_are_of_one_generation_each():
    frame = curves.epochs(results(sessions(FAMILY_26), trained((0.5,)), trained((0.75,), session="t")))
    assert frame["machine"].tolist() == [FAMILY_25.machine, FAMILY_26.machine]
    assert frame["test_accuracy"].tolist() == [0.5, 0.75]


def test_peaks_limit_the_times_of_their_generation_only():
    rates = {"device": "cpu", "num_threads": 2, "copy_bytes_per_s": 1e10}
    records = results(
        replicated([[1.0]], run="s", environment=FAMILY_25),
        Peak(session="s0", gemm_flops_per_s=1e11, **rates),
        replicated([[1.0]], run="t", environment=FAMILY_26, started_at=LATER),
        Peak(session="t0", gemm_flops_per_s=4e11, **rates),
    )
    limits = frames.blocks(records).set_index("machine")["limit_s"]
    assert limits[FAMILY_25.machine] == pytest.approx(4 * limits[FAMILY_26.machine])
    assert frames.peaks(records)["machine"].tolist() == [FAMILY_25.machine, FAMILY_26.machine]


def test_compare_gives_no_verdict_and_names_the_generations(tmp_path, capsys):
    base, new = (
        write(tmp_path / name, replicated(STEADY, run=name, environment=environment))
        for name, environment in (("a.jsonl", FAMILY_25), ("b.jsonl", FAMILY_26))
    )
    assert main(["compare", str(base), str(new), "--results", str(tmp_path)]) == 4
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing compared" in printed
    assert "cpu_family 25 → 26; cpu_model_number 17 → 2" in printed


def test_results_of_two_generations_are_not_pooled():
    records = results(
        replicated(STEADY, run="a", environment=FAMILY_25),
        replicated(STEADY[:2], run="b", environment=FAMILY_26, started_at=LATER),
    )
    (evidence,) = collect(records).values()
    assert sorted(evidence.processes) == ["b0", "b1"]


def test_levels_count_two_processors_and_no_common_machine():
    assert confirmed_levels(certificate(environment=FAMILY_25), certificate(environment=FAMILY_26)) == (3,)


def test_verify_claims_another_processor_and_not_this_machine(tmp_path, capsys):
    paths = []
    for name, environment in (("a", FAMILY_25), ("b", FAMILY_26)):
        paths.append(tmp_path / f"{name}.json")
        certificates.write(paths[-1], certificate(environment=environment))
    assert main(["verify", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["cpu_family: certificate 25, b.json 26", "cpu_model_number: certificate 17, b.json 2"]
    assert lines[-1].endswith("confirms L3 (2 CPUs (AMD EPYC 25/17, AMD EPYC 26/2))")


# --- one machine after a restart, and under taskset


@pytest.mark.parametrize("environment", [RESTARTED, RESTRICTED], ids=["restarted", "restricted"])
def test_one_machine_has_one_name_everywhere(environment, tmp_path):
    assert environment.machine == FAMILY_25.machine
    frame = curves.epochs(results(sessions(environment), trained((0.5,)), trained((0.75,), session="t")))
    assert frame["test_accuracy"].tolist() == [0.75]
    path = write(tmp_path / "a.jsonl", replicated(STEADY, environment=FAMILY_25))
    assert baseline.accept(tmp_path, [path]) == baseline.find(tmp_path, environment.machine)
    assert confirmed_levels(certificate(environment=FAMILY_25), certificate(environment=environment)) == (1,)


def test_machine_after_a_restart_is_compared_without_a_remark():
    base, new = (collect(results(replicated(STEADY, run=e.machine[:2], environment=e))) for e in (FAMILY_25, RESTARTED))
    judgement = judge(base, new, Margins())
    assert [c.verdict for c in judgement.comparisons] == ["same"]
    assert (judgement.incomparable, judgement.different, judgement.unknown_machine) == ((), (), ())


def test_restricted_machine_is_compared_and_the_restriction_is_named():
    base, new = (collect(results(replicated(STEADY, environment=e))) for e in (FAMILY_25, RESTRICTED))
    judgement = judge(base, new, Margins())
    assert [c.verdict for c in judgement.comparisons] == ["same"]
    assert judgement.different == ("num_allowed_cpus 2 → 1; num_threads 2 → 1",)


def test_processes_that_are_left_out_are_said(tmp_path, capsys):
    base = write(tmp_path / "a.jsonl", replicated(STEADY, run="a", environment=FAMILY_25))
    new = write(
        tmp_path / "b.jsonl",
        replicated(STEADY, run="b", environment=RESTRICTED),
        replicated(STEADY[:3], run="c", environment=RESTARTED, started_at=LATER),
    )
    assert main(["compare", str(base), str(new), "--results", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "NEW: 5 of 8 processes, which differ from the newest in: num_allowed_cpus, num_threads" in printed
    assert "BASE:" not in printed


def test_export_says_which_processes_it_leaves_out(tmp_path, capsys):
    path = write(
        tmp_path / "a.jsonl",
        replicated(STEADY, run="a", environment=FAMILY_25),
        replicated(STEADY[:2], run="b", environment=FAMILY_26, started_at=LATER),
    )
    for name in ("pytest-benchmark", "github-action-benchmark"):
        assert main(["export", name, str(path)]) == 0
        assert capsys.readouterr().err == (
            "mlpbench: left out: 5 of 7 processes, which differ from the newest in: cpu_family, cpu_model_number\n"
        )
