"""Check the words and the direction of each metric."""

import pytest

from mlpbench.judging.metrics import Benchmark, Metric, Verdict


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [
        (Metric.SECONDS, 0.1, -0.1),
        (Metric.PEAK_BYTES, 0.1, -0.1),
        (Metric.TEST_ACCURACY, -0.1, 0.1),
        (Metric.EQUAL_BITS, -1.0, 1.0),
    ],
)
def test_verdict_follows_the_direction_of_the_metric(metric, worse, better):
    assert metric.verdict(worse) is metric.words[0]
    assert metric.verdict(better) is metric.words[1]
    assert metric.words[0].is_regression
    assert not metric.words[1].is_regression


def test_only_worse_verdicts_are_regressions():
    assert {v for v in Verdict if v.is_regression} == {Verdict.SLOWER, Verdict.WORSE}


def test_values_are_the_names_in_files():
    assert list(map(str, Metric)) == ["seconds", "peak_bytes", "test_accuracy", "equal_bits"]
    assert list(map(str, Verdict)) == ["slower", "worse", "inconclusive", "faster", "better", "same"]


def test_only_bits_are_compared_without_statistics():
    assert [metric for metric in Metric if not metric.is_statistical] == [Metric.EQUAL_BITS]


def test_benchmark_shows_its_metric_unless_it_is_time():
    assert str(Benchmark(Metric.SECONDS, "x")) == "x"
    assert str(Benchmark(Metric.PEAK_BYTES, "x")) == "x (peak_bytes)"
    assert Benchmark(Metric.SECONDS, "x") == ("seconds", "x")
