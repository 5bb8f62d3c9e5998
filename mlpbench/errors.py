"""Define the exception for a user's mistakes, and the look-up of names that raises it."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Report a user's mistake in one clear line: what is wrong, where, and what to do. The exit code is 2."""


def choose(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return the entry called `name`.

    Raises:
        InputError: if there is no such entry; the message lists the known names.
    """
    check_name(registry, name, kind)
    return registry[name]


def check_name(names: Iterable[str], name: str, kind: str) -> None:
    """Check that `name` is one of `names`.

    Raises:
        InputError: if it is not; the message lists the known names.
    """
    known = [str(each) for each in names]
    if name not in known:
        raise InputError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
