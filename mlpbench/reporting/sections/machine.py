"""Report the machine and the protocol: summary, peak rates, skipped benchmarks, and how it was measured."""

from mlpbench.records.environment import UNKNOWN
from mlpbench.records.results import Results
from mlpbench.reporting import frames
from mlpbench.reporting.section import Part, ReportData, Section

_PEAKS = (
    "The best rates of a large float32 product and of a large copy (read and written). The column “% of hardware "
    "limit” of the tables above is the time that the products of a call would need at that rate, over the time that "
    "the call takes."
)
_SKIPPED = (
    "Everything that a run was asked for and did not measure, for each run, the newest first, by the reason. Skipped "
    "counts operations with their workloads, such as an engine on a device. What the options of a command left out, "
    "for example those of -k, was not asked for, and is not listed."
)
_PROTOCOL = (
    "The unit is a block: calls repeated for at least 20 ms (an epoch is one call) between two readings of a clock "
    "that first waits for the device. Before the first block the operation is repeated until two successive blocks "
    "agree within 2 % (warm-up stable), or until a time limit. Bars show blocks. Median, low and high describe the "
    "medians of the processes, or the blocks if there is one process. They are order statistics, which contain the "
    "true median with the given confidence. The blocks of one process are alike: they describe that process. So a "
    "small difference between two rows proves nothing; use mlpbench ab or mlpbench compare for verdicts. Disturbed "
    "blocks: something else ran at the same time. Below: the runs in this report."
)


def summary(results: Results) -> str:
    """Describe machine and software stack of the newest session in a sentence."""
    environment = results.newest_session.environment
    hardware, stack = environment.hardware, environment.stack
    gpu = f"{hardware.gpu_model} (CUDA {stack.cuda})" if hardware.has_gpu else "no CUDA device"
    cpus = str(stack.num_allowed_cpus)
    if hardware.num_cpus not in (None, stack.num_allowed_cpus):
        cpus += f" of {hardware.num_cpus}"
    memory = UNKNOWN if hardware.memory_bytes is None else f"{hardware.memory_bytes / 2**30:.0f} GiB"
    return (
        f"{hardware.cpu}, {cpus} CPUs ({stack.cpu_capability}), {memory}, {gpu}; {stack.os}, "
        f"Python {stack.python}, PyTorch {stack.torch} with {stack.num_threads} threads; "
        f"mlpbench {environment.mlpbench} at {environment.commit}"
        f"{' with uncommitted changes' if environment.dirty else ''}."
    )


def make(data: ReportData) -> Part:
    """Make the sections of peak rates and of skipped benchmarks."""
    sections = []
    peaks = frames.peaks(data.results)
    if not peaks.empty:
        sections.append(Section(name="peaks", title="Peak rates of the machine", text=_PEAKS, frame=peaks))
    skips = frames.skips(data.results)
    if not skips.empty:
        sections.append(Section(name="skipped", title="Skipped", text=_SKIPPED, frame=skips))
    return Part(sections=tuple(sections))


def protocol(data: ReportData) -> Part:
    """Make the last section: how everything was measured, and in which runs."""
    frame = frames.sessions(data.results)
    return Part(sections=(Section(name="protocol", title="How it was measured", text=_PROTOCOL, frame=frame),))
