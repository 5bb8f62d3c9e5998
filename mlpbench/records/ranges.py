"""Define the ranges of values: types that say which numbers and texts a record can hold.

A field with such a type is checked when a line is read, so that no statistic meets a value that nothing can have
measured. A loss may be `nan` or infinite, because a run that diverged is a result.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from mlpbench.errors import printable

MAX_TEXT = 4000
"""The longest text of a record, in characters."""


@dataclass(frozen=True, slots=True)
class Check:
    """Hold the condition that a value must meet, and its description for messages."""

    is_met: Callable[[Any], bool]
    expected: str


def _from(low: int) -> Check:
    return Check(lambda value: low <= value <= 2**64, f"a whole number from {low} to 2**64")


def _between(low: float, high: float) -> Check:
    return Check(lambda value: math.isfinite(value) and low <= value <= high, f"a number from {low:g} to {high:g}")


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_id(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and all(c.isalnum() or c in "-_." for c in text)


def tidy(text: str) -> str:
    """Return a text as a record can hold it: escapes for control characters, and no more than `MAX_TEXT` characters."""
    return "\n".join(map(printable, text.split("\n")))[:MAX_TEXT]


def one_of(*names: str) -> Check:
    """Return the check that a text is one of these names."""
    return Check(lambda value: value in names, f"one of {', '.join(map(repr, names))}")


TEXT = Check(
    lambda value: len(value) <= MAX_TEXT and value.replace("\n", "").isprintable(),
    f"at most {MAX_TEXT:,} characters, none of them a control character but a line break",
)
"""The check of every text: no terminal obeys it, and every output can show it."""

Id = Annotated[str, Check(_is_id, "an id: 1 to 64 letters, digits, - _ .")]
Instant = Annotated[str, Check(_is_instant, "a date and time, ISO 8601")]
Count = Annotated[int, _from(0)]
Positive = Annotated[int, _from(1)]
"""A whole number of at least 1."""
Seconds = Annotated[float, _between(0, 1e12)]
Rate = Annotated[float, _between(1e-6, 1e24)]
"""Something per second, above 0."""
Amount = Annotated[float, _between(0, 1e24)]
Share = Annotated[float, _between(0, 1)]
Ratio = Annotated[float, _between(1, 1e6)]
"""A margin or a noise floor: a ratio of at least 1."""
Distance = Annotated[float, Check(lambda value: not value < 0, "a number of at least 0")]
"""A difference of two values; `nan` or infinite if they are."""
