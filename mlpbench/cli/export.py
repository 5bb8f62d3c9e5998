"""Write results in the format of another tool."""

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("format", choices=["pytest-benchmark", "github-action-benchmark"])
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="results files or folders (default: the newest file in results/ with measurements)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="output file (default: standard output)")


def run(parsed: argparse.Namespace) -> None:
    """Convert the results and write them."""
    from mlpbench.cli.output import read, read_newest, say
    from mlpbench.judging import formats
    from mlpbench.records import files

    convert = {
        "pytest-benchmark": formats.to_pytest_benchmark,
        "github-action-benchmark": formats.to_github_action_benchmark,
    }[parsed.format]
    content = convert(read(parsed, parsed.paths)) if parsed.paths else read_newest(parsed, convert)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if parsed.output is None:
        sys.stdout.write(text)
    else:
        files.write(parsed.output, text)
        say(f"wrote {parsed.output}")
