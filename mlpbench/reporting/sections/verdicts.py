"""A judgement for people: its sentence, its tables and its page."""

import dataclasses
from collections import Counter

import pandas as pd

from mlpbench.judging.metrics import Metric, Verdict
from mlpbench.judging.verdict import Comparison, Judgement, Margins, judge_plan
from mlpbench.records.kinds import Plan
from mlpbench.reporting import figures
from mlpbench.reporting.section import Part, ReportData, Section

_HOW = (
    "Ratios are new over base, from the medians of fresh processes on the log scale{paired}, with a t interval. "
    "Slower or faster: the interval lies wholly beyond the margin, after Holm's correction over all benchmarks. Same: "
    "it lies within the margin. Else inconclusive: a change of the size under “finds” would have been seen four "
    "times out of five."
)

_LISTS = {
    "missing": "Missing: in base, not in new",
    "new": "New: in new, not in base",
    "changed": "Changed: of the same name, but another workload",
    "incomparable": "Not comparable: measured on other machines",
    "unreplicated": "No verdict: one process on a side, which says nothing about the next process",
}


def frame(judgement: Judgement, metric: Metric) -> pd.DataFrame:
    """A row per comparison of a metric, what needs attention first."""
    chosen = sorted(
        (c for c in judgement.comparisons if c.metric == metric), key=lambda c: list(Verdict).index(c.verdict)
    )
    return pd.DataFrame(_row(c) for c in chosen)


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
    """The outcome in one line.

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
        "without a verdict (one process)": judgement.unreplicated,
    }
    return "; ".join([", ".join(parts), *(f"{len(names)} {word}" for word, names in lists.items() if names)])


def sections_of(
    judgement: Judgement, commands: tuple[str, ...] = (), name: str = "verdicts", *, is_drawn: bool = True
) -> list[Section]:
    """The tables, with a figure of the ratios if there is a page for it, and what could not be compared."""
    made = []
    for metric in Metric:
        shown = frame(judgement, metric)
        if shown.empty:
            continue
        comparisons = [c for c in judgement.comparisons if c.metric == metric]
        is_paired = any(c.is_paired for c in comparisons)
        has_ratio = metric.is_statistical
        paired = ", of pairs that ran in turns" if is_paired else ""
        made.append(
            Section(
                name=f"{name}-{metric.replace('_', '-')}",
                title=f"{metric.quantity}: new against base",
                text=_HOW.format(paired=paired) if has_ratio else "Whether the same seed gave the same bits.",
                frame=shown,
                figure=figures.forest(_ratios(shown)) if has_ratio and is_drawn else None,
                alt=f"{metric.quantity}, new over base: {', '.join(map(_spoken, comparisons))}.",
                commands=commands,
            )
        )
    rows = [
        {"what": text, "benchmark": benchmark}
        for field, text in _LISTS.items()
        for benchmark in getattr(judgement, field)
    ]
    rows += [{"what": "Differs between base and new", "benchmark": fields} for fields in judgement.different]
    if rows:
        text = "What was not compared, and what else differs. A gate fails on what is missing unless told otherwise."
        made.append(Section(name=f"{name}-rest", title="Not compared", text=text, frame=pd.DataFrame(rows)))
    return made


def _ratios(shown: pd.DataFrame) -> pd.DataFrame:
    names = {"change": "ratio", "low_change": "low_ratio", "high_change": "high_ratio", "margin_change": "margin_ratio"}
    ratios = shown[["benchmark", "verdict", *names]].rename(columns=names)
    return ratios.assign(**{name: ratios[name] + 1 for name in names.values()})


def _spoken(c: Comparison) -> str:
    return f"{c.benchmark} {c.verdict}" if not c.metric.is_statistical else f"{c.benchmark} {c.ratio:.3f} {c.verdict}"


def title(plan: Plan) -> str:
    """What a plan compares."""
    return f"{' '.join(plan.b) or 'as it is'} against {' '.join(plan.a) or 'as it is'}"


def of_plans(data: ReportData) -> Part:
    """Make the sections of every `ab` among the results, the newest first; `aa` compares nothing but itself."""
    results = data.results
    sections: list[Section] = []
    for plan in sorted(results.plans.values(), key=lambda plan: plan.started_at, reverse=True):
        if not plan.a and not plan.b:
            continue
        judgement = judge_plan(results, plan, Margins(default_ratio=plan.margin_ratio))
        sections += [
            dataclasses.replace(section, title=f"{title(plan)}: {section.title.lower()}")
            for section in sections_of(judgement, (plan.command,), f"ab-{plan.id}")
        ]
    return Part(sections=tuple(sections))
