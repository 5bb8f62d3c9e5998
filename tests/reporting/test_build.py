"""Test the sections and facts of reports from hand-made results."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.reporting.build import _distinct_sections, build
from mlpbench.reporting.section import Section
from tests.strategies import (
    ENVIRONMENT,
    OTHER_ENVIRONMENT,
    changed,
    check,
    example,
    results,
    session,
    timed,
    trained,
)


def sections_of(*records):
    return build(results(*records), (), 0.9).sections


def test_example_fills_every_section():
    assert [section.name for section in build(example(), (), 0.9).sections] == [
        "operations",
        "epochs",
        "activations",
        "optimizers",
        "batch-sizes",
        "widths",
        "timed",
        "in-turns",
        "tutorial",
        "accuracy-digits",
        "time-to-accuracy-digits",
        "accuracy-mnist",
        "time-to-accuracy-mnist",
        "activation-functions",
        "determinism",
        "skipped",
        "protocol",
    ]


def test_summary_names_machine_and_stack_of_the_newest_session():
    newest = session("t", started_at="2027-01-01T00:00:00+00:00", environment=OTHER_ENVIRONMENT)
    text = build(results(newest, session()), (), 0.9).summary
    for part in ("Example GPU host", "2 CPUs", "8 GiB", "Example GPU (CUDA 13.0)", "PyTorch 2.11.0", "at 0123abc"):
        assert part in text


def test_facts_have_the_main_numbers():
    facts = {fact.name: fact for fact in build(example(), (), 0.9).facts}
    assert facts["Training step, cpu"].value == "900 µs"
    assert facts["Epoch in memory, cpu"].value == "600 ms"
    assert "60,000" not in facts["Training step, cpu"].note
    assert "digits, batch 100" in facts["Epoch in memory, cpu"].note
    assert facts["Same seed, repeat"].value == "equal bits"
    assert facts["Same seed, threads"].value == "bits differ"
    assert "step 0 gradient layers.0.weight" in facts["Same seed, threads"].note
    assert facts["Best test accuracy"].value == "0.9200"


def test_suite_on_two_workloads_has_a_section_for_each():
    sections = sections_of(
        session(),
        timed("m", [1.0], suite="epochs", operation="epoch"),
        timed("n", [2.0], suite="epochs", operation="epoch", config=RunConfig(batch_size=10)),
    )
    assert [(s.name, s.title) for s in sections[:2]] == [
        ("epochs", "Epoch: batch_size=100"),
        ("epochs-2", "Epoch: batch_size=10"),
    ]


def test_loaders_that_ran_interleaved_give_a_fact_with_the_change():
    memory = timed("m", [500.0] * 3, suite="epochs", group="g", operation="epoch")
    loader = RunConfig(loader="dataloader")
    other = timed("d", [1000.0, 1250.0, 1500.0], suite="epochs", group="g", operation="epoch", config=loader)
    facts = {fact.name: fact for fact in build(results(session(), memory, other), (), 0.9).facts}
    fact = facts["DataLoader loop against memory"]
    assert fact.value == "+150 %"
    assert fact.note == "time of an epoch; +100 % to +200 % over 3 interleaved rounds"


def test_tutorial_section_needs_the_workload_of_the_tutorial():
    same = sections_of(session(), trained((0.8,), dataset="mnist", loader="dataloader", seed=3))
    other = sections_of(session(), trained((0.8,), dataset="mnist", lr=0.1))
    assert "tutorial" in [section.name for section in same]
    assert "tutorial" not in [section.name for section in other]


def test_sections_and_facts_have_titles_and_names_that_differ():
    environments = [changed(ENVIRONMENT, cpu_model=name) for name in ("One", "Two")]
    sessions = [session(f"s{i}", environment=environment) for i, environment in enumerate(environments)]
    loaders = [
        RunConfig(loader=name, engine=engine) for engine in ("eager", "fused") for name in ("memory", "dataloader")
    ]
    records = [
        timed(
            f"m{s.id}{i}", [1.0] * 3, session=s.id, suite="epochs", operation="epoch", group=f"{s.id}{i // 2}", config=c
        )
        for s in sessions
        for i, c in enumerate(loaders)
    ]
    checks = [check(session=s.id, seed=seed) for s in sessions for seed in (0, 1)]
    report = build(results(*sessions, *records, *checks, *example().records()), (), 0.9)
    for texts in (
        [section.title for section in report.sections],
        [section.name for section in report.sections],
        [fact.name for fact in report.facts],
    ):
        assert len(set(texts)) == len(texts)


@given(st.lists(st.text(max_size=20) | st.sampled_from(["../../r<b>", "a", "a-2", "\0"]), max_size=6))
def test_names_of_sections_can_name_files_and_differ(names):
    sections = _distinct_sections([Section(name=name, title="t", text="") for name in names])
    assert all(re.fullmatch(r"[\w-]+", section.name, re.ASCII) for section in sections)
    assert len({section.name for section in sections}) == len({section.title for section in sections}) == len(names)


def test_evaluate_alone_has_no_figure():
    (section, *_) = sections_of(session(), timed("m", [1.0], operation="evaluate"))
    assert section.name == "operations"
    assert section.figure is None
