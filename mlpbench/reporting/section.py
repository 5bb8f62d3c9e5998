"""Define the pieces of a report: sections, facts at its head, and the parts that hold both."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from mlpbench.certifying.certificate import Certificate
from mlpbench.records.results import Results
from mlpbench.reporting import curves, frames

if TYPE_CHECKING:
    from collections.abc import Sequence


def file_name(text: str) -> str:
    """Return a text as a part of a file name and of an anchor: short, of letters, digits, hyphens and underscores.

    >>> file_name("data.py:faces"), file_name("../x")
    ('data-py-faces', '---x')
    """
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "-" for c in text)[:80] or "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Answer one question with a figure and a table, and say how to measure the answer again."""

    name: str
    """Used for the anchor, the CSV file and the file of the figure."""
    title: str
    text: str
    frame: pd.DataFrame | None = None
    figure: Figure | None = None
    alt: str = ""
    """The text alternative of the figure."""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """Show one number at the head of the report."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Hold the sections and facts of one subject."""

    sections: tuple[Section, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(kw_only=True)
class ReportData:
    """Hold the input of a report; frames that several parts need are computed once."""

    results: Results
    certificates: "Sequence[Certificate]" = field(default_factory=tuple)
    target: float
    """The test accuracy that time-to-accuracy refers to, a fraction."""

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """Return a row per timed block; see `frames.blocks`."""
        return frames.blocks(self.results)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Return a row per epoch of every training run; see `curves.epochs`."""
        return curves.epochs(self.results)
