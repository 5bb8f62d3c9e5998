"""Rebuild, from parsed arguments, the command that measures the same again."""

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

from mlpbench.config import without_paths

# Options that change nothing that is measured: where results, data and output go, and whether a run continues another.
_NOT_MEASURED = frozenset({"help", "results", "data", "plots", "output", "json", "csv", "markdown", "html", "resume"})


def command_of(parsed: argparse.Namespace, *, keep_paths: bool = False, **resolved: object) -> str:
    """Return the command line that asks for the same again: every option whose value is not its default.

    Args:
        parsed: the arguments of a verb, with its parser as `parser`.
        keep_paths: keep values that are paths; a record must not hold one.
        resolved: values that the verb has worked out, by destination; they replace the parsed ones.

    >>> parser = argparse.ArgumentParser(prog="mlpbench time")
    >>> _ = parser.add_argument("operation")
    >>> _ = parser.add_argument("--rounds", type=int)
    >>> command_of(argparse.Namespace(parser=parser, operation="forward", rounds=None), rounds=5)
    'mlpbench time forward --rounds 5'
    """
    words = parsed.parser.prog.split(" ")
    # argparse has no public list of a parser's arguments.
    actions = [action for action in parsed.parser._actions if action.dest not in _NOT_MEASURED]
    for action in sorted(actions, key=lambda action: bool(action.option_strings)):
        value = resolved.get(action.dest, getattr(parsed, action.dest, action.default))
        words += _words(action, value)
    return shlex.join(word if keep_paths else _without_path(word) for word in words)


def _words(action: argparse.Action, value: Any) -> Iterator[str]:
    if value is None or value == action.default:
        return
    if not action.option_strings:
        yield from _texts(value)
        return
    option = action.option_strings[-1]
    if action.nargs == 0:
        yield option
    elif type(action) is argparse._AppendAction:  # not its subclass, which makes one flat list
        for item in value:
            yield option
            yield from _texts(item)
    else:
        yield option
        yield from _texts(value)


def _texts(value: Any) -> list[str]:
    """Split a list into words; a tuple or number with a text of its own stays one word."""
    return list(map(str, value)) if type(value) in (list, tuple) else [str(value)]


def _without_path(word: str) -> str:
    """Replace a path by `(a path)`; of `name=value` only the value.

    >>> _without_path("python=/usr/bin/python3"), _without_path("lr=0.1")
    ('python=(a path)', 'lr=0.1')
    """
    name, equals, value = word.partition("=")
    return f"{name}={without_paths(value)}" if equals else without_paths(word)
