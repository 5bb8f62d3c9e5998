"""Report the results of `mlpbench time`: times, and changes between settings that ran interleaved."""

from mlpbench.reporting import frames
from mlpbench.reporting.section import Part, ReportData, Section


def make(data: ReportData) -> Part:
    """Make the section of times and, if several settings ran interleaved, the section of changes."""
    blocks = data.blocks
    if blocks.empty or not (blocks["suite"] == "time").any():
        return Part()
    blocks = blocks[blocks["suite"] == "time"]
    commands = frames.commands(data.results, set(blocks["session"]))
    timings = frames.timings(blocks)
    timings.insert(1, "workload", frames.labels(timings["config"].tolist()))
    sections = [
        Section(
            name="timed",
            title="Results of mlpbench time",
            text="The times of each setting, one row per setting.",
            frame=timings.drop(columns=["suite", "config"]),
            commands=commands,
        )
    ]
    ratios = frames.ratios(blocks)
    if not ratios.empty:
        sections.append(
            Section(
                name="in-turns",
                title="Interleaved comparisons",
                text="Settings that ran interleaved in one process, round by round. The change is that of the time "
                "from the baseline to the contender; below zero is faster. Low and high: a 95 % interval over rounds.",
                frame=ratios,
                commands=commands,
            )
        )
    return Part(sections=tuple(sections))
