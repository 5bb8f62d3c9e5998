"""RunConfig and its settings, grids, and the look-up of names."""

import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given

from mlpbench.config import RunConfig, digest_paths, format_value, grid, override, without_paths
from mlpbench.errors import InputError, choose
from tests.strategies import configs


def test_default_config_is_the_tutorials_workload():
    config = RunConfig()
    assert config.model == "mlp"
    assert config.hidden_sizes == (150, 150, 150)
    assert config.activations == ("relu", "tanh", "elu")
    assert config.batch_size == 100
    assert (config.optimizer, config.lr, config.weight_decay) == ("sgd", 0.02, 0.0)
    assert config.num_epochs == 133
    assert (config.dataset, config.device, config.engine, config.seed) == ("digits", "cpu", "eager", 0)


def test_single_activation_applies_to_every_hidden_layer():
    config = RunConfig(hidden_sizes=(8, 4), activations=("gelu",))
    assert config.activations == ("gelu", "gelu")
    assert config == RunConfig(hidden_sizes=(8, 4), activations=("gelu", "gelu"))


def test_number_of_activations_must_fit_the_hidden_layers():
    with pytest.raises(InputError, match="2 names for 3 hidden layers"):
        RunConfig(activations=("relu", "tanh"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_sizes", (150, 0, 150)),
        ("batch_size", 0),
        ("num_epochs", -1),
        ("num_threads", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-9),
        ("weight_decay", float("inf")),
    ],
)
def test_error_names_the_field_that_is_out_of_range(field, value):
    with pytest.raises(InputError, match=field) as caught:
        RunConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_values_at_the_edge_of_their_range_are_accepted():
    config = RunConfig(
        hidden_sizes=(1,),
        activations=("relu",),
        batch_size=1,
        num_epochs=1,
        num_threads=1,
        seed=2**63 - 1,
        lr=5e-324,
        momentum=0.0,
        weight_decay=0.0,
    )
    assert config.seed == 2**63 - 1


def test_text_of_the_default_config_is_default():
    assert str(RunConfig()) == "default"


@given(configs().filter(lambda config: config != RunConfig()))
def test_text_of_a_config_can_be_parsed_back(config):
    assert override(RunConfig(), str(config).split()) == config


@given(configs(), configs())
def test_settings_turn_any_config_into_any_other(base, target):
    settings = [f"{name}={format_value(getattr(target, name))}" for name in RunConfig.__slots__]
    assert override(base, settings) == target


def test_override_keeps_all_other_fields():
    base = RunConfig(seed=7, optimizer="adam")
    assert override(base, ["lr=0.5", "num_threads=none"]) == replace(base, lr=0.5)


def test_override_of_widths_keeps_a_single_activation():
    base = RunConfig(activations=("gelu",))
    assert override(base, ["hidden_sizes=9"]).activations == ("gelu",)


def test_override_with_an_unknown_field_lists_the_known_ones():
    with pytest.raises(InputError) as caught:
        override(RunConfig(), ["widht=3"])
    assert "'widht'" in str(caught.value)
    assert all(name in str(caught.value) for name in RunConfig.__slots__)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size=ten", "batch_size takes whole numbers, not 'ten'"),
        ("batch_size=1.5", "batch_size takes whole numbers, not '1.5'"),
        ("hidden_sizes=64,x", "hidden_sizes takes whole numbers, not '64,x'"),
        ("num_threads=many", "num_threads takes whole numbers, not 'many'"),
        ("lr=fast", "lr takes a number, not 'fast'"),
        ("lr", "field=value, not 'lr'"),
    ],
)
def test_override_with_a_wrong_value_says_what_is_expected(setting, message):
    with pytest.raises(InputError) as caught:
        override(RunConfig(), [setting])
    assert message in str(caught.value)


def test_override_checks_ranges():
    with pytest.raises(InputError, match="batch_size must be from 1 to 16,777,216, not 0"):
        override(RunConfig(), ["batch_size=0"])


def test_last_axis_of_a_grid_varies_fastest():
    combinations = grid(RunConfig(), optimizer=["sgd", "adam"], seed=[0, 1, 2])
    assert [(c.optimizer, c.seed) for c in combinations] == [(o, s) for o in ["sgd", "adam"] for s in [0, 1, 2]]


def test_grid_without_axes_is_the_base():
    assert grid(RunConfig(seed=3)) == [RunConfig(seed=3)]


def test_choose_lists_the_known_names():
    assert choose({"sgd": 1, "adam": 2}, "adam", "optimizer") == 2
    with pytest.raises(InputError, match="unknown optimizer 'sdg'; known: sgd, adam"):
        choose({"sgd": 1, "adam": 2}, "sdg", "optimizer")


def test_config_is_frozen():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.seed = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": "squareplus"}, r"activations must be a tuple of names, not 'squareplus'; .* \('squareplus'"),
        ({"hidden_sizes": 64}, r"hidden_sizes must be a tuple of whole numbers, not 64; for one, write \(64,\)"),
        ({"hidden_sizes": "64"}, "hidden_sizes must be a tuple"),
        ({"activations": ("relu", 3, "elu")}, "activations must be a name, not 3"),
        ({"batch_size": 10.0}, "batch_size must be a whole number, not 10.0"),
        ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"device": None}, "device must be a name, not None"),
    ],
)
def test_value_of_another_type_is_named_with_the_way_to_write_it(changes, message):
    with pytest.raises(InputError, match=message):
        RunConfig(**changes)


def test_lists_and_numbers_of_numpy_become_the_types_of_the_fields():
    config = RunConfig(hidden_sizes=[64, np.int64(32)], activations=["relu"], lr=1, batch_size=np.int32(10))
    assert config == RunConfig(hidden_sizes=(64, 32), activations=("relu", "relu"), lr=1.0, batch_size=10)
    assert str(config) == "hidden_sizes=64,32 activations=relu,relu batch_size=10 lr=1.0"
    assert hash(config) == hash(RunConfig(hidden_sizes=(64, 32), activations=("relu",), lr=1.0, batch_size=10))


# --- paths


def test_file_is_digested_by_its_content_and_another_path_by_its_text(tmp_path):
    texts = {}
    for folder, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lib.so").write_text(content)
        texts[folder] = digest_paths(str(tmp_path / folder / "lib.so"))
    assert texts["a"] == texts["b"] != texts["c"]
    missing = [digest_paths(str(tmp_path / folder / "missing.so")) for folder in "aab"]
    assert missing[0] == missing[1] != missing[2]
    # Of several paths, each counts.
    several = [digest_paths(f"{tmp_path / 'a' / 'lib.so'}:{tmp_path / folder / 'lib.so'}") for folder in "abc"]
    assert several[0] == several[1] != several[2]


@pytest.mark.parametrize("value", ["/", "a/b", "C:\\a", "/" * 5000, "/dev/zero", "/a\0b", "/\udcff"])
def test_digest_of_a_path_is_a_short_text_without_it(value):
    assert re.fullmatch(r"\(a path, sha256 [0-9a-f]{8}\)", digest_paths(value))


@pytest.mark.parametrize("value", ["", "4", "default", "a=b:c"])
def test_value_without_a_path_stays(value):
    assert digest_paths(value) == without_paths(value) == value
