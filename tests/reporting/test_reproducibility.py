"""Test the sections on reproducibility, from hand-made certificates."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpbench.certifying import certificate as files
from mlpbench.certifying import levels
from mlpbench.cli.main import main
from mlpbench.records.results import Results
from mlpbench.records.store import append
from mlpbench.reporting.section import ReportData
from mlpbench.reporting.sections import reproducibility
from tests.strategies import certificate, example

EAGER = {"engine": "eager"}


def part(certificates):
    return reproducibility.make(ReportData(results=Results(), certificates=tuple(certificates), target=0.9))


def sections(certificates):
    return list(part(certificates).sections)


def facts(certificates):
    return list(part(certificates).facts)


def examples():
    """Return certificates of two arithmetics; those of PyTorch diverge with one thread."""
    return [
        *(certificate(**how) for how in ({}, {}, {"num_threads": 1}, {"torch": "2.15.0"})),
        *(certificate(**EAGER, **how) for how in ({}, {}, {"num_threads": 1, "first_difference": "step 1 loss"})),
    ]


def by_name():
    return {section.name: section for section in sections(examples())}


def test_without_certificates_there_is_no_section_and_no_fact():
    assert sections([]) == []
    assert facts([]) == []


def test_levels_are_claimed_as_far_as_they_were_verified():
    frame = by_name()["reproducibility"].frame
    claimed = frame[frame["is_claimed"]].groupby("run")["level"].agg(list).to_dict()
    assert claimed == {"PyTorch, sgd on digits": ["L1"], "portable/1, sgd on digits": ["L1", "L2"]}
    verdicts = frame.set_index(["run", "level"])["verdict"]
    # L4 is not claimed, because L3 was not tried.
    assert verdicts["portable/1, sgd on digits", "L4"] == "verified"
    assert verdicts["PyTorch, sgd on digits", "L2"] == "diverged"
    assert verdicts["PyTorch, sgd on digits", "L7"] == "not tried"
    (stage,) = set(frame["first_difference"]) - {""}
    assert stage == "step 1 loss"


def test_matrix_has_every_pair_of_environments():
    portable = next(s for s in sections(examples()) if s.title == "Pairwise comparison: portable/1, sgd on digits")
    assert portable.frame["place"].tolist() == [
        "2 threads, torch 2.11.0", "1 thread, torch 2.11.0", "2 threads, torch 2.15.0"]  # fmt: skip
    assert portable.frame[["with_1", "with_2", "with_3"]].to_numpy().tolist() == [
        ["=", "=", "="], ["=", "", "="], ["=", "=", ""]]  # fmt: skip
    words = [text.get_text() for text in portable.figure.axes[0].texts]
    # Three pairs, both ways, and the environment with two certificates.
    assert words.count("=") == 7
    eager = next(s for s in sections(examples()) if s.title == "Pairwise comparison: PyTorch, sgd on digits")
    assert [text.get_text() for text in eager.figure.axes[0].texts].count("step 1") == 2
    assert eager.frame["with_2"].tolist() == ["step 1 loss", ""]
    assert eager.alt == "PyTorch, sgd on digits: 0 of 1 pairs of environments have equal bits."


def test_drift_is_that_of_the_sampled_values():
    drift = next(section for section in sections(examples()) if section.name.startswith("reproducibility-drift"))
    (row,) = drift.frame.to_dict("records")
    assert (row["place"], row["step"]) == ("1 thread", 1)
    assert row["relative_norm"] == pytest.approx(1e-8 / 5**0.5)
    assert "(2 threads)" in drift.text


def test_accuracies_of_runs_of_different_length_are_not_compared():
    one = certificate(**EAGER)
    longer = replace(one, num_steps=3, steps=(*one.steps, f"{'0' * 16} {'0' * 12} {'0' * 8}"))
    certificates = [longer, certificate(**EAGER, num_threads=1, first_difference="step 1 loss")]
    drift = next(section for section in sections(certificates) if section.name.startswith("reproducibility-drift"))
    assert drift.frame["test_accuracy"].isna().all()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"architecture": "aarch64", "cpu_model": "Example ARM"}, ["x86_64", "aarch64"]),
        ({"variables": (("PYTHONHASHSEED", "1"),), "num_threads": 1}, ["2 threads", "1 thread"]),
        ({"cpu_model": "Other CPU"}, ["Example CPU 25/17", "Other CPU 25/17"]),
        ({"cpu_family": 26}, ["Example CPU 25/17", "Example CPU 26/17"]),
        ({"caches": None, "cpu_family": 26, "cpu_capability": "AVX512"}, ["AVX2", "AVX512"]),
    ],
)
def test_processor_is_named_only_if_it_distinguishes_environments(changes, names):
    matrix = next(section for section in sections([certificate(), certificate(**changes)]) if section.figure)
    assert matrix.frame["place"].tolist() == names


def test_drift_is_measured_if_the_first_environment_has_many_certificates():
    equal = [certificate(**EAGER, created_at=f"2026-01-{day:02}T00:00:00+00:00") for day in range(1, 6)]
    other = certificate(**EAGER, num_threads=1, first_difference="step 1 loss", created_at="2026-02-01T00:00:00+00:00")
    (drift,) = (s for s in sections([*equal, other]) if s.name.startswith("reproducibility-drift"))
    assert drift.frame["place"].tolist() == ["1 thread"]


def test_equal_environments_have_no_drift():
    assert not [s for s in sections(examples()[:4]) if "drift" in s.name]


def test_one_environment_has_no_matrix():
    assert [section.name for section in sections([certificate(), certificate()])] == ["reproducibility"]


def test_facts_say_how_far_each_arithmetic_was_verified():
    assert [(fact.name, fact.value) for fact in facts(examples())] == [
        ("Same bits, portable/1", "L2"), ("Same bits, PyTorch", "L1")]  # fmt: skip
    assert facts([certificate()])[0].value == "L0"


def test_of_many_equal_certificates_only_a_few_are_compared():
    frame = sections([certificate(created_at=f"2026-01-{day:02}T00:00:00+00:00") for day in range(1, 29)])[0].frame
    assert frame["num_equal_pairs"].max() == 1


def test_older_certificate_that_differs_is_not_forgotten():
    certificates = [certificate(first_difference="step 1 loss")] + [
        certificate(created_at=f"2026-01-{day:02}T00:00:00+00:00") for day in range(2, 9)
    ]
    assert facts(certificates)[0].value == "L0"


def test_run_that_diverged_is_not_hidden_by_one_that_did_not():
    equal = [certificate(), certificate(), certificate()]
    assert facts(equal)[0].value == "L1"
    assert facts([*equal, certificate(seed=1), certificate(seed=1, first_difference="step 0 loss")])[0].value == "L0"


def test_level_that_only_an_emulator_confirms_says_so():
    x86 = [certificate(), certificate(), certificate(num_threads=1), certificate(cpu_capability="AVX512"),
           certificate(torch="2.15.0")]  # fmt: skip
    emulated = certificate(architecture="aarch64", cpu_model="QEMU Neoverse N1")
    silicon = certificate(architecture="aarch64", cpu_model="Neoverse N1")
    assert facts([*x86, emulated])[0].note.startswith("2 architectures (aarch64, x86_64; 1 emulated); ")
    assert facts([*x86, silicon])[0].note.startswith("2 architectures (aarch64, x86_64); ")


def test_report_has_the_sections_and_refuses_damaged_certificates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for record in example().records():
        append(tmp_path / "results" / "m" / "2026-01-01-c.jsonl", record)
    for one in examples():
        files.write(files.place(tmp_path / "results", one), one)
    assert main(["report"]) == 0
    page = (tmp_path / "results" / "report" / "report.html").read_text(encoding="utf-8")
    assert "Reproducibility levels" in page
    assert "Same bits, portable/1" in page
    assert "step 1 loss" in capsys.readouterr().out
    (files.place(tmp_path / "results", examples()[0]).parent / "bad.json").write_text("{}")
    assert main(["report"]) == 2
    assert "bad.json is not a certificate" in capsys.readouterr().err


# --- many certificates ------------------------------------------------------------------------------------------------


def many(count: int, first_difference=lambda number: None):
    return [
        certificate(
            cpu_model=f"CPU {number}",
            created_at=f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00",
            offset=1e-8 * (1 + number),
            first_difference=first_difference(number),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [13, 31, 120])
def test_matrix_of_many_places_stays_small_and_counts_the_rest(count):
    matrix = next(section for section in sections(many(count)) if section.name == "reproducibility-matrix")
    assert len(matrix.frame) == reproducibility.MAX_PLACES
    assert len(matrix.frame.columns) == reproducibility.MAX_PLACES + 2
    assert f"12 of {count} environments" in matrix.text
    assert f"Of the other {count - 12}, {count - 12} have the same bits" in matrix.text
    assert {cell for column in matrix.frame.columns[2:] for cell in matrix.frame[column]} == {"=", ""}


def test_matrix_shows_one_place_of_each_group_of_equal_bits_first():
    stages = {40: "step 0 loss", 70: "step 1 loss"}
    matrix = next(s for s in sections(many(80, stages.get)) if s.name == "reproducibility-matrix")
    assert {"=", "step 0 loss", "step 1 loss"} <= set(matrix.frame.iloc[0])


@pytest.mark.parametrize("count", [60, 120, 240])
def test_number_of_pairs_grows_with_the_certificates_not_with_their_square(count):
    run = reproducibility.Run(many(count))
    assert not run.is_whole
    assert len(run.pairs) <= 4 * count + 24 * 23 / 2
    assert len({id(certificate) for pair in run.pairs for certificate in (pair.one, pair.other)}) == count


@pytest.mark.parametrize("count", [2, 10, 30])
def test_every_two_of_few_certificates_are_compared(count):
    run = reproducibility.Run(many(count))
    assert run.is_whole
    assert len(run.pairs) == count * (count - 1) / 2


@given(st.data())
@settings(max_examples=25)
def test_levels_of_many_certificates_are_never_higher_than_those_of_all_pairs(data):
    draw = {
        "num_threads": st.sampled_from([1, 2, 4]),
        "torch": st.sampled_from(["2.11.0", "2.15.0"]),
        "cpu_model": st.sampled_from(["One", "Two", "Three"]),
        "variables": st.sampled_from([(), (("MKL_CBWR", "COMPATIBLE"),)]),
        "first_difference": st.sampled_from([None, None, None, "step 1 loss"]),
    }
    certificates = [
        certificate(
            created_at=f"2026-01-01T00:{number:02}:00+00:00",
            **{name: data.draw(values) for name, values in draw.items()},
        )
        for number in range(40)
    ]
    few = levels.judge_levels(reproducibility._telling_pairs(certificates, []))
    whole = levels.judge_levels(levels.pairs(certificates))
    assert levels.verified_level(few) <= levels.verified_level(whole)
    lowest = min((result.level for result in whole if result.num_diverged), default=None)
    assert min((result.level for result in few if result.num_diverged), default=None) == lowest


def test_drifts_of_many_places_are_those_that_go_farthest():
    run = many(40, lambda number: "step 0 update linear0.weight" if number else None)
    drift = next(section for section in sections(run) if section.name == "reproducibility-drift")
    assert len(drift.frame) <= reproducibility.MAX_PLACES - 1
    assert "equal to one of these, or drift less far" in drift.text
