"""Progress is lines in a pipe, and a live bar on a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from mlpbench.config import RunConfig
from mlpbench.records.kinds import EpochResult
from mlpbench.training.progress import TrainingProgress, epoch_line
from tests import strategies

CONFIGS = [RunConfig(num_epochs=3), RunConfig(num_epochs=3, seed=1)]


def epoch(index: int) -> EpochResult:
    return replace(
        strategies.epoch(index),
        train_loss=0.25,
        train_accuracy=0.875,
        test_loss=float("nan"),
        test_accuracy=0.75,
        train_s=1.5,
    )


def printed(*, is_terminal: bool) -> str:
    """Return the output of two runs of three epochs."""
    output = io.StringIO()
    console = Console(file=output, width=160, force_terminal=is_terminal, highlight=False, markup=False)
    with TrainingProgress(CONFIGS, console) as progress:
        for config in CONFIGS:
            progress.start(config)
            for index in range(config.num_epochs):
                progress.epoch(epoch(index))
    return output.getvalue()


def test_epoch_line_counts_from_one_and_has_every_number():
    line = epoch_line(epoch(0), 3)
    assert line.startswith("epoch 1/3 ")
    for part in ("train loss 0.2500 accuracy 0.8750", "test loss nan accuracy 0.7500", "1.50 s"):
        assert part in line


def test_pipe_gets_a_line_for_each_run_and_epoch_and_nothing_else():
    lines = printed(is_terminal=False).splitlines()
    assert lines == [
        "run 1/2: num_epochs=3",
        *(epoch_line(epoch(index), 3) for index in range(3)),
        "run 2/2: num_epochs=3 seed=1",
        *(epoch_line(epoch(index), 3) for index in range(3)),
    ]


def test_pipe_gets_no_control_characters():
    text = printed(is_terminal=False)
    assert text.endswith("\n")
    assert text.replace("\n", "").isprintable()


def test_terminal_shows_every_run_and_the_end_of_each():
    text = printed(is_terminal=True)
    for part in ("run 1/2: num_epochs=3", "run 2/2: num_epochs=3 seed=1", "epoch 3/3", "100%"):
        assert part in text


def test_terminal_gets_its_cursor_back_when_training_is_interrupted(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    output = io.StringIO()

    def interrupted():
        with TrainingProgress(CONFIGS, Console(file=output, width=160, force_terminal=True)) as progress:
            progress.start(CONFIGS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert output.getvalue().count(hide) == output.getvalue().count(show) == 1


# --- several runs at once


def printed_at_once(*, is_terminal: bool) -> str:
    """Return the output of three runs, two of them at once; the second fails in its third epoch."""
    configs = [RunConfig(num_epochs=3, seed=seed) for seed in range(3)]
    output = io.StringIO()
    console = Console(file=output, width=160, force_terminal=is_terminal, highlight=False, markup=False)

    with TrainingProgress(configs, console) as progress:
        progress.start(configs[0])
        progress.start(configs[1])
        for index in range(3):
            progress.epoch(epoch(index), configs[0])
            if index < 2:
                progress.epoch(epoch(index), configs[1])
        progress.failure(configs[1], "its process ended [for once]")
        progress.start(configs[2])
        for index in range(3):
            progress.epoch(epoch(index), configs[2])
    return output.getvalue()


def test_pipe_gets_a_line_for_every_epoch_of_runs_at_once():
    lines = printed_at_once(is_terminal=False).splitlines()
    assert [line.split("  train")[0] for line in lines] == [
        "run 1/3: num_epochs=3",
        "run 2/3: num_epochs=3 seed=1",
        *("run 1/3  epoch 1/3", "run 2/3  epoch 1/3", "run 1/3  epoch 2/3", "run 2/3  epoch 2/3", "run 1/3  epoch 3/3"),
        "run 2/3 has no result: its process ended [for once]",
        "run 3/3: num_epochs=3 seed=2",
        *("run 3/3  epoch 1/3", "run 3/3  epoch 2/3", "run 3/3  epoch 3/3"),
    ]


def test_bar_counts_the_epochs_of_a_failed_run_as_done():
    text = printed_at_once(is_terminal=True)
    for part in ("run 1/3  epoch 3/3", "run 2/3 has no result", "run 3/3  epoch 3/3", "100%"):
        assert part in text


# --- runs that go on after an interruption


def test_run_that_goes_on_says_after_which_epoch_and_notes_are_lines():
    output = io.StringIO()
    config = RunConfig(num_epochs=3)
    with TrainingProgress([config], Console(file=output, width=160, highlight=False, markup=False)) as progress:
        progress.start(config, 2)
        progress.note("no checkpoint [of this run]")
        progress.epoch(epoch(2))
    lines = ["run 1/1: num_epochs=3, goes on after epoch 2/3", "no checkpoint [of this run]", epoch_line(epoch(2), 3)]
    assert output.getvalue().splitlines() == lines


def test_bar_counts_epochs_from_before_the_interruption():
    output = io.StringIO()
    config = RunConfig(num_epochs=4)
    console = Console(file=output, width=160, force_terminal=True, highlight=False, markup=False)
    with TrainingProgress([config], console) as progress:
        progress.start(config, 3)
        progress.epoch(epoch(3))
    assert "100%" in output.getvalue()
