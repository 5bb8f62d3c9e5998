"""Record what a run computes, for another machine to verify."""

import argparse
from pathlib import Path

from mlpbench.cli.options import add_workload, positive, settings_of
from mlpbench.config import RunConfig, override

_NUM_STEPS = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "out", nargs="?", type=Path, metavar="OUT.json", help="certificate file (default: among this machine's results)"
    )
    parser.add_argument(
        "--engine", help="an engine of mlpbench itself, such as eager, fused or portable_fused (default: portable)"
    )
    parser.add_argument(
        "--steps", type=positive, default=_NUM_STEPS, metavar="N", help=f"default: {_NUM_STEPS}, an epoch"
    )
    parser.add_argument("--zoom", type=int, metavar="STEP", help="keep more values of this step")
    add_workload(parser)


def run(parsed: argparse.Namespace) -> None:
    """Run the first steps and write their certificate."""
    from mlpbench.certifying import certificate
    from mlpbench.certifying.certify import certify
    from mlpbench.cli.output import make_folder, say

    engine = [f"engine={parsed.engine}"] if parsed.engine else []
    config = override(RunConfig(engine="portable"), [*engine, *settings_of(parsed)])
    make_folder(parsed.out.parent if parsed.out else parsed.results)
    result = certify(config, parsed.steps, parsed.zoom)
    path = parsed.out or certificate.place(parsed.results, result)
    certificate.write(path, result)
    say(
        f"Wrote {path}: {result.num_entries:,} checksums of {result.num_steps} training steps "
        f"(engine {result.config.engine}, arithmetic {result.arithmetic})"
    )
