"""Make figures in the style of the report, and turn them into PNG and SVG.

Nothing of the user's matplotlib settings matters here: no style, no font, no backend, no mathematics in texts.
"""

import contextlib
import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mlpbench.errors import printable

INK, LINE = "#1b1d21", "#c8ccd2"
"""Colours that report.html replaces by those of its light or dark theme."""
BAD, GOOD, NEUTRAL = "#d55e00", "#029e73", "#0173b2"
"""Colours of lines and points, from the palette for colour-blind readers."""
EQUAL, DIVERGED, ON_COLOUR = "#8fd0b5", "#f0b48a", "#101010"
"""Colours of areas, and of text on them in the light and the dark page."""
WIDTH_IN = 4.6
"""The width of a figure in inches; narrow, so that its text stays readable on a phone."""
MAX_HEIGHT_IN = 40.0
"""The largest height of a figure in inches; a picture that is much higher cannot be stored."""

TITLE_WIDTH = 56
"""The longest line of a title, in characters."""
_MAX_LINES = 4
_SVG = "http://www.w3.org/2000/svg"
_STYLE: dict[str, Any] = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "figure.titlesize": "medium",
    "font.family": ["sans-serif"],
    # This font comes with matplotlib, so a text has the same size everywhere.
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use the style of the report, whatever the user's matplotlibrc says; undo it at the end."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A character without a picture in the font is an empty box in a PNG, and itself in an SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        rules = sns.axes_style("whitegrid") | sns.plotting_context("notebook", font_scale=0.85) | _STYLE
        mpl.rcParams.update(rules)
        sns.set_palette("colorblind")
        yield


@contextlib.contextmanager
def canvas(height_in: float, num_columns: int = 1, num_rows: int = 1) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Make a figure in the style of the report, without a window. The panels of a column share their x axis."""
    with style():
        figure = Figure(figsize=(WIDTH_IN, min(height_in, MAX_HEIGHT_IN)), layout="constrained")
        yield figure, np.ravel(figure.subplots(num_rows, num_columns, sharex="col")).tolist()


def png(figure: Figure, title: str = "") -> bytes:
    """Return a figure as PNG on white, under this title if it has none of its own."""
    buffer = io.BytesIO()
    with style(), _titled(figure, title):
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


@contextlib.contextmanager
def _titled(figure: Figure, title: str) -> Iterator[None]:
    """Give a figure a title that it loses again: in the page, the heading of its section says the same."""
    if not title or figure.get_suptitle():
        yield
        return
    height_in = figure.get_figheight()
    figure.set_figheight(height_in + set_title(figure, title))
    yield
    figure.suptitle("")
    figure.set_figheight(height_in)


def set_title(figure: Figure, text: str) -> float:
    """Set a title over the whole figure, in a few lines, and return its height in inches."""
    title = wrapped(text, TITLE_WIDTH)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return title_in(text)


def title_in(text: str) -> float:
    """Return the height of a title, in inches."""
    return 0.1 + 0.18 * (wrapped(text, TITLE_WIDTH).count("\n") + 1)


def wrapped(text: object, width: int) -> str:
    """Return a text in a few lines, in which every character is visible; the rest of a very long text is cut."""
    # A list of names may break after each of them.
    spaced = re.sub(r"(?<=[^\W\d]),(?=\S)", ", ", printable(str(text)))
    lines = textwrap.wrap(spaced, width, break_on_hyphens=False) or [""]
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"{lines[_MAX_LINES - 1][: width - 1]}…"]
    return "\n".join(lines)


def svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an SVG element in the colours of the page, with its text alternative.

    Args:
        figure: the figure.
        name: keeps the ids of the page's figures apart, and the same from run to run.
        alt: the text alternative.
    """
    buffer = io.StringIO()
    with style(), mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (matplotlib wrote it just now)
    for group in root.iter(f"{{{_SVG}}}g"):
        # These names repeat from figure to figure, and nothing refers to them.
        group.attrib.pop("id", None)
    # The page decides the size.
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", printable(alt))
    element = ET.tostring(root, encoding="unicode")
    return element.replace(INK, "var(--ink)").replace(LINE, "var(--line)")
