"""Check whether this machine is fit to time on."""

import argparse

from mlpbench.cli.exits import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")


def run(parsed: argparse.Namespace) -> Answer:
    """Print a line for each finding; the answer is bad if any of them is."""
    from mlpbench.machine import environment, fitness
    from mlpbench.reporting import terminal

    console = terminal.console()
    findings = fitness.check(environment.resolve_device(parsed.device))
    for finding in findings:
        sign = {True: "✓", False: "✗", None: "?"}[finding.is_fit]
        advice = f" -> {finding.advice}" if finding.is_fit is False else ""
        console.print(f"{sign} {finding.name}: {finding.observation}{advice}")
    bad = [finding.name for finding in findings if finding.is_fit is False]
    console.print(f"not fit to time on: {', '.join(bad)}" if bad else "fit to time on")
    return Answer(bool(bad))
