"""Report the activation functions and their derivatives."""

from mlpbench.reporting.figures.activations import activation_functions
from mlpbench.reporting.section import Part, ReportData, Section
from mlpbench.workload.activations import ACTIVATIONS


def make(_: ReportData) -> Part:
    """Make the section, which shows the same functions in every report."""
    names = [name for name, entry in ACTIVATIONS.items() if name == entry.function]
    section = Section(
        name="activation-functions",
        title="The activation functions",
        text="Each function (line) and its derivative (dashed), from its formula. Tests compare PyTorch's and our own "
        "code with it.",
        figure=activation_functions(),
        alt=f"{', '.join(names)} from x = -4 to 4, and their derivatives.",
    )
    return Part(sections=(section,))
