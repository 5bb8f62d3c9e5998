"""Report what `mlpbench time` measured: times, and ratios of settings that ran interleaved."""

from mlpbench.reporting import frames
from mlpbench.reporting.section import Part, ReportData, Section


def make(data: ReportData) -> Part:
    """Make the section of times and, if several settings ran interleaved, the section of ratios."""
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
            text="What mlpbench time measured, one row per setting.",
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
                text="Settings that ran interleaved in one process, round by round. The ratio is the time of the "
                "contender over the time of the baseline; below 1 is faster. Low and high: a 95 % interval over "
                "rounds.",
                frame=ratios,
                commands=commands,
            )
        )
    return Part(sections=tuple(sections))
