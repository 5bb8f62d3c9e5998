"""Make tables, figures, report.md and report.html of results."""

import argparse
from pathlib import Path

from mlpbench.cli.options import RESULTS, fraction
from mlpbench.config import DEFAULT_TARGET


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="results files or folders (default: the file in results/ that was written last)",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "report", metavar="DIR")
    parser.add_argument(
        "--target", type=fraction, default=DEFAULT_TARGET, help="accuracy for the time-to-accuracy table"
    )


def run(parsed: argparse.Namespace) -> None:
    """Build the report, print its tables and write its files."""
    from mlpbench.certifying import certificate
    from mlpbench.cli.output import make_folder, note_problems, read, read_newest
    from mlpbench.reporting import build, page, terminal

    results = read(parsed, parsed.paths) if parsed.paths else read_newest(parsed, lambda results: results)
    make_folder(parsed.output)
    folders = [path if path.is_dir() else path.parent for path in parsed.paths]
    certificates, damaged = certificate.find(folders or [RESULTS])
    note_problems(parsed, damaged)
    report = build.build(results, certificates.values(), parsed.target)
    path = page.write(report, parsed.output)
    console = terminal.console()
    terminal.show(report, console)
    console.print(f"report: {path}")
