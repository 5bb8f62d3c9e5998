"""Define the options that several verbs share, and the types of their values."""

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

RESULTS = Path("results")
# Far beyond any use: these limits catch typing errors, before they take all memory.
MOST_SEEDS, MOST_JOBS = 10_000, 1_000
OPERATIONS_HELP = "forward, backward, forward_backward, optimizer_step, train_step, evaluate or epoch"


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to run, and where results go."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the workload, for example batch_size=10; an unknown field lists all of them",
    )
    parser.add_argument("--dataset", help="digits, mnist, fashion_mnist or kmnist")
    parser.add_argument("--device", help="cpu, cuda or auto")
    add_data(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where results are appended")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of the data sets."""
    parser.add_argument("--data", metavar="DIR", help="folder of the data sets (default: $MLPBENCH_DATA)")


def settings_of(parsed: argparse.Namespace) -> list[str]:
    """Return every `field=value` on the command line, whichever option gave it."""
    settings = [f"{name}={getattr(parsed, name)}" for name in ("dataset", "device") if getattr(parsed, name)]
    if getattr(parsed, "epochs", None) is not None:
        settings.append(f"num_epochs={parsed.epochs}")
    return [*settings, *parsed.set]


def up_to(most: int) -> Callable[[str], int]:
    """Return a function that parses a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        number = _number(text)
        if number is None or not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"a whole number from 1 to {most:,}, not {_short(text)}")
        return number

    return parse


def _number(text: str) -> int | None:
    """Return the whole number that a text is; None for any other text, and for a number of more than 20 digits."""
    return int(text) if text.isdecimal() and len(text) <= 20 else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


positive = up_to(1_000_000)


def fraction(text: str) -> float:
    """Parse an accuracy above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"an accuracy above 0 and at most 1, not {text!r}")
    return value


class CommaList(tuple[T, ...]):
    """Hold the values of a comma-separated option, and format them as that option takes them."""

    __slots__ = ()

    def __str__(self) -> str:
        """Join the values by commas."""
        return ",".join(map(str, self))


class Seeds(tuple[int, ...]):
    """Hold seeds, and format them as `--seeds` takes them."""

    __slots__ = ()

    def __str__(self) -> str:
        """Join the seeds by commas; successive ones become a range."""
        # Successive seeds have equal differences to their places.
        groups = itertools.groupby(enumerate(self), lambda item: item[1] - item[0])
        ranges = ([seed for _, seed in group] for _, group in groups)
        return ",".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else str(each[0]) for each in ranges)


def seeds(text: str) -> Seeds:
    """Parse seeds such as 0-4 or 0,3,7.

    >>> str(seeds("0-2,7"))
    '0-2,7'
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        ends = part.partition("-")
        first, last = _number(ends[0]), _number(ends[2] or ends[0])
        if first is None or last is None:
            raise argparse.ArgumentTypeError(f"seeds such as 0-4 or 0,3,7, not {_short(text)}")
        if last - first >= MOST_SEEDS or len(numbers) > MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"at most {MOST_SEEDS:,} seeds, not {_short(text)}")
        numbers |= dict.fromkeys(range(first, last + 1))
    if not 0 < len(numbers) <= MOST_SEEDS:
        most = f"at most {MOST_SEEDS:,} seeds" if numbers else "at least one seed"
        raise argparse.ArgumentTypeError(f"{most}, not {_short(text)}")
    return Seeds(numbers)


class Margin(float):
    """Hold a change that matters, as a ratio, and format it as `--margin` takes it."""

    __slots__ = ()

    def __str__(self) -> str:
        """Format the ratio as a change in percent.

        >>> str(Margin(1.05))
        '5%'
        """
        return f"{100 * (self - 1):g}%"


def margin(text: str) -> Margin:
    """Parse a change such as 5% or 0.05 into the ratio 1.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    # A number of 1 or more without % most likely means percent, so it is refused.
    if not 0 <= value < (10 if text.endswith("%") else 1):
        raise argparse.ArgumentTypeError(f"a change such as 5% or 0.05, not {text!r}")
    return Margin(1 + value)
