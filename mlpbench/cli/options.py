"""Define the options that several verbs share, and the types of their values."""

import argparse
import math
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

RESULTS = Path("results")
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


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


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


def seeds(text: str) -> CommaList[int]:
    """Parse seeds such as 0-4 or 0,3,7.

    >>> str(seeds("0-2,7"))
    '0,1,2,7'
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise argparse.ArgumentTypeError(f"seeds such as 0-4 or 0,3,7, not {text!r}")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"at least one seed; {text!r} has none")
    return CommaList(dict.fromkeys(numbers))


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
