"""Compare this machine with itself: its noise floor, and how often it would give a false alarm."""

import argparse

from mlpbench.cli.options import settings_of
from mlpbench.cli.pairs import PlanRequest, add_plan, measure
from mlpbench.config import RunConfig, override
from mlpbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_plan(parser, pairs=10)


def run(parsed: argparse.Namespace) -> None:
    """Measure the same side twice, record the noise floor, and print it."""
    from mlpbench.cli.command import command_of
    from mlpbench.judging import noise
    from mlpbench.judging.evidence import sides
    from mlpbench.judging.judgement import Margins
    from mlpbench.judging.verdict import judge
    from mlpbench.measuring.side import parse_side
    from mlpbench.reporting import terminal
    from mlpbench.reporting.sections import verdicts

    side = parse_side([], override(RunConfig(), settings_of(parsed)))
    if parsed.pairs < 5:
        raise InputError(f"a noise floor needs at least 5 pairs, not {parsed.pairs}")
    # The floor needs every pair, so no verdict ends the measuring.
    request = PlanRequest(a=side, b=side, command=command_of(parsed), margins=Margins(), measures_all_pairs=True)
    file = measure(parsed, request)
    console = terminal.console()
    for floor in noise.floors(file.results, file.plan, next(reversed(file.results.sessions))):
        file(floor)
        console.print(
            f"{floor.operation}: {floor.processes} processes compared with {floor.processes} later ones differ by at "
            f"most {100 * (floor.floor_ratio - 1):.1f} % in 95 % of {floor.comparisons} comparisons; "
            f"{floor.false_alarms} of them ended with a false slower or faster"
        )
    paired = judge(*sides(file.results, file.plan), Margins(), is_paired=True)
    console.print(f"interleaved: {verdicts.sentence(paired)}")
    console.print(f"results: {file.path}; `mlpbench compare` uses the floor as its margin on this machine")
