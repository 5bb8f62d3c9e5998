"""Run `mlpbench VERB`: build the parser, and give every verb its exit codes and its one line for bad input.

`exits.py` has the exit codes.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import mlpbench
from mlpbench.cli import exits, streams
from mlpbench.errors import printable

# A verb is a module of this package with `add_arguments(parser)` and `run(parsed)`, which returns an `exits.Answer` or
# None. Its help stands here, so that only the module of the verb in use is imported.
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
        self.exit(2, printable(f"{self.prog}: {message} (see {self.prog} --help)") + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with streams.guarded() as (output, _), _interrupts() as interrupts:
        code, is_answer = _run(arguments, interrupts)
        if output is not None:
            # Only now does the last part of the output reach its reader.
            output.flush()
        if output is not None and output.failure is not None:
            code, line = exits.of_stream(output.failure, code, is_answer=is_answer)
            _report(line)
        return code


def _run(arguments: Sequence[str], interrupts: list[int]) -> tuple[int, bool]:
    """Run a verb. Return its exit code, and True if that is the answer of a verb that judges."""
    parsed = argparse.Namespace()
    try:
        parser = _parser(arguments)
        try:
            parser.parse_args(arguments, parsed)
        except SystemExit as end:
            # argparse has printed the help or the one line about the mistake.
            return int(end.code or 0), False
        if getattr(parsed, "data", None):
            os.environ["MLPBENCH_DATA"] = parsed.data  # the environment, so that child processes use the same folder
        outcome = parsed.run(parsed)
        return exits.of_outcome(outcome, getattr(parsed, "problems", ())), outcome is not None
    except BaseException as error:  # noqa: BLE001 (Python's own exit code 1 would mean a regression)
        # An interrupt in the middle of an import arrives as an error of the library that was loading.
        is_other = interrupts and not isinstance(error, KeyboardInterrupt)
        code, line = exits.of_error(KeyboardInterrupt() if is_other else error)
        if code == exits.INTERNAL:
            import traceback

            traceback.print_exc()
            line = "internal error in mlpbench; please report it"
        if code == exits.INTERRUPTED:
            # CPython notes an interrupt in an `exec` of a text, as dataclasses use it, and lets the process
            # die of the signal at its very end. The next `exec` of a text deletes the note.
            exec("")  # noqa: S102
        _report(line)
        return code, False


def _report(line: str | None) -> None:
    if line:
        print(f"mlpbench: {line}", file=sys.stderr)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Give a list that gets the number of every signal that ends the program, which is raised as KeyboardInterrupt.

    A terminated program cleans up its processes and worktrees as an interrupted one does. A signal that the parent
    process has switched off stays off.
    """
    import threading

    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in changed:
            signal.signal(number, before[number])


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
