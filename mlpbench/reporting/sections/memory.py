"""Report the peak memory of operations."""

from mlpbench.reporting import frames
from mlpbench.reporting.section import Part, ReportData, Section

_TEXT = (
    "The most memory that one process held, with data, model and libraries, from a separate pass that is not timed. "
    "Before: the memory that it held when the operation began."
)


def make(data: ReportData) -> Part:
    """Make the section, if memory was measured."""
    frame = frames.memories(data.results)
    if frame.empty:
        return Part()
    commands = frames.commands(data.results, {memory.session for memory in data.results.memories})
    return Part(sections=(Section(name="memory", title="Peak memory", text=_TEXT, frame=frame, commands=commands),))
