"""Test that the command that a record keeps asks for the same again, whatever the verb and the option."""

import argparse
import shlex

import pytest

from mlpbench.cli import command
from mlpbench.cli.command import command_of
from mlpbench.cli.main import VERBS, _parser

VALUES = {
    "a": ["optimizer=adam", "env:OMP_NUM_THREADS=1"],
    "activations": ["relu", "relu,tanh,elu"],
    "b": ["lr=0.1"],
    "clock": "latency",
    "fail_on": "faster,inconclusive",
    "margin": "7.5%",
    "must_find": "7.5%",
    "operations": ["forward", "epoch"],
    "optimizers": ["sgd", "adam"],
    "paths": ["results"],
    "seeds": "0-2,7",
    "set": ["batch_size=10", "hidden_sizes=9,8"],
    "target": "0.5",
    "vary": [["lr=1", "lr=2"], ["seed=0", "seed=1"]],
}


def arguments_of(verb: str) -> list[argparse.Action]:
    return [a for a in parser_of(verb)._actions if a.dest not in command._NOT_MEASURED]


def parser_of(verb: str) -> argparse.ArgumentParser:
    (subparsers,) = (a for a in _parser([verb])._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices[verb]


def words(action: argparse.Action) -> list[str]:
    """Return a way to give this argument on the command line, with a value that is not its default."""
    if action.nargs == 0:
        return [action.option_strings[-1]]
    value = VALUES.get(action.dest) or (list(action.choices)[-1] if action.choices else "3")
    option = action.option_strings[-1:]
    if type(action) is argparse._AppendAction:
        return [word for item in value for word in (*option, *(item if isinstance(item, list) else [item]))]
    return [*option, *(value if isinstance(value, list) else [value])]


def parse(verb: str, line: list[str]) -> dict[str, object]:
    parsed = vars(_parser([verb]).parse_args([verb, *line]))
    return {name: value for name, value in parsed.items() if name not in (*command._NOT_MEASURED, "run", "parser")}


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_a_verb_survives(verb):
    line = [word for action in arguments_of(verb) if not action.option_strings for word in words(action)]
    line += [word for action in arguments_of(verb) if action.option_strings for word in words(action)]
    parsed = _parser([verb]).parse_args([verb, *line])
    program, name, *again = shlex.split(command_of(parsed))
    assert (program, name) == ("mlpbench", verb)
    assert parse(verb, again) == parse(verb, line)


@pytest.mark.parametrize(("verb", "action"), [(verb, action) for verb in VERBS for action in arguments_of(verb)])
def test_every_option_alone_is_in_the_command(verb, action):
    required = [w for a in arguments_of(verb) if not a.option_strings and a.nargs is None for w in words(a)]
    line = required if not action.option_strings and action.nargs is None else [*required, *words(action)]
    text = command_of(_parser([verb]).parse_args([verb, *line]))
    assert parse(verb, shlex.split(text)[2:]) == parse(verb, line)


def test_time_limit_is_not_lost():
    parsed = _parser(["ab"]).parse_args(["ab", "forward", "--b", "lr=0.1", "--time-limit", "60"])
    assert command_of(parsed) == "mlpbench ab forward --b lr=0.1 --time-limit 60"


def test_defaults_and_places_are_left_out():
    line = ["study", "--results", "/home/me/r", "--data", "/data", "--preset", "quick", "--seeds", "0-1"]
    assert command_of(_parser(line).parse_args(line)) == "mlpbench study --seeds 0-1"


def test_path_is_named_as_one_unless_it_is_asked_for():
    line = ["ab", "--a", "python=/opt/python", "--b", "lr=0.1"]
    parsed = _parser(line).parse_args(line)
    assert "python=(a path)" in command_of(parsed)
    assert "python=/opt/python" in command_of(parsed, keep_paths=True)


def test_resolved_values_replace_the_given_ones():
    line = ["ab", "--a", "commit=main", "--b", "lr=0.1"]
    parsed = _parser(line).parse_args(line)
    assert command_of(parsed, a=["commit=0123456789ab"]) == "mlpbench ab --a commit=0123456789ab --b lr=0.1"
