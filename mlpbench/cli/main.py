"""Run `mlpbench VERB`: build the parser, and give every verb its exit codes and its one line for bad input.

Exit codes: 0 done; 1 a confirmed regression, bits that differ, or a machine that is not fit; 2 bad input (one line on
standard error says what, where and what to do); 3 inconclusive, with --fail-on inconclusive; 4 nothing comparable, or
a benchmark is missing; 70 an internal error; 130 interrupted; 141 the reader of the output has closed it.
"""

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import mlpbench
from mlpbench.errors import InputError

# A verb is a module of this package with HELP, `add_arguments(parser)` and `run(parsed) -> exit code`.
VERBS = (
    "env",
    "train",
    "study",
    "time",
    "report",
    "export",
    "ab",
    "aa",
    "compare",
    "baseline",
    "check",
    "certify",
    "verify",
    "doctor",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    parsed = _parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        # A terminated program cleans up its processes and worktrees as an interrupted one does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if getattr(parsed, "data", None):
        os.environ["MLPBENCH_DATA"] = parsed.data  # the environment, so that child processes use the same folder
    try:
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except InputError as error:
        print(f"mlpbench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # for example `mlpbench report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:  # noqa: BLE001 (Python's own exit code 1 would mean a regression)
        import traceback

        traceback.print_exc()
        print("mlpbench: internal error in mlpbench; please report it", file=sys.stderr)
        return 70
    except KeyboardInterrupt:
        print("mlpbench: interrupted; everything that was finished is in the results file", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlpbench", description=mlpbench.__doc__.splitlines()[0] if mlpbench.__doc__ else None)
    parser.add_argument("--version", action="version", version=f"mlpbench {mlpbench.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f"mlpbench.cli.{name}")
        verb = verbs.add_parser(name, help=module.HELP)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run, parser=verb)
    return parser
