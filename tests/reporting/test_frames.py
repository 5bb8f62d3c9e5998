"""Frames of small hand-made results."""

import math
from dataclasses import replace

import pytest

from mlpbench.config import RunConfig
from mlpbench.judging import statistics as stats
from mlpbench.records.kinds import Peak
from mlpbench.reporting import curves, frames
from mlpbench.reporting.roofline import flops
from tests.strategies import (
    OTHER_ENVIRONMENT,
    blocks,
    changed,
    check,
    epoch,
    measurement,
    memory,
    replicated,
    results,
    session,
    skip,
    timed,
    trained,
)

OLD = session("s", started_at="2026-01-01T00:00:00+00:00")
NEW = session("new", started_at="2026-01-02T00:00:00+00:00")


def median_ms(*records) -> list[float]:
    """Return the medians that `timings` gives for these records."""
    return [1e3 * median_s for median_s in frames.timings(frames.blocks(results(*records)))["median_s"]]


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_name_only_the_fields_that_differ():
    configs = [RunConfig(batch_size=10, seed=1, lr=0.5), RunConfig(batch_size=10, seed=2, lr=0.25)]
    assert frames.labels(configs) == ["lr=0.5 seed=1", "lr=0.25 seed=2"]
    assert frames.labels(configs, without=["seed"]) == ["lr=0.5", "lr=0.25"]


def test_labels_of_equal_configs_are_the_differences_from_the_default():
    assert frames.labels([RunConfig(batch_size=10)] * 2) == ["batch_size=10"] * 2
    assert frames.labels([RunConfig()]) == ["default"]
    assert frames.labels([]) == []


def test_label_of_one_activation_for_all_layers_is_its_name_once():
    configs = [RunConfig(activations=("gelu",)), RunConfig()]
    assert frames.labels(configs) == ["activations=gelu", "activations=relu,tanh,elu"]


# --- times ------------------------------------------------------------------------------------------------------------


def test_block_is_seconds_per_call():
    frame = frames.blocks(results(OLD, measurement("m"), blocks("m", [2.0], iterations=50)))
    assert frame["seconds"].tolist() == [0.002]
    assert frame["iterations"].tolist() == [50]
    assert frame["machine"].tolist() == [OLD.environment.machine]


def test_timing_is_the_median_of_its_blocks_with_its_interval():
    times_ms = [9.0, 1.0, 2.0, 4.0, 3.0, 8.0, 5.0]
    (row,) = frames.timings(frames.blocks(results(OLD, timed("m", times_ms)))).to_dict("records")
    interval = stats.median_interval([value / 1e3 for value in times_ms])
    assert row["median_s"] == pytest.approx(0.004)
    assert (row["low_s"], row["high_s"]) == pytest.approx((interval.low, interval.high))
    assert row["coverage"] == interval.coverage
    assert row["num_blocks"] == 7
    assert row["samples_per_s"] == pytest.approx(100 / 0.004)
    assert row["settled"]


@pytest.mark.parametrize("sessions", [(OLD, NEW), (NEW, OLD)])
def test_newest_measurement_wins_whatever_the_reading_order(sessions):
    measured = {"s": timed("old", [1.0, 1.0], session="s"), "new": timed("m", [2.0, 2.0], session="new")}
    assert median_ms(*sessions, *(measured[one.id] for one in sessions)) == [2.0]


def test_measurement_without_blocks_hides_nothing():
    assert median_ms(OLD, NEW, timed("m", [1.0]), measurement("killed", session="new")) == [1.0]


@pytest.mark.parametrize(
    "difference", [{"operation": "forward"}, {"suite": "epochs"}, {"config": RunConfig(seed=1)}], ids=str
)
def test_measurement_of_something_else_hides_nothing(difference):
    assert median_ms(OLD, NEW, timed("m", [1.0]), timed("n", [2.0], session="new", **difference)) == pytest.approx(
        [1.0, 2.0]
    )


def test_each_machine_has_its_own_rows():
    other = replace(NEW, environment=OTHER_ENVIRONMENT)
    frame = frames.timings(frames.blocks(results(OLD, other, timed("m", [1.0]), timed("n", [2.0], session="new"))))
    assert frame["machine"].tolist() == [OLD.environment.machine, OTHER_ENVIRONMENT.machine]


def test_interleaved_measurements_of_other_groups_hide_nothing():
    a, b, c = (RunConfig(batch_size=size) for size in (1, 10, 100))
    first = [*timed("a1", [1.0], group="1", config=a), *timed("b1", [2.0], group="1", config=b)]
    second = [
        *timed("a2", [3.0], group="2", config=a, session="new"),
        *timed("c2", [4.0], group="2", config=c, session="new"),
    ]
    assert median_ms(OLD, NEW, first, second) == pytest.approx([1.0, 2.0, 3.0, 4.0])


# --- ratios -----------------------------------------------------------------------------------------------------------


def interleaved(*columns: list[float], configs: list[RunConfig] | None = None):
    """Return the blocks of one group, whose measurements are declared in this order and run in the reverse order."""
    configs = configs or [RunConfig(batch_size=10**number) for number in range(len(columns))]
    declared = [
        measurement(f"m{number}", suite="time", group="g", config=config) for number, config in enumerate(configs)
    ]
    in_order = [block for number, column in enumerate(columns) for block in blocks(f"m{number}", column)]
    shuffled = sorted(in_order, key=lambda block: (block.round, -int(block.measurement[1:])))
    return frames.blocks(results(OLD, declared, shuffled))


def test_ratios_pair_by_round():
    (row,) = frames.ratios(interleaved([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])).to_dict("records")
    assert row["time_ratio"] == pytest.approx(2)
    assert (row["low_ratio"], row["high_ratio"]) == pytest.approx((2, 2))
    assert (row["baseline_median_s"], row["contender_median_s"]) == pytest.approx((0.002, 0.004))
    assert row["num_rounds"] == 3


def test_baseline_is_the_first_measurement_that_was_declared():
    frame = frames.ratios(interleaved([1.0, 1.0], [2.0, 2.0], [4.0, 4.0]))
    assert frame["baseline"].tolist() == ["batch_size=1"] * 2
    assert frame["contender"].tolist() == ["batch_size=10", "batch_size=100"]
    assert frame["time_ratio"].tolist() == pytest.approx([2, 4])


def test_round_that_was_not_finished_is_left_out_of_ratios():
    (row,) = frames.ratios(interleaved([1.0, 1.0], [2.0, 2.0, 64.0])).to_dict("records")
    assert row["num_rounds"] == 2
    assert row["time_ratio"] == pytest.approx(2)


def test_setting_that_ran_alone_has_no_ratio():
    assert frames.ratios(interleaved([1.0, 1.0])).empty


def test_config_that_ran_interleaved_with_itself_has_a_ratio():
    (row,) = frames.ratios(interleaved([1.0, 1.0], [1.0, 1.0], configs=[RunConfig()] * 2)).to_dict("records")
    assert row["time_ratio"] == pytest.approx(1)


# --- training ---------------------------------------------------------------------------------------------------------


def test_epochs_count_from_zero_and_their_time_adds_up():
    frame = curves.epochs(results(OLD, trained((0.5, 0.75, 0.875), epoch_s=2.0)))
    assert frame["epoch"].tolist() == [0, 1, 2]
    assert frame["elapsed_s"].tolist() == [2.0, 4.0, 6.0]
    assert frame["test_accuracy"].tolist() == [0.5, 0.75, 0.875]
    assert set(frame["label"]) == {"relu,tanh,elu sgd"}


@pytest.mark.parametrize("sessions", [(OLD, NEW), (NEW, OLD)])
def test_newest_run_of_a_config_wins(sessions):
    runs = {"s": trained((0.5,), session="s"), "new": trained((0.75,), session="new")}
    frame = curves.epochs(results(*sessions, *(runs[one.id] for one in sessions)))
    assert frame["test_accuracy"].tolist() == [0.75]


def test_label_names_other_fields_that_vary_on_the_same_data():
    runs = [
        trained((0.5,), activations=("relu",), lr=0.5),
        trained((0.5,), activations=("relu",), lr=0.25, seed=1),
        trained((0.5,), optimizer="adam", lr=0.5, dataset="mnist"),
    ]
    frame = curves.epochs(results(OLD, *runs))
    assert frame["label"].tolist() == ["relu sgd lr=0.5", "relu sgd lr=0.25", "relu,tanh,elu adam"]


def test_accuracy_is_over_seeds_after_the_last_epoch():
    accuracies = [0.5, 0.625, 0.75]
    runs = [trained((0.99, value), seed=seed) for seed, value in enumerate(accuracies)]
    (row,) = curves.accuracies(curves.epochs(results(OLD, *runs))).to_dict("records")
    interval = stats.mean_interval(accuracies)
    assert row["mean_accuracy"] == pytest.approx(0.625)
    assert row["low_accuracy"] == pytest.approx(interval.low)
    assert row["high_accuracy"] == pytest.approx(interval.high)
    assert (row["min_accuracy"], row["max_accuracy"]) == (0.5, 0.75)
    assert row["train_accuracy"] == pytest.approx(0.615)
    assert (row["num_epochs"], row["num_seeds"], row["epoch_s"]) == (2, 3, 2.0)


def test_interval_of_an_accuracy_is_a_fraction_and_needs_two_seeds():
    one = curves.accuracies(curves.epochs(results(OLD, trained((0.5,)))))
    assert (one["low_accuracy"].isna().item(), one["high_accuracy"].isna().item()) == (True, True)
    two = curves.accuracies(curves.epochs(results(OLD, trained((0.01,)), trained((0.99,), seed=1))))
    assert (two["low_accuracy"].item(), two["high_accuracy"].item()) == (0.0, 1.0)


def test_accuracies_have_a_row_per_data_set_and_label():
    runs = [trained((0.5,)), trained((0.6,), dataset="mnist"), trained((0.7,), optimizer="adam")]
    frame = curves.accuracies(curves.epochs(results(OLD, *runs)))
    assert sorted(zip(frame["dataset"], frame["mean_accuracy"], strict=True)) == [
        ("digits", 0.5),
        ("digits", 0.7),
        ("mnist", 0.6),
    ]


def test_target_is_the_first_epoch_that_reaches_it():
    frame = curves.targets(curves.epochs(results(OLD, trained((0.5, 0.9, 0.8), epoch_s=2.0))), 0.9)
    assert frame["epochs_to_target"].tolist() == [2.0]
    assert frame["seconds_to_target"].tolist() == [4.0]


def test_run_that_misses_the_target_is_nan_and_is_counted():
    runs = [trained((0.5, 0.95), seed=0), trained((0.95, 0.5), seed=1), trained((0.5, 0.5), seed=2)]
    frame = curves.targets(curves.epochs(results(OLD, *runs)), 0.9)
    assert frame["epochs_to_target"].tolist()[:2] == [2.0, 1.0]
    assert math.isnan(frame["epochs_to_target"].iloc[2])
    assert math.isnan(frame["seconds_to_target"].iloc[2])
    (row,) = curves.time_to_accuracy(frame).to_dict("records")
    share = stats.share_interval(2, 3)
    assert (row["num_seeds"], row["num_reached"]) == (3, 2)
    assert (row["low_share"], row["high_share"]) == (share.low, share.high)
    assert (row["median_epochs"], row["median_s"]) == (2.0, 4.0)


def test_target_that_half_of_the_seeds_miss_has_no_finite_median():
    runs = [trained((0.95,), seed=0), trained((0.5,), seed=1)]
    (row,) = curves.time_to_accuracy(curves.targets(curves.epochs(results(OLD, *runs)), 0.9)).to_dict("records")
    assert (row["num_reached"], row["median_epochs"], row["median_s"]) == (1, math.inf, math.inf)


def test_against_tutorial_has_the_published_epochs_that_were_reached():
    runs = [trained((0.8, 0.88), seed=0), trained((0.82, 0.9), seed=1)]
    frame = curves.against_tutorial(curves.epochs(results(OLD, *runs)))
    assert frame["epoch"].tolist() == [0, 1]
    assert frame["published_test_accuracy"].tolist() == [0.8112, 0.8854]
    assert frame["published_train_accuracy"].tolist() == [0.5455, 0.8589]
    assert frame["mean_test_accuracy"].tolist() == pytest.approx([0.81, 0.89])
    assert frame["min_test_accuracy"].tolist() == [0.8, 0.88]
    assert frame["max_test_accuracy"].tolist() == [0.82, 0.9]
    assert frame["mean_train_accuracy"].tolist() == pytest.approx([0.8, 0.88])
    assert frame["num_seeds"].tolist() == [2, 2]


# --- reruns, skips and sessions ---------------------------------------------------------------------------------------


def test_rerun_has_equal_bits_if_there_is_no_first_difference():
    frame = frames.reruns(results(OLD, check("repeat"), check("threads", first_difference="step 0 loss")))
    assert frame["check"].tolist() == ["repeat", "threads"]
    assert frame["equal_bits"].tolist() == [True, False]
    assert frame["first_difference"].iloc[1] == "step 0 loss"
    assert frame["max_abs_difference"].iloc[1] == 1.5e-8


@pytest.mark.parametrize("sessions", [(OLD, NEW), (NEW, OLD)])
def test_newest_rerun_of_a_config_wins(sessions):
    checks = {"s": check(first_difference="step 3 loss"), "new": check(session="new")}
    frame = frames.reruns(results(*sessions, *(checks[one.id] for one in sessions), check(seed=1)))
    assert sorted(frame["equal_bits"]) == [True, True]
    assert sorted(frame["workload"]) == ["default", "seed=1"]


def test_skips_are_those_of_every_run_by_reason():
    frame = frames.skips(
        results(
            OLD,
            NEW,
            skip("no GPU", session="new", operation="forward"),
            skip("an old reason", session=OLD.id, operation="forward"),
            skip("no data", session="new", operation="epoch"),
            skip("no GPU", session="new", operation="backward"),
            skip("no GPU", session="new", operation="forward", seed=1),
        )
    )
    rows = frame[["started_at", "reason", "num_skipped", "operations"]].to_numpy().tolist()
    assert rows == [
        [NEW.started_at, "no GPU", 3, "backward (1), forward (2)"],
        [NEW.started_at, "no data", 1, "epoch (1)"],
        [OLD.started_at, "an old reason", 1, "forward (1)"],
    ]


def test_what_each_process_of_a_run_skips_counts_once():
    first, second = session("p", run="p"), session("q", run="p", process=1, started_at="2026-01-01T01:00:00+00:00")
    again = [skip("no GPU", session=name, operation="forward", benchmark="b") for name in ("p", "q")]
    alone = skip("no GPU", session="q", operation="backward", benchmark="c")
    (row,) = frames.skips(results(first, second, *again, alone)).to_dict("records")
    assert (row["started_at"], row["num_skipped"], row["num_benchmarks"]) == (first.started_at, 2, 2)


def test_benchmarks_that_skip_the_same_operation_count_each():
    records = [skip("no GPU", benchmark=f"clocks::train_step[{clock}]") for clock in ("latency", "device")]
    (row,) = frames.skips(results(OLD, *(replace(record, session=OLD.id) for record in records))).to_dict("records")
    assert (row["num_skipped"], row["num_benchmarks"], row["operations"]) == (2, 2, "train_step (2)")


def test_sessions_are_newest_first_and_name_changed_source():
    dirty = replace(NEW, environment=changed(NEW.environment, dirty=True))
    frame = frames.sessions(results(OLD, dirty))
    assert frame["started_at"].tolist() == [NEW.started_at, OLD.started_at]
    assert frame["source"].tolist() == ["0123abc (dirty)", "0123abc"]


@pytest.mark.parametrize("make", [frames.blocks, curves.epochs, frames.reruns, frames.skips])
def test_frame_of_nothing_is_empty(make):
    assert make(results(OLD)).empty


# --- several processes, peaks, memory ---------------------------------------------------------------------------------


def test_processes_of_one_run_are_one_row_with_an_interval_over_processes():
    times = [[1.0, 1.1, 5.0], [2.0, 2.1, 2.2], [3.0, 3.1, 3.2]]
    (row,) = frames.timings(frames.blocks(results(replicated(times, flags=("busy",))))).to_dict("records")
    assert (row["num_processes"], row["num_blocks"]) == (3, 9)
    assert [row[name] for name in ("median_s", "low_s", "high_s")] == pytest.approx([2.1e-3, 1.1e-3, 3.1e-3])
    assert row["flagged_share"] == 1.0


def test_newer_run_replaces_all_processes_of_an_older_one():
    old = replicated([[1.0]] * 5, run="o")
    new = replicated([[2.0]] * 2, run="n", started_at="2026-02-01T00:00:00+00:00")
    (row,) = frames.timings(frames.blocks(results(old, new))).to_dict("records")
    assert (row["num_processes"], row["median_s"]) == (2, 2e-3)


def test_incomplete_measurement_does_not_replace_a_complete_one():
    old = replicated([[1.0, 1.0]], run="o")
    cut = replicated([[2.0]], run="c", rounds=2, started_at="2026-02-01T00:00:00+00:00")
    assert frames.timings(frames.blocks(results(old, cut)))["median_s"].tolist() == [1e-3]
    assert frames.timings(frames.blocks(results(cut)))["median_s"].tolist() == [2e-3]


def test_time_has_its_share_of_the_hardware_limit_if_the_peak_is_known():
    peak = Peak(session="r0", device="cpu", num_threads=2, gemm_flops_per_s=1e11, copy_bytes_per_s=1e10)
    slower = replace(peak, gemm_flops_per_s=5e10)
    records = replicated([[1.0, 1.0]])
    (row,) = frames.timings(frames.blocks(results(records, peak, slower))).to_dict("records")
    assert row["roof_share"] == pytest.approx(flops("train_step", RunConfig(), 100) / 1e11 / 1e-3)
    assert math.isnan(frames.timings(frames.blocks(results(records)))["roof_share"].iloc[0])
    (rates,) = frames.peaks(results(records, peak, slower)).to_dict("records")
    assert (rates["product_gflops"], rates["copy_gb_per_s"]) == (100.0, 10.0)
    assert frames.peaks(results(records)).empty


def test_run_of_several_processes_is_one_row_of_the_sessions():
    (row,) = frames.sessions(results(replicated([[1.0]] * 5))).to_dict("records")
    assert row["num_processes"] == 5


def test_peak_memory_is_that_of_the_newest_session():
    sessions = [session("s"), session("t", started_at="2026-02-01T00:00:00+00:00")]
    frame = frames.memories(results(*sessions, memory(3000), memory(2000, session="t")))
    assert frame["peak_bytes"].tolist() == [2000]


# --- training runs that were interrupted


def test_interrupted_run_has_its_epochs_and_counts_in_no_other_frame():
    epochs = [epoch(0, 0.5, seed=7), epoch(1, 0.625, seed=7)]
    loaded = results(session("s"), epochs, trained((0.5, 0.75)))
    (row,) = curves.unfinished(loaded).to_dict("records")
    assert (row["workload"], row["epochs"]) == ("num_epochs=6 seed=7", "2 of 6")
    assert (row["train_accuracy"], row["test_accuracy"]) == (0.625, 0.625)
    assert set(curves.epochs(loaded)["seed"]) == {0}


def test_finished_run_is_not_interrupted():
    loaded = results(session("s"), epoch(0), trained((0.5,) * 6))
    assert curves.unfinished(loaded).empty
