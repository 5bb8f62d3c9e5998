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
from collections.abc import Callable, Sequence
from typing import NoReturn

import mlpbench
from mlpbench.errors import InputError

# A verb is a module of this package with `add_arguments(parser)` and `run(parsed) -> exit code`. Its help stands here,
# so that only the module of the verb in use is imported.
VERBS = {
    "env": "print machine and stack as JSON",
    "train": "train once; record the result and draw its loss and accuracy",
    "study": "train activations x optimizers x seeds",
    "time": "time one operation here, settings interleaved",
    "report": "make tables, figures, report.md and report.html of results",
    "export": "write results in another tool's format",
    "ab": "compare two settings, environments, interpreters or commits, interleaved (A, B, B, A ...)",
    "aa": "compare this machine with itself: its noise floor and false alarms",
    "compare": "judge NEW against BASE; the exit code is the gate",
    "baseline": "accept results as this machine's baseline, or show what is accepted",
    "check": "is this machine fit to time on? exit code 1 if not",
    "certify": "record what a run computes, for another machine to verify",
    "verify": "run a certificate again and compare: exit code 0 equal, 1 diverged, 2 could not check",
    "doctor": "do this machine's floating-point results match the reference? which settings change them?",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser(arguments).parse_args(arguments)
    import threading

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


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="mlpbench", description=mlpbench.__doc__.splitlines()[0] if mlpbench.__doc__ else None)
    parser.add_argument("--version", action="version", version=f"mlpbench {mlpbench.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    used = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text)
        if name == used:
            module = importlib.import_module(f"mlpbench.cli.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run, parser=verb)
    return parser
