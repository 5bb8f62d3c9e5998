"""Draw the activation functions and their derivatives."""

import numpy as np
from matplotlib.figure import Figure

from mlpbench.reporting.figures.canvas import BAD, NEUTRAL, canvas
from mlpbench.workload.activations import ACTIVATIONS

_NUM_COLUMNS = 3


def activation_functions() -> Figure:
    """Draw a panel for each function: f as a line, its derivative f′ dashed.

    A panel each, because relu and leaky_relu differ by less than the width of a line.
    """
    names = [name for name, entry in ACTIVATIONS.items() if name == entry.function]
    num_rows = -(-len(names) // _NUM_COLUMNS)
    x = np.linspace(-4, 4, 321)
    with canvas(0.9 + 1.15 * num_rows, _NUM_COLUMNS, num_rows) as (figure, panels):
        for name, axes in zip(names, panels, strict=False):
            value, derivative = ACTIVATIONS[name].formula(x)
            axes.plot(x, value, color=NEUTRAL, linewidth=1.6, label="f(x)")
            axes.plot(x, derivative, color=BAD, linewidth=1.3, linestyle=(0, (4, 1.5)), label="f′(x), its derivative")
            axes.set(ylim=(-1.3, 4.2), xlim=(-4.2, 4.2), xticks=[-4, 0, 4], yticks=[-1, 0, 1, 2, 3, 4])
            axes.set_title(name, fontsize="small")
            axes.tick_params(labelsize="x-small")
        for axes in panels[len(names) :]:
            axes.remove()
        for axes in panels[max(0, len(names) - _NUM_COLUMNS) : len(names)]:
            axes.set_xlabel("x (dimensionless)", fontsize="x-small")
        figure.supylabel("f(x) and f′(x) (dimensionless)", fontsize="small")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
