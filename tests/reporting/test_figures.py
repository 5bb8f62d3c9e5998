"""Render every figure with hard cases, and measure that each text is inside the figure and none overlaps another."""

import itertools
import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mlpbench.config import RunConfig
from mlpbench.judging.metrics import Verdict
from mlpbench.reporting import curves
from mlpbench.reporting.figures import activations, canvas, certificates, history, timing, training, verdicts
from mlpbench.reporting.figures.axes import log_ticks, short_number, thinned
from tests.strategies import results, session, trained

LONG = "custom_leaky_relu,custom_sigmoid,custom_leaky_relu,package.module:factory_of_a_long_name"
HOSTILE = r"$\frac{$ _^ \x {}} %s <b>[/x] `" + "\x1b[31m \0 \ud800 \ufffe \u202e 漢字 \U0001f600"
SCALES = {"usual": 1e-3, "tiny": 1e-12, "huge": 1e9}


def names(count: int, text: str) -> list[str]:
    return [f"{text} {number}" for number in range(count)]


def blocks(categories: list[str], scale: float = 1e-3, machines: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {"machine": f"machine-{machine}", "device": "cpu", "category": name, "size": 2.0**index,
         "seconds": scale * (index + 1) * factor}
        for machine in range(machines)
        for index, name in enumerate(categories)
        for factor in (0.9, 1.0, 1.5)
    )  # fmt: skip


def engines(engine_names: list[str], gains: list[float], sizes: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {"engine": name, "machine": "m", "device": "cpu", "batch_size": 10 ** (size + 1), "width": 150,
         "gain_ratio": gain, "low_ratio": gain / 2, "high_ratio": math.inf if size else gain * 2}
        for size in range(sizes)
        for name, gain in zip(engine_names, itertools.cycle(gains), strict=False)
    )  # fmt: skip


def runs(*settings: dict, num_epochs: int = 3) -> pd.DataFrame:
    records = [trained(tuple(np.linspace(0.3, 0.97, num_epochs)), **fields) for fields in settings]
    return curves.epochs(results(session(), *records))


FOUR = runs(
    {"hidden_sizes": (16,) * 3},
    {"loader": "dataloader", "lr": 0.1},
    {"model": "package.module:a_model_of_a_very_long_name", "optimizer": "nesterov"},
    {"activations": ("custom_leaky_relu", "custom_sigmoid", "custom_leaky_relu"), "batch_size": 10_000},
)
MANY = runs(*({"lr": 0.001 * (number + 1), "hidden_sizes": (number + 1,) * 3} for number in range(30)), num_epochs=2)
ONE_EPOCH = runs({}, num_epochs=1)
LONG_RUN = runs({"dataset": "mnist"}, {"dataset": "mnist", "seed": 1}, num_epochs=133)
DIVERGED = ONE_EPOCH.assign(train_loss=math.nan, test_loss=math.inf)
WIDE_LOSS = runs({}, num_epochs=4).assign(train_loss=[1e6, 1.0, 1e-3, 1e-9])


def hostile_runs() -> pd.DataFrame:
    return FOUR.assign(label=FOUR["label"] + HOSTILE, dataset=HOSTILE, optimizer=HOSTILE)


def comparisons(benchmarks: list[str], ratios: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"benchmark": name, "verdict": verdict, "ratio": ratio, "low_ratio": ratio / 1.5, "high_ratio": ratio * 1.5,
         "margin_ratio": 1.03}
        for name, ratio, verdict in zip(benchmarks, itertools.cycle(ratios), itertools.cycle(Verdict), strict=False)
    )  # fmt: skip


def points(benchmarks: list[str], num_points: int, scale: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        {"machine": "m", "benchmark": name, "started_at": f"2026-{1 + number // 28:02}-{1 + number % 28:02}T00:00:00",
         "commit": f"{number:012x}-dirty", "torch": "2.11", "median_s": scale * (number + 1), "low_s": scale * 0.9,
         "high_s": scale * 2 * (number + 1), "control_s": 1.0, "level_s": scale, "is_change": number == 1}
        for name in benchmarks
        for number in range(num_points)
    )  # fmt: skip


def matrix(count: int, stage: str, name: str = "place") -> tuple[list[str], dict]:
    places = names(count, name)
    return places, {(a, b): "" if a == b else stage for a in places for b in places}


def drifts(places: list[str], norms: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"place": place, "step": 10**index, "relative_norm": norm}
        for place in places
        for index, norm in enumerate(norms)
    )


CASES = {
    **{f"times, {key}": lambda scale=scale: timing.times(blocks(names(3, "relu"), scale), "category")
       for key, scale in SCALES.items()},
    "times, one": lambda: timing.times(blocks(["forward"]), "category"),
    "times, 30 long, two machines": lambda: timing.times(blocks(names(30, LONG), machines=2), "category"),
    "times, hostile": lambda: timing.times(blocks([HOSTILE, "$x$"]), "category"),
    "gains, far apart": lambda: timing.gains(engines(names(4, "engine"), [0.37, 0.81, 20.0, 1.0])),
    "gains, alike": lambda: timing.gains(engines(["a", "b"], [1.001, 1.002])),
    "gains, 30 long in 4 sizes": lambda: timing.gains(engines(names(30, LONG), [0.001, 1.0, 5000.0], sizes=4)),
    "gains, one hostile": lambda: timing.gains(engines([HOSTILE], [2.0])),
    **{f"scaling, {key}": lambda scale=scale: timing.scaling(blocks(names(14, "x"), scale), "size", "size (units)")
       for key, scale in SCALES.items()},
    "scaling, one size": lambda: timing.scaling(blocks(["x"]), "size", "size (units)"),
    "scaling, 30 sizes, 3 machines": lambda: timing.scaling(blocks(names(30, "x"), machines=3), "size", "size (units)"),
    **{f"{quantity} curves, {key}": lambda frame=frame, quantity=quantity: training.label_curves(frame, quantity)
       for quantity in ("accuracy", "loss")
       for key, frame in {"four that differ": FOUR, "30": MANY, "one epoch": ONE_EPOCH, "133 epochs": LONG_RUN,
                          "diverged": DIVERGED}.items()},
    "accuracy curves, hostile": lambda: training.label_curves(hostile_runs(), "accuracy"),
    "tutorial, one epoch": lambda: training.tutorial_curve(runs({"dataset": "mnist"}, num_epochs=1)),
    "tutorial, all epochs": lambda: training.tutorial_curve(LONG_RUN),
    **{f"training, {quantity}, {key}": lambda frame=frame, quantity=quantity: training.training(frame, quantity)
       for quantity in ("accuracy", "loss")
       for key, frame in {"one epoch": ONE_EPOCH, "133 epochs": LONG_RUN, "diverged": DIVERGED,
                          "wide": WIDE_LOSS}.items()},
    "time to accuracy, four": lambda: training.time_to_accuracy(curves.targets(FOUR, 0.9), 0.9),
    "time to accuracy, 30": lambda: training.time_to_accuracy(curves.targets(MANY, 0.9), 0.9),
    "time to accuracy, never": lambda: training.time_to_accuracy(curves.targets(FOUR, 0.999), 0.999),
    "time to accuracy, hostile": lambda: training.time_to_accuracy(curves.targets(hostile_runs(), 0.9), 0.9),
    "activation functions": activations.activation_functions,
    "forest, one": lambda: verdicts.forest(comparisons(["ab/train_step"], [1.001])),
    "forest, 100 long": lambda: verdicts.forest(comparisons(names(100, LONG), [0.5, 1.0, 40.0])),
    "forest, far apart": lambda: verdicts.forest(comparisons(["a", "b"], [1e-6, 1e6])),
    "forest, open intervals": lambda: verdicts.forest(
        comparisons(["a", "b"], [1.1]).assign(low_ratio=0.0, high_ratio=math.inf)),
    "forest, hostile": lambda: verdicts.forest(comparisons([HOSTILE], [0.9])),
    "history, two points": lambda: history.history(points(["a"], 2)),
    "history, 12 long, 40 points": lambda: history.history(points(names(12, LONG), 40)),
    "history, hostile": lambda: history.history(points([HOSTILE], 3, 1e-9)),
    "matrix, two": lambda: certificates.equality_matrix(*matrix(2, "step 0 gradient linear3.weight")),
    "matrix, 12": lambda: certificates.equality_matrix(*matrix(12, "step 99999 loss")),
    "matrix, hostile": lambda: certificates.equality_matrix(*matrix(2, HOSTILE, HOSTILE)),
    "drift, 12 long": lambda: certificates.drift(drifts(names(12, LONG), [1e-9, 1e-5, 1e-3])),
    "drift, one point": lambda: certificates.drift(drifts(["a"], [1e-7])),
    "drift, hostile": lambda: certificates.drift(drifts([HOSTILE], [1e-300, 1e-3])),
    "drift, no distance": lambda: certificates.drift(drifts(["a"], [0.0])),
}  # fmt: skip


def texts_of(figure):
    """Return each visible text of a drawn figure with its box, in pixels; ticks outside their axis have none."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    with canvas.style():
        figure.draw(renderer)
        hidden = {
            id(label)
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
            for label in (tick.label1, tick.label2)
        }
        return [
            (text, text.get_window_extent(renderer))
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and id(text) not in hidden and text.figure is not None
        ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CASES)
def test_every_text_is_inside_the_figure_and_none_overlaps_another(name):
    figure = CASES[name]()
    boxes = texts_of(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert len(boxes) > 2
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        # A pixel is the rounding of the boxes.
        assert min(overlap) <= 1, (one, other)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name in CASES if "hostile" in name or "diverged" in name])
def test_hostile_text_becomes_a_picture_in_both_formats(name):
    figure = CASES[name]()
    assert canvas.png(figure, HOSTILE).startswith(b"\x89PNG")
    svg = canvas.svg(figure, "name", HOSTILE)
    assert svg.startswith("<svg")
    assert "<b>" not in svg
    assert "\x1b" not in svg


def test_dollar_signs_are_shown_as_they_are():
    svg = canvas.svg(timing.times(blocks(["$a_1$"]), "category"), "name", "")
    assert ">$a_1$<" in svg


# --- axes -------------------------------------------------------------------------------------------------------------


def ticks_of(axis) -> list[float]:
    low, high = sorted(axis.get_view_interval())
    return [tick for tick in axis.get_majorticklocs() if low <= tick <= high]


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 7, 133])
def test_epochs_have_whole_ticks(num_epochs):
    frame = runs({}, num_epochs=num_epochs)
    for figure in (training.training(frame, "loss"), training.label_curves(frame, "accuracy")):
        ticks = ticks_of(figure.axes[0].xaxis)
        assert ticks
        assert all(tick == round(tick) and 0 <= tick <= num_epochs + 1 for tick in ticks)


def test_axis_of_ratios_is_logarithmic_with_the_place_of_no_change():
    (axes,) = timing.gains(engines(["a", "b", "c"], [0.37, 0.81, 20.0])).axes
    assert axes.get_xscale() == "log"
    assert 1.0 in ticks_of(axes.xaxis)
    assert len(ticks_of(axes.xaxis)) >= 4
    assert axes.xaxis.get_major_formatter()(0.5) == "0.5×"


def test_logarithmic_axis_takes_values_that_have_no_place_on_it():
    with canvas.canvas(2) as (_, (axes,)):
        log_ticks(axes, "x", [0.0, -1.0, math.nan, math.inf], short_number)
    assert ticks_of(axes.xaxis)


def test_ticks_without_room_are_left_out():
    sizes = [float(size) for size in range(1, 1000)]
    chosen = thinned(sizes, short_number, 1.0, 1000.0)
    assert chosen[0] == 1.0
    assert 3 <= len(chosen) <= 20
    assert set(chosen) <= set(sizes)


# --- lines and titles -------------------------------------------------------------------------------------------------


def test_lines_differ_without_colour():
    (axes,) = training.label_curves(MANY, "accuracy").axes
    lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
    looks = {(str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}
    assert len(looks) == len(lines) == training.MAX_LINES


def test_each_activation_has_a_panel_with_its_name_and_its_derivative():
    figure = activations.activation_functions()
    panels = {axes.get_title(loc="left") or axes.get_title(): axes for axes in figure.axes}
    assert {"relu", "leaky_relu", "elu", "gelu"} <= set(panels)
    for axes in figure.axes:
        value, derivative = axes.lines
        assert value.get_linestyle() != derivative.get_linestyle()


@pytest.mark.parametrize(
    "figure",
    [
        training.training(ONE_EPOCH, "loss"),
        training.label_curves(ONE_EPOCH, "accuracy"),
        training.tutorial_curve(ONE_EPOCH),
        training.time_to_accuracy(curves.targets(ONE_EPOCH, 0.9), 0.9),
    ],
)
def test_figure_of_training_says_what_was_trained(figure):
    title = " ".join(figure.get_suptitle().split())
    for part in ("digits", "mlp", "150-150-150", "relu-tanh-elu", "sgd", "lr 0.02", "1 epoch", "seed 0"):
        assert part in title


def test_title_counts_what_varies():
    text = curves.description(FOUR)
    for part in ("2 models", "2 widths", "2 choices of activations", "2 optimizers", "2 learning rates", "3 epochs"):
        assert part in text


def test_picture_alone_has_a_title_that_the_page_does_not_repeat():
    figure = timing.times(blocks(["forward"]), "category")
    height = figure.get_figheight()
    with_title, without = canvas.png(figure, "Parts of a training step"), canvas.png(figure)
    assert int.from_bytes(with_title[20:24], "big") > int.from_bytes(without[20:24], "big")
    assert figure.get_figheight() == height
    assert "Parts" not in canvas.svg(figure, "name", "")


# --- settings of the user ---------------------------------------------------------------------------------------------


def test_style_of_the_user_changes_no_figure():
    expected = canvas.png(CASES["times, usual"]())
    with mpl.rc_context({"text.usetex": True, "font.size": 40, "savefig.bbox": "tight", "axes.facecolor": "red"}):
        assert canvas.png(CASES["times, usual"]()) == expected
        assert mpl.rcParams["font.size"] == 40


def test_figures_of_many_rows_stay_small_enough_to_store():
    figure = verdicts.forest(comparisons(names(5000, LONG), [1.0]))
    assert figure.get_figheight() <= canvas.MAX_HEIGHT_IN
    assert "more in the table" in figure.axes[0].get_xlabel()


def test_default_config_is_in_words_that_a_title_can_hold():
    assert len(curves.description(ONE_EPOCH)) < 3 * canvas.TITLE_WIDTH
    assert RunConfig().dataset in curves.description(ONE_EPOCH)
