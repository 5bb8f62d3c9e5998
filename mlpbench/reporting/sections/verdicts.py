"""Report judgements: their verdicts in a sentence, in tables and in figures."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from mlpbench.errors import InputError
from mlpbench.judging.judgement import Comparison, Judgement, Margins, Omission
from mlpbench.judging.metrics import Metric, Verdict
from mlpbench.judging.verdict import judge_plan
from mlpbench.records.kinds import Plan
from mlpbench.reporting import formatting
from mlpbench.reporting.figures import verdicts as figures
from mlpbench.reporting.section import Part, ReportData, Section

_METHOD = (
    "The change is that from BASE to NEW (in ab, from A to B). It is computed from the medians of fresh processes on "
    "the log scale{paired}, with a t interval (low to high). Slower or faster: the whole interval lies beyond the "
    "margin, after Holm's correction over all benchmarks. Same: the interval lies within the margin. Otherwise "
    "inconclusive: a change as large as the smallest detectable one would have been found 4 times out of 5."
)

_LISTS = {
    "missing": "Missing: BASE has it, NEW does not",
    "new": "New: NEW has it, BASE does not",
    "changed": "Changed: the same name, but another workload",
    "incomparable": "Cannot compare: measured on different machines",
    "older": "Not compared: only another source, machine or stack has measured it",
}
_UNKNOWN_MACHINE = "Not known to be one machine: these facts were not recorded on both sides"
_UNREPLICATED = "No verdict: needs at least 2 processes per side; measure with --preset default (ab: more --pairs)"


def frame(judgement: Judgement, metric: Metric) -> pd.DataFrame:
    """Return a row per comparison of a metric, in the order of `Verdict`: those that need attention come first."""
    comparisons = sorted(
        (c for c in judgement.comparisons if c.metric == metric), key=lambda c: list(Verdict).index(c.verdict)
    )
    return pd.DataFrame(_row(c) for c in comparisons)


def _row(c: Comparison) -> dict[str, object]:
    if not c.metric.is_statistical:
        return {"benchmark": c.benchmark, "verdict": c.verdict, "base": bool(c.base), "new": bool(c.new)}
    return {
        "benchmark": c.benchmark,
        "verdict": c.verdict,
        f"base{c.metric.suffix}": c.base,
        f"new{c.metric.suffix}": c.new,
        "change": c.ratio - 1,
        "low_change": c.low_ratio - 1,
        "high_change": c.high_ratio - 1,
        "margin_change": c.margin_ratio - 1,
        "margin_from": c.margin_from,
        "finds_change": c.detectable_ratio - 1,
        "control_change": None if c.control_ratio is None else c.control_ratio - 1,
        "base_processes": c.num_base,
        "new_processes": c.num_new,
        "flagged_share": c.flagged_share,
    }


def sentence(judgement: Judgement) -> str:
    """Return the outcome in one line.

    >>> sentence(Judgement(comparisons=(), missing=("operations/forward",)))
    'nothing compared; 1 missing'
    """
    counts = Counter(c.verdict for c in judgement.comparisons)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]] or ["nothing compared"]
    lists = {
        "missing": judgement.missing,
        "new": judgement.new,
        "changed": judgement.changed,
        "not comparable": judgement.incomparable,
        "not judged": judgement.unjudged,
        "of another source, machine or stack only": judgement.older,
        "cannot find the change that must be found": [c for c in judgement.comparisons if c.is_blind],
        "without a verdict (fewer than 2 processes per side)": judgement.unreplicated,
    }
    return "; ".join([", ".join(parts), *(f"{len(names)} {word}" for word, names in lists.items() if names)])


def sections_of(
    judgement: Judgement,
    commands: tuple[str, ...] = (),
    name: str = "verdicts",
    *,
    sides: str = "NEW against BASE",
    is_drawn: bool = True,
) -> list[Section]:
    """Return a section per metric, and one with remarks if benchmarks have no verdict or the sides differ.

    Args:
        judgement: the verdicts.
        commands: the commands that measure again.
        name: the beginning of the sections' names.
        sides: the two sides, for the titles.
        is_drawn: make figures too; they are not needed if only tables are printed.
    """
    sections = []
    for metric in Metric:
        rows = frame(judgement, metric)
        if rows.empty:
            continue
        comparisons = [c for c in judgement.comparisons if c.metric == metric]
        paired = ", of interleaved pairs" if any(c.is_paired for c in comparisons) else ""
        has_ratio = metric.is_statistical
        sections.append(
            Section(
                name=f"{name}-{metric.replace('_', '-')}",
                title=f"{metric.quantity}: {sides}",
                text=_METHOD.format(paired=paired) if has_ratio else "Did the same seed give the same bits again?",
                frame=rows,
                figure=figures.forest(_ratios(rows)) if has_ratio and is_drawn else None,
                alt=f"{metric.quantity}, {sides}: {', '.join(map(_in_words, comparisons))}.",
                commands=commands,
            )
        )
    remarks = _remarks(judgement)
    if remarks:
        text = (
            "Benchmarks without a verdict, measurements that do not count, and other differences between the sides. "
            "The gate fails if a benchmark is missing, changed, not comparable, not judged or measured in too few "
            "processes, unless --allow-missing is given."
        )
        sections.append(Section(name=f"{name}-rest", title=f"Remarks: {sides}", text=text, frame=pd.DataFrame(remarks)))
    return sections


def _remarks(judgement: Judgement) -> list[dict[str, str]]:
    rows = [
        {"what": text, "benchmark": benchmark}
        for field, text in _LISTS.items()
        for benchmark in getattr(judgement, field)
    ]
    rows += [
        {"what": f"Not judged{_of(omission)}: {omission.reason}", "benchmark": omission.benchmark}
        for omission in judgement.unjudged
    ]
    if judgement.unreplicated:
        rows.append({"what": _UNREPLICATED, "benchmark": _counted(judgement.unreplicated)})
    rows += [
        {"what": text, "benchmark": c.benchmark}
        for c in judgement.comparisons
        for text in _limits(c, judgement.stopped)
    ]
    # One reason often holds for all benchmarks of a side, so they stand in one row.
    by_reason: dict[str, list[str]] = {}
    for omission in judgement.omitted:
        by_reason.setdefault(f"Left out{_of(omission)}: {omission.reason}", []).append(omission.benchmark)
    rows += [{"what": reason, "benchmark": _counted(names)} for reason, names in by_reason.items()]
    rows += [{"what": "Left out", "benchmark": processes} for processes in judgement.left_out]
    if judgement.unknown_machine:
        rows.append({"what": _UNKNOWN_MACHINE, "benchmark": ", ".join(judgement.unknown_machine)})
    rows += [{"what": remark, "benchmark": ""} for remark in judgement.remarks]
    return rows + [{"what": "Different between the sides", "benchmark": fields} for fields in judgement.different]


def _of(omission: Omission) -> str:
    return f" in {omission.side}" if omission.side else ""


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)}: {', '.join(names)}"


def _limits(c: Comparison, stopped: str) -> list[str]:
    """Return a sentence for each reason why the verdict on a benchmark is weaker than it could be."""
    texts = []
    measured = f"{c.num_new} pairs" if c.is_paired else f"{min(c.num_base, c.num_new)} processes on each side"
    end = f" (stopped: {stopped})" if stopped else ""
    if c.widening > 1:
        texts.append(
            f"Successive pairs are correlated ({c.pair_correlation:.2f}): "
            f"the interval is {c.widening:.1f} times as wide as that of independent pairs"
        )
    is_beyond = c.low_ratio > c.margin_ratio or c.high_ratio < 1 / c.margin_ratio
    if c.early_widening > 1 and c.verdict is Verdict.INCONCLUSIVE and is_beyond:
        texts.append(
            f"No verdict before the last planned pair: {measured} do not exclude that pairs are correlated{end}"
        )
    if c.is_blind:
        assert c.must_find_ratio is not None, "a comparison is blind to a change that was asked for"
        change, smallest = (formatting.change(ratio - 1) for ratio in (c.must_find_ratio, c.detectable_ratio))
        if c.margin_ratio >= c.must_find_ratio:
            advice = f"the margin alone is {formatting.change(c.margin_ratio - 1)} (set by: {c.margin_from})"
        elif c.num_needed is None:
            advice = "it cannot be estimated how much more to measure"
        else:
            unit = "pairs" if c.is_paired else "processes on each side"
            advice = f"about {c.num_needed} {unit} are needed, if the noise stays the same"
        texts.append(f"Could have missed {change}: {measured} find {smallest} or more{end}; {advice}")
    return texts


def _ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the changes of a frame of comparisons as ratios, for the figure."""
    names = {"change": "ratio", "low_change": "low_ratio", "high_change": "high_ratio", "margin_change": "margin_ratio"}
    ratios = rows[["benchmark", "verdict", *names]].rename(columns=names)
    return ratios.assign(**{name: ratios[name] + 1 for name in names.values()})


def _in_words(c: Comparison) -> str:
    if not c.metric.is_statistical:
        return f"{c.benchmark} {c.verdict}"
    low, high = (formatting.change(ratio - 1) for ratio in (c.low_ratio, c.high_ratio))
    return f"{c.benchmark} {formatting.change(c.ratio - 1)}, {low} to {high}: {c.verdict}"


def title(plan: Plan) -> str:
    """Return the two sides of a plan in words: `B (optimizer=adam) against A (unchanged)`."""
    return f"B ({' '.join(plan.b) or 'unchanged'}) against A ({' '.join(plan.a) or 'unchanged'})"


def of_plans(data: ReportData) -> Part:
    """Make the sections of every `ab` among the results, the newest first; `aa` compares nothing but itself.

    A plan that cannot be judged has a section that says why: the others have their verdicts all the same.
    """
    sections: list[Section] = []
    for plan in reversed(data.results.in_order(Plan)):
        if not plan.a and not plan.b:
            continue
        name, sides = f"ab-{plan.id}", title(plan)
        try:
            judgement = judge_plan(data.results, plan, Margins(default_ratio=plan.margin_ratio))
        except InputError as error:
            text = f"This comparison has no verdict: {error}."
            sections.append(Section(name=name, title=f"No verdict: {sides}", text=text, commands=(plan.command,)))
            continue
        sections += sections_of(judgement, (plan.command,), name, sides=sides)
    return Part(sections=tuple(sections))
