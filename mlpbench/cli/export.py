"""Write results in the format of another tool."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlpbench.errors import printable

if TYPE_CHECKING:
    from mlpbench.records.results import Results


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
    from mlpbench.judging.evidence import left_out
    from mlpbench.records import files

    convert = {
        "pytest-benchmark": formats.to_pytest_benchmark,
        "github-action-benchmark": formats.to_github_action_benchmark,
    }[parsed.format]

    def converted(results: "Results") -> Any:
        content = convert(results)
        note = left_out(results)
        if note:
            print(f"mlpbench: left out: {printable(note)}", file=sys.stderr)
        return content

    content = converted(read(parsed, parsed.paths)) if parsed.paths else read_newest(parsed, converted)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if parsed.output is None:
        sys.stdout.write(text)
    else:
        files.write(parsed.output, text)
        say(f"wrote {parsed.output}")
