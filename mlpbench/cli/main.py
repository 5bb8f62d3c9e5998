"""`mlpbench VERB`: the parser, and what every verb shares: exit codes and one line for bad input.

Exit codes: 0 done; 1 a confirmed regression, bits that differ, or a machine that is not fit; 2 bad input (one line on
standard error says what, where and what to do); 3 inconclusive, where that was to fail; 4 nothing to compare, or a
benchmark is missing; 70 a mistake of mlpbench; 130 interrupted.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import mlpbench
from mlpbench.cli import certificates, doctor, judge, measure, turns
from mlpbench.records import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that processes and worktrees are cleared away
    if getattr(parsed, "data", None):
        os.environ["MLPBENCH_DATA"] = parsed.data  # the environment, so that processes we start see it too
    try:
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except InputError as error:
        print(f"mlpbench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:  # noqa: BLE001 (Python's own exit code 1 would pass for a regression)
        traceback.print_exc()
        print("mlpbench: this is a mistake of mlpbench; please report it", file=sys.stderr)
        return 70
    except KeyboardInterrupt:
        print("mlpbench: interrupted; what was finished is in the results file", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlpbench", description=mlpbench.__doc__.splitlines()[0] if mlpbench.__doc__ else None)
    parser.add_argument("--version", action="version", version=f"mlpbench {mlpbench.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    measure.add_verbs(verbs)
    turns.add_verbs(verbs)
    judge.add_verbs(verbs)
    certificates.add_verbs(verbs)
    doctor.add_verbs(verbs)
    return parser
