"""Define the exceptions for a user's mistakes and for output that cannot be written, and the look-up of names."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Report a user's mistake in one clear line: what is wrong, where, and what to do."""

    exit_code: ClassVar[int] = 2
    """The exit code of the command line."""


class OutputError(InputError):
    """Report that an output could not be written, for example because the disk is full."""

    exit_code = 74


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


def printable(text: str) -> str:
    r"""Return the text as one line without control characters: those are written as escapes.

    A terminal obeys control characters, and a line break would look like another message.

    >>> printable("a\x1b[2Jb\nc é")
    'a\\x1b[2Jb\\nc é'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
