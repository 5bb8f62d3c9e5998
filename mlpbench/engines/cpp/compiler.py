"""Run a C++ compiler: with a time limit, without input, and never longer than this process lives."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from mlpbench.errors import printable

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_MAX_OUTPUT = 100_000
_MAX_REASON = 300


class CompileError(Exception):
    """Report in one line why a source could not be compiled."""


def build(command: list[str], library: Path, *, limit_s: float, scratch: Path) -> None:
    """Run a command that compiles a library, with a limit in seconds.

    Raises:
        CompileError: if it fails, or makes no library.
        TimeoutError: if it takes longer.
        OSError: if it cannot be started.
    """
    library.unlink(missing_ok=True)
    code, output = run(command, limit_s=limit_s, scratch=scratch)
    if code:
        raise CompileError(_reason(code, output))
    if not library.is_file() or not library.stat().st_size:
        raise CompileError("it made no library; set CXX to a C++ compiler, or unset it")


def run(command: list[str], *, limit_s: float, scratch: Path) -> tuple[int, str]:
    """Run a compiler, and return its exit code and the beginning of its output.

    It works in `scratch`, where its temporary files go too. It ends with this process, however that ends: see
    supervisor.py.

    Raises:
        TimeoutError: if it takes longer than `limit_s`, in seconds; it is stopped, with the processes that it started.
        OSError: if it cannot be started.
    """
    # English messages, whatever the language of the user, so that errors can be told from warnings.
    env = os.environ | {"TMPDIR": str(scratch), "LC_ALL": "C"}
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(_SUPERVISOR), *command],
            stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=scratch,
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        _kill(process)

    timer = threading.Timer(limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None, "its output is a pipe"
        output = process.stdout.read(_MAX_OUTPUT)
        # The rest of an endless output is read, but not kept.
        while process.stdout.read(_MAX_OUTPUT):
            pass
        code = process.wait()
    finally:
        timer.cancel()
        _kill(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(writer)
    if is_late.is_set():
        raise TimeoutError(None, f"{command[0]} did not end within {limit_s:g} s, and was stopped")
    return code, output.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the supervisor and the processes of its group, unless it has ended: then its number may be another's."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _reason(code: int, output: str) -> str:
    """Return the first error in the output of a compiler, as one short line that a terminal can show."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line] or lines or [f"exit code {code}"]
    return printable(errors[0][:_MAX_REASON])
