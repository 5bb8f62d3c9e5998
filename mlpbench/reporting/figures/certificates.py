"""Draw certificates against each other: a matrix of equal bits, and the drift of the parameters."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mlpbench.reporting.figures.axes import (
    LEGEND_WIDTH,
    distinct,
    draw_lines,
    legend_below,
    legend_in,
    log_ticks,
    short_number,
)
from mlpbench.reporting.figures.canvas import DIVERGED, EQUAL, ON_COLOUR, canvas


def equality_matrix(names: Sequence[str], stages: Mapping[tuple[str, str], str | None]) -> Figure:
    """Draw environments against each other; few enough that the words in the cells are readable.

    Args:
        names: the environments.
        stages: for each pair of names the first stage that differs; empty: equal bits; None: not compared.
    """
    shades = [[np.nan if stages[a, b] is None else float(bool(stages[a, b])) for b in names] for a in names]
    # In a wide matrix, a cell has no room for two words beside each other.
    space = " " if len(names) <= 8 else "\n"
    words = np.array([[_word(stages[a, b]).replace(" ", space) for b in names] for a in names])
    with canvas(1.5 + 0.36 * len(names)) as (figure, (axes,)):
        sns.heatmap(
            np.array(shades), mask=np.isnan(shades), annot=words, fmt="", cmap=[EQUAL, DIVERGED], vmin=0, vmax=1,
            cbar=False, linewidths=1, annot_kws={"color": ON_COLOUR, "fontsize": 7}, ax=axes,
        )  # fmt: skip
        numbers = [str(index + 1) for index in range(len(names))]
        axes.set_xticklabels(numbers)
        axes.set_yticklabels(numbers, rotation=0)
        axes.set(xlabel="environment\n(=: equal bits; otherwise the step that differs first)", ylabel="environment")
        axes.grid(visible=False)
    return figure


def _word(stage: str | None) -> str:
    """Return the step of a stage, `start` or `end` for a stage before or after the steps, or `=` for equal bits."""
    if not stage:
        return "" if stage is None else "="
    words = stage.split(" ")
    if words[0] == "step":
        return f"step {words[1]}"
    # The outputs on the test set come after the last step, everything else before the first.
    return "end" if stage == "test logits" else "start"


def drift(frame: pd.DataFrame) -> Figure:
    """Draw the relative difference of parameters over steps, a line for each environment; both axes are logarithmic."""
    data = frame[frame["relative_norm"] > 0].assign(after=lambda part: part["step"] + 1)
    places = data["place"].unique().tolist()
    labels = distinct(places, LEGEND_WIDTH)
    data["place"] = data["place"].map(dict(zip(places, labels, strict=True)))
    with canvas(2.8 + legend_in(labels)) as (figure, (axes,)):
        if labels:
            draw_lines(axes, data, x="after", y="relative_norm", by="place")
        axes.set(xlabel="steps of training", ylabel="relative difference\nof parameters (ratio)")
        log_ticks(axes, "x", data["after"], short_number)
        log_ticks(axes, "y", data["relative_norm"], short_number)
        if labels:
            legend_below(figure, axes)
    return figure
