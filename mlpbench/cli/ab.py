"""Compare two settings, environments, interpreters or commits, with their processes interleaved."""

import argparse
import dataclasses

from mlpbench.cli.exits import Answer
from mlpbench.cli.gate import add_gate, margins_of, show_plan
from mlpbench.cli.pairs import PlanRequest, add_plan, base_of, measure
from mlpbench.config import override
from mlpbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    side = "field=value, env:NAME=VALUE, python=PATH, commit=REVISION; without any: this environment"
    parser.add_argument(
        "--a", nargs="+", action="extend", default=[], metavar="SETTING", help=f"the baseline side: {side}"
    )
    parser.add_argument(
        "--b", nargs="+", action="extend", default=[], metavar="SETTING", help="the other side, judged against A"
    )
    add_plan(parser, pairs=12)
    parser.add_argument("--blocked", action="store_true", help="measure one side after the other, not interleaved")
    add_gate(parser)


def run(parsed: argparse.Namespace) -> Answer:
    """Measure both sides, judge them, and return the answer of the gate."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import check_outputs
    from mlpbench.measuring.side import parse_side

    config = base_of(parsed)
    a, b = parse_side(parsed.a, config), parse_side(parsed.b, config)
    if parsed.blocked and parsed.time_limit:
        raise InputError("--time-limit ends after a pair, but --blocked has no pairs before its end; give one of them")
    check_outputs(parsed)
    whole = [dataclasses.replace(side, settings=(str(override(config, side.settings)),)) for side in (a, b)]
    if whole[0] == whole[1]:
        raise InputError("both sides are the same; give --a or --b a setting, or use `mlpbench aa`")
    request = PlanRequest(
        a=a,
        b=b,
        # A commit is recorded by its hash, since a branch moves.
        command=command_of(parsed, a=list(a.labels), b=list(b.labels)),
        margins=margins_of(parsed, 1.0),
        is_interleaved=not parsed.blocked,
        measures_all_pairs=parsed.all_pairs,
    )
    file = measure(parsed, request)
    return show_plan(parsed, file.results, file.plan, file.path)
