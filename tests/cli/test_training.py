"""Options that need each other work together, arguments are bounded, and a run that was left is named."""

import pytest

from mlpbench.cli.main import main
from mlpbench.cli.options import MOST_SEEDS, seeds
from mlpbench.config import RunConfig, override
from mlpbench.errors import InputError
from mlpbench.records import store
from mlpbench.training import study

SMALL = ["--set", "batch_size=1000", "--set", "num_threads=1"]


# --- options that need each other


@pytest.mark.parametrize("verb", ["study", "time", "ab"])
def test_activations_of_another_option_fit_the_widths(verb, tmp_path, restore_threads, capsys):
    commands = {
        "study": ["study", "--activations", "relu", "tanh,elu", "--optimizers", "sgd", "--seeds", "0", "--jobs", "1",
                  "--set", "num_epochs=1"],
        "time": ["time", "forward", "--vary", "activations=relu", "activations=tanh,elu", "--rounds", "1",
                 "--preset", "quick"],
        "ab": ["ab", "forward", "--a", "activations=relu", "--b", "activations=tanh,elu", "--pairs", "1",
               "--rounds", "1"],
    }  # fmt: skip
    code = main([*commands[verb], "--set", "hidden_sizes=9,8", *SMALL, "--results", str(tmp_path)])
    assert code in ((0, 1, 4) if verb == "ab" else (0,)), capsys.readouterr().err
    results = store.load([tmp_path])
    records = results.train_results if verb == "study" else results.measurements.values()
    assert {each.config.activations for each in records} == {("relu", "relu"), ("tanh", "elu")}
    assert {each.config.hidden_sizes for each in records} == {(9, 8)}


def test_activations_of_one_side_alone_do_not_become_those_of_the_other(tmp_path, capsys):
    command = ["ab", "forward", "--set", "hidden_sizes=9,8", "--a", "activations=relu", "--results", str(tmp_path)]
    assert main(command) == 2
    assert "activations has 3 names for 2 hidden layers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "later", "activations"),
    [
        (["hidden_sizes=9,8"], ["activations=relu,elu"], ("relu", "elu")),
        # What is complete stays as it is.
        (["hidden_sizes=9,8,7"], ["activations=relu"], ("relu", "tanh", "elu")),
        (["activations=gelu", "hidden_sizes=9,8"], ["activations=relu"], ("gelu", "gelu")),
        (["hidden_sizes=9,8", "activations=gelu"], ["activations=relu"], ("gelu", "gelu")),
        (["activations=relu,elu"], ["hidden_sizes=9,8", "lr=5"], ("relu", "elu")),
    ],
)
def test_later_settings_complete_the_layers_and_nothing_else(settings, later, activations):
    config = override(RunConfig(), settings, later)
    assert (config.activations, config.lr) == (activations, RunConfig().lr)


# --- arguments are bounded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-9999999999", f"at most {MOST_SEEDS:,} seeds, not '0-9999999999'"),
        ("0-9999,10000-19999", f"at most {MOST_SEEDS:,} seeds"),
        (",".join(f"{i}0000-{i}4999" for i in range(1, 9)), f"at most {MOST_SEEDS:,} seeds"),
        ("9" * 5000, "seeds such as 0-4"),
        ("0-" + "9" * 30, "seeds such as 0-4"),
        ("5-3", "at least one seed"),
    ],
)
def test_too_many_seeds_are_one_short_line(text, message, capsys):
    assert main(["study", "--seeds", text]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert len(error) < 200


def test_most_seeds_are_accepted_and_written_as_ranges():
    assert len(seeds(f"0-{MOST_SEEDS - 1}")) == MOST_SEEDS
    assert str(seeds(f"0-{MOST_SEEDS - 1}")) == f"0-{MOST_SEEDS - 1}"
    assert str(seeds("7,0-2,2,5,4")) == "7,0-2,5,4"
    assert seeds(str(seeds("7,0-2,2,5,4"))) == (7, 0, 1, 2, 5, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["study", "--jobs", "1001"],
        ["study", "--jobs", "9" * 30],
        ["ab", "--pairs", "1000001"],
        ["ab", "--rounds", "0"],
        ["time", "forward", "--rounds", "1e3"],
        ["certify", "x.json", "--steps", "9" * 5000],
    ],
)
def test_count_out_of_range_is_one_short_line(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "a whole number from 1 to " in error
    assert error.count("\n") == 1
    assert len(error) < 200


def test_study_of_too_many_runs_is_refused_before_it_is_built():
    large = study.Study(
        base=RunConfig(), activations=(("relu",),) * 5, optimizers=("sgd",) * 5, seeds=tuple(range(MOST_SEEDS))
    )
    with pytest.raises(InputError, match=r"at most 10,000 runs, not 250,000; take fewer seeds"):
        large.configs()


# --- runs that were left


def test_new_run_says_that_an_interrupted_one_was_left(tmp_path, restore_threads, capsys, monkeypatch):
    command = ["train", "--epochs", "3", "--set", "hidden_sizes=9,9,9", *SMALL, "--results", str(tmp_path)]
    add = study._StudyRun._add_epoch

    def interrupted(run, epoch, config=None):
        if epoch.index == 1:
            raise KeyboardInterrupt
        add(run, epoch, config)

    monkeypatch.setattr(study._StudyRun, "_add_epoch", interrupted)
    assert main(command) == 130
    assert "1 of 3 epochs; the same command with --resume goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.startswith("interrupted before: 1 of 1 runs; --resume would have gone on with them\n")
    assert main([*command, "--resume"]) == 2
    assert "the newest run of this command is complete" in capsys.readouterr().err
