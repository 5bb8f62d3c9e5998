"""Simulate `ab` whose pairs are correlated, and count the false alarms; and what the caution costs independent pairs.

    python docs/evidence/correlated_pairs.py

The log ratio of a pair is a normal number. Its correlation with that of the next pair is r, with the one after r^2, and
so on (an AR(1) process that has no beginning). Nothing differs between the sides, so every `slower` and `faster` is
false. The verdicts are read as `ab` reads them: after half, three quarters and all of the pairs. The former rule took
all pairs as independent.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlpbench.judging import statistics as stats
from mlpbench.judging.evidence import Evidence, ProcessEvidence
from mlpbench.judging.judgement import PAIRED_MARGIN_RATIO, Margins
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import ALPHA, judge, looks

COUNT = 1000
CORRELATIONS = (0.0, 0.5, 0.8, 0.95)
Rule = Callable[[NDArray[np.float64], bool, float], str]


def former(differences: NDArray[np.float64], is_early: bool, alpha: float) -> str:  # noqa: ARG001, FBT001
    """Return the verdict by the former rule."""
    effect = stats.paired_effect(differences.tolist())
    interval = effect.interval(1 - alpha)
    if effect.p_beyond(PAIRED_MARGIN_RATIO) <= alpha:
        return "slower" if effect.log_ratio > 0 else "faster"
    is_within = interval.low >= 1 / PAIRED_MARGIN_RATIO and interval.high <= PAIRED_MARGIN_RATIO
    return "same" if is_within else "inconclusive"


def present(differences: NDArray[np.float64], is_early: bool, alpha: float) -> str:  # noqa: FBT001
    """Return the verdict by the present rule."""
    benchmark = Benchmark(Metric.SECONDS, "ab/train_step")

    def side(values: list[float]) -> dict[Benchmark, Evidence]:
        processes = {str(pair): ProcessEvidence(value=math.exp(value)) for pair, value in enumerate(values)}
        return {benchmark: Evidence(environment={}, processes=processes)}

    base, new = side([0.0] * len(differences)), side(differences.tolist())
    (comparison,) = judge(base, new, Margins(), is_paired=True, is_early=is_early, alpha=alpha).comparisons
    return comparison.verdict


def draws(correlation: float, noise: float, pairs: int, seed: int = 0) -> NDArray[np.float64]:
    """Return log ratios: `COUNT` runs of so many pairs, `(COUNT, pairs)`."""
    shocks = np.random.default_rng(seed).normal(0, noise, (COUNT, pairs))
    values = shocks.copy()
    for pair in range(1, pairs):
        values[:, pair] = correlation * values[:, pair - 1] + math.sqrt(1 - correlation**2) * shocks[:, pair]
    return values


def run(differences: NDArray[np.float64], rule: Rule) -> tuple[str, int]:
    """Return the verdict of a run that stops as soon as it has one, and its number of pairs."""
    pairs = len(differences)
    for count in looks(pairs):
        verdict = rule(differences[:count], count < pairs, ALPHA / len(looks(pairs)))
        if verdict != "inconclusive":
            break
    return verdict, count


def false_alarms(rule: Rule, correlation: float, noise: float, pairs: int) -> float:
    """Return the share of runs without a change that end with `slower` or `faster`."""
    verdicts = [run(differences, rule)[0] for differences in draws(correlation, noise, pairs)]
    return sum(verdict in ("slower", "faster") for verdict in verdicts) / COUNT


def smallest_found(rule: Rule, noise: float, pairs: int) -> tuple[float, float]:
    """Return the change that is found in 80 % of runs with independent pairs, and the mean number of pairs for it."""
    values = draws(0.0, noise, pairs)
    low, high = 0.0, 0.128
    for _ in range(8):
        change = (low + high) / 2
        results = [run(differences + change, rule) for differences in values]
        is_found = sum(verdict == "slower" for verdict, _ in results) >= 0.8 * COUNT
        low, high = (low, change) if is_found else (change, high)
    return math.exp(high) - 1, float(np.mean([count for _, count in results]))


def main() -> None:
    """Print both tables."""
    print(f"False alarms, {COUNT} runs each, by the former and the present rule:\n")
    print("| pairs | noise of a pair |", " | ".join(f"r = {r:g}" for r in CORRELATIONS), "|\n|---|---|---|---|---|---|")
    for pairs in (6, 9, 12):
        for noise in (0.01, 0.02):
            cells = [
                ", ".join(f"{false_alarms(rule, r, noise, pairs):.1%}" for rule in (former, present))
                for r in CORRELATIONS
            ]
            print(f"| {pairs} | {noise:.0%} | {' | '.join(cells)} |", flush=True)
    print("\nSmallest change found in 80 % of runs with independent pairs, and pairs measured on average:\n")
    print("| pairs | noise of a pair | former rule | present rule | larger by |\n|---|---|---|---|---|")
    for pairs in (6, 9, 12):
        for noise in (0.01, 0.02):
            (before, count), (after, later) = (smallest_found(rule, noise, pairs) for rule in (former, present))
            cells = f"{before:.1%}, {count:.1f} pairs | {after:.1%}, {later:.1f} pairs | {after / before - 1:.0%}"
            print(f"| {pairs} | {noise:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
