"""Say what to run: the fields of a workload, how text changes them, and the names that some fields take.

Uses the standard library only, so that every room can import it.
"""

import functools
import hashlib
import itertools
import math
import numbers
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlpbench.errors import InputError, choose

DEFAULT_TARGET = 0.9
"""The test accuracy that time-to-accuracy refers to, a fraction."""

# Far beyond any use: these limits catch typing errors.
_LIMITS = {"hidden_sizes": 2**16, "batch_size": 2**24, "num_epochs": 10**6, "num_threads": 2**9}


class Operation(StrEnum):
    """Name the operations of a trainer that can be timed."""

    FORWARD = "forward"
    BACKWARD = "backward"
    FORWARD_BACKWARD = "forward_backward"
    OPTIMIZER_STEP = "optimizer_step"
    TRAIN_STEP = "train_step"
    EVALUATE = "evaluate"
    EPOCH = "epoch"

    @property
    def is_part(self) -> bool:
        """True for a part of a training step, which not every engine can run alone."""
        return self in (self.FORWARD, self.BACKWARD, self.FORWARD_BACKWARD, self.OPTIMIZER_STEP)

    @property
    def is_long(self) -> bool:
        """True if one call lasts longer than a block: one call is one block, from a fresh state."""
        return self is Operation.EPOCH

    @property
    def waits_for_device(self) -> bool:
        """True if a call reads its result, and so ends only when the device has finished."""
        return self in (self.EVALUATE, self.EPOCH)


class Clock(StrEnum):
    """Name the three ways to time a step: device synchronised per block, per call, or by events on the device."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    DEVICE = "device"


class Loader(StrEnum):
    """Name the sources of batches: slices of tensors in memory, or the tutorial's per-sample DataLoader loop."""

    MEMORY = "memory"
    DATALOADER = "dataloader"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Describe a training run. Without arguments it is the 2020 tutorial's workload on the embedded data set.

    A single name in `activations` applies to every hidden layer. Only ranges are checked here; whether a name exists
    is checked where it is looked up.

    Raises:
        InputError: for a value out of range.
    """

    model: str = "mlp"
    hidden_sizes: tuple[int, ...] = (150, 150, 150)
    activations: tuple[str, ...] = ("relu", "tanh", "elu")
    dataset: str = "digits"
    loader: str = Loader.MEMORY.value
    batch_size: int = 100
    num_epochs: int = 133
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    """Used by the optimizers `momentum` and `nesterov` only."""
    weight_decay: float = 0.0
    engine: str = "eager"
    device: str = "cpu"
    """cpu, cuda or auto."""
    num_threads: int | None = None
    """Intra-op threads; None leaves the choice to PyTorch."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check types and ranges, and repeat a single activation for every hidden layer."""
        self._check_types()
        self._check_layers()
        self._check_ranges()

    def _check_types(self) -> None:
        """Check the types, because values from Python are not parsed; a list becomes a tuple."""
        for name, (item_type, is_tuple, is_optional) in _field_types().items():
            value = getattr(self, name)
            if is_tuple and not isinstance(value, tuple | list):
                raise InputError(
                    f"{name} must be a tuple of {_KINDS[item_type]}, not {value!r:.80}; for one, write ({value!r:.80},)"
                )
            if is_optional and value is None:
                continue
            items = tuple(_as(item_type, item, name) for item in (value if is_tuple else (value,)))
            object.__setattr__(self, name, items if is_tuple else items[0])

    def _check_layers(self) -> None:
        if not self.hidden_sizes:
            raise InputError("hidden_sizes must name at least one layer")
        if len(self.activations) == 1:
            object.__setattr__(self, "activations", self.activations * len(self.hidden_sizes))
        if len(self.activations) != len(self.hidden_sizes):
            raise InputError(
                f"activations has {len(self.activations)} names for {len(self.hidden_sizes)} hidden layers; "
                "give one name for each hidden layer, or a single name for all"
            )

    def _check_ranges(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else () if value is None else (value,):
                if not 1 <= number <= limit:
                    raise InputError(f"{name} must be from 1 to {limit:,}, not {format_value(value)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be from 0 to 2**63 - 1, not {self.seed}")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.momentum < 1):
            raise InputError(
                f"lr must be above 0, weight_decay at least 0 (both finite) and momentum in [0, 1); not lr={self.lr}, "
                f"weight_decay={self.weight_decay}, momentum={self.momentum}"
            )
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0; without momentum, use optimizer sgd")

    def __str__(self) -> str:
        """Return the fields that differ from the defaults, as `--set` takes them; `default` if none differs.

        >>> str(RunConfig(batch_size=10, hidden_sizes=(64,), activations=("relu",)))
        'hidden_sizes=64 activations=relu batch_size=10'
        >>> str(RunConfig())
        'default'
        """
        default = RunConfig()
        settings = [
            f"{f.name}={format_value(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(default, f.name)
        ]
        return " ".join(settings) or "default"


_KIND = {str: "a name", int: "a whole number", float: "a number"}
_KINDS = {str: "names", int: "whole numbers", float: "numbers"}


@functools.cache
def _field_types() -> dict[str, tuple[type, bool, bool]]:
    """Return for each field of a config: the type of its items, whether it is a tuple, and whether it may be None."""
    types_of: dict[str, tuple[type, bool, bool]] = {}
    for name, hint in typing.get_type_hints(RunConfig).items():
        options = typing.get_args(hint)
        types_of[name] = (options[0] if options else hint, typing.get_origin(hint) is tuple, type(None) in options)
    return types_of


def _as(kind: type, value: object, name: str) -> object:
    """Return the value of a field in its type; numbers of NumPy and whole numbers for numbers are fine."""
    expected = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise InputError(f"{name} must be {_KIND[kind]}, not {value!r:.80}")
    return kind(value)


def format_value(value: object) -> str:
    """Format the value of a field as `--set` takes it.

    >>> format_value((150, 150)), format_value(None)
    ('150,150', 'none')
    """
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def is_path(value: str) -> bool:
    """True if a text is a path, or holds one: no record may hold a path."""
    return "/" in value or "\\" in value


def without_paths(value: str) -> str:
    """Return the value, or the text `(a path)` if it is a path."""
    return "(a path)" if is_path(value) else value


def digest_paths(value: str, *, reads_files: bool = True) -> str:
    """Return the value, or a digest of what it names if it is a path, so that two paths are told apart.

    The digest is that of the files, so that the same library in another folder is the same. A path without a file is
    digested as text, and so is every path if `reads_files` is false.

    >>> digest_paths("4"), digest_paths("/no/such/file")
    ('4', '(a path, sha256 6e778f53)')
    """
    if not is_path(value):
        return value
    # A value may have several paths, as that of LD_PRELOAD, or paths among options.
    parts = [value] if _file_digest(value) else re.split(r"[\s:;,=]+", value)
    content = hashlib.sha256()
    for part in parts:
        named = _file_digest(part) if reads_files else None
        content.update((named or part).encode(errors="surrogateescape") + b"\n")
    return f"(a path, sha256 {content.hexdigest()[:8]})"


def _file_digest(name: str) -> str | None:
    """Return the digest of a file; None if there is no such file, or it cannot be read."""
    try:
        if not Path(name).is_file():
            return None
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # A text can be no path at all: too long, or with a null character.
    except (OSError, ValueError):
        return None


_LAYERS = ("hidden_sizes", "activations")
"""The fields that must fit each other."""


def override(config: RunConfig, settings: Iterable[str], later: Iterable[str] = ()) -> RunConfig:
    """Return the config with all `field=value` settings applied at once.

    `later` are settings that will change the result again. If widths and activations do not fit each other without
    them, they are applied already: other options may give the activations of a grid, or of both sides of a comparison.

    >>> override(RunConfig(), ["batch_size=10", "hidden_sizes=64,32", "activations=gelu"]).hidden_sizes
    (64, 32)
    >>> override(RunConfig(), ["hidden_sizes=64,32"], later=["activations=gelu"]).activations
    ('gelu', 'gelu')

    Raises:
        InputError: for an unknown field, or a value of the wrong type.
    """
    changes = _changes(settings)
    if "hidden_sizes" in changes and "activations" not in changes and len(set(config.activations)) == 1:
        changes["activations"] = config.activations[:1]
    sizes, activations = (changes.get(name, getattr(config, name)) for name in _LAYERS)
    if len(activations) not in (1, len(sizes)):
        changes |= {name: value for name, value in _changes(later).items() if name in _LAYERS and name not in changes}
    return replace(config, **changes)


def _changes(settings: Iterable[str]) -> dict[str, Any]:
    hints = typing.get_type_hints(RunConfig)
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"a setting is field=value, not {setting!r}")
        changes[name] = _parse(choose(hints, name, "field"), text, name)
    return changes


def _parse(hint: Any, text: str, name: str) -> Any:
    try:
        match hint:
            case type() if hint in (int, float, str):
                return hint(text)
            case types.UnionType():
                return None if text.lower() == "none" else int(text)
            case _:
                (item_type, _) = typing.get_args(hint)
                return tuple(item_type(item) for item in text.split(","))
    except ValueError:
        expected = "whole numbers" if "int" in str(hint) else "a number"
        raise InputError(f"{name} takes {expected}, not {text!r}") from None


def grid(base: RunConfig, **axes: Iterable[Any]) -> list[RunConfig]:
    """Combine the values of all axes on top of `base`; the last axis varies fastest.

    >>> [(c.optimizer, c.seed) for c in grid(RunConfig(), optimizer=["sgd", "adam"], seed=range(2))]
    [('sgd', 0), ('sgd', 1), ('adam', 0), ('adam', 1)]
    """
    return [replace(base, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
