"""Check that a baseline changes only when it is accepted, and then completely."""

from pathlib import Path

import pytest

from mlpbench.cli.main import main
from mlpbench.errors import InputError
from mlpbench.judging import baseline
from mlpbench.records import store
from tests.judging.processes import STEADY, scaled, write
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, changed, plan, replicated, session


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_compare_takes_the_accepted_results_as_its_baseline(capsys):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    assert main(["compare", "baseline", new]) == 2
    assert "baseline accept" in capsys.readouterr().err
    assert main(["baseline", "accept", base]) == 0
    assert main(["compare", "baseline", new]) == 1
    assert main(["compare", "baseline", base]) == 2
    again = write(Path("c.jsonl"), replicated(scaled(1.2), run="c"))
    assert main(["compare", "baseline", again]) == 1
    assert main(["baseline", "accept", new]) == 0
    assert main(["compare", "baseline", again]) == 0


def test_baseline_has_every_record():
    path = baseline.accept(Path("results"), [Path(write(Path("a.jsonl"), plan(), replicated(STEADY, run="r")))])
    assert path == Path("results/baselines") / f"{ENVIRONMENT.machine}.jsonl"
    one, other = store.load([Path("a.jsonl")]), store.load([path])
    assert sorted(map(repr, one.records())) == sorted(map(repr, other.records()))
    assert other.problems == []


def test_show_prints_the_accepted_baseline(capsys):
    assert main(["baseline", "show"]) == 2
    main(["baseline", "accept", write(Path("a.jsonl"), replicated(STEADY))])
    capsys.readouterr()
    assert main(["baseline", "show"]) == 0
    printed = capsys.readouterr().out
    assert f"{ENVIRONMENT.machine}: 1 benchmarks, up to 5 processes" in printed
    assert ENVIRONMENT.commit in printed


def test_damaged_results_are_refused_and_the_old_baseline_stays():
    path = baseline.accept(Path("results"), [Path(write(Path("a.jsonl"), replicated(STEADY)))])
    before = path.read_bytes()
    damaged = Path(write(Path("b.jsonl"), replicated(scaled(2))))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(InputError, match="a baseline must be complete"):
        baseline.accept(Path("results"), [damaged])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_results_of_two_machines_are_refused():
    write(Path("a.jsonl"), replicated(STEADY), replicated(STEADY, run="o", environment=OTHER_ENVIRONMENT))
    with pytest.raises(InputError, match="several machines"):
        baseline.accept(Path("results"), [Path("a.jsonl")])


def test_single_process_is_refused():
    write(Path("a.jsonl"), replicated(STEADY[:1]))
    with pytest.raises(InputError, match="two processes"):
        baseline.accept(Path("results"), [Path("a.jsonl")])
    write(Path("b.jsonl"), session())
    with pytest.raises(InputError, match="two processes"):
        baseline.accept(Path("results"), [Path("b.jsonl")])


NOISY = [[1.0, 1.0], [3.0, 3.0], [9.0, 9.0], [0.5, 0.5], [1.2, 1.2]]
WEAK = {
    "two processes": replicated(STEADY[:1]),
    "3 of 4 benchmarks ran in one process": [
        *replicated(STEADY),
        *(
            record
            for name in ("forward", "backward", "epoch")
            for record in replicated(STEADY[:1], run=name, operation=name)
        ),
    ],
    "100% of the blocks were disturbed": replicated(STEADY, flags=("busy",)),
    "differ so much": replicated(NOISY),
}


@pytest.mark.parametrize("reason", WEAK)
def test_results_without_a_verdict_are_refused_or_accepted_by_force_which_is_said(reason, capsys):
    path = write(Path("a.jsonl"), WEAK[reason])
    assert main(["baseline", "accept", path]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert "--preset default" in message
    assert len(message.splitlines()) == 1
    assert not Path("results/baselines").exists()

    assert main(["baseline", "accept", path, "--force"]) == 0
    assert "accepted by force, although" in capsys.readouterr().out
    assert main(["baseline", "show"]) == 0
    shown = capsys.readouterr().out
    assert reason in shown
    main(["compare", "baseline", write(Path("b.jsonl"), replicated(STEADY, run="n")), "--json", "v.json"])
    assert reason in Path("v.json").read_text()
    assert "by force" in capsys.readouterr().out


def test_good_results_take_the_place_of_forced_ones_and_nothing_is_said(capsys):
    main(["baseline", "accept", write(Path("a.jsonl"), replicated(STEADY[:1])), "--force"])
    assert main(["baseline", "accept", write(Path("b.jsonl"), replicated(STEADY))]) == 0
    assert "force" not in capsys.readouterr().out.splitlines()[-1]
    main(["baseline", "show"])
    assert "force" not in capsys.readouterr().out


def test_results_without_a_complete_measurement_are_refused_even_by_force(capsys):
    path = write(Path("a.jsonl"), replicated(STEADY, rounds=99))
    assert main(["baseline", "accept", path, "--force"]) == 2
    assert "ran completely" in capsys.readouterr().err


def test_baseline_of_several_files_keeps_the_order_of_time():
    """The files are read in the order of their names, and the baseline is one file."""
    old = changed(ENVIRONMENT, commit="0ld")
    write(Path("r/a.jsonl"), replicated(STEADY, run="n", started_at="2026-02-01T00:00:00+00:00"))
    write(Path("r/b.jsonl"), replicated(STEADY, run="o", environment=old))
    path = baseline.accept(Path("results"), [Path("r")])
    assert store.load([path]).newest_session.environment.commit == ENVIRONMENT.commit


def test_accept_without_results_is_refused():
    assert main(["baseline", "accept"]) == 2
    assert main(["baseline", "accept", "nothing.jsonl"]) == 2
