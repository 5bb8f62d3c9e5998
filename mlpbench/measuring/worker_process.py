"""Start a worker in a process of its own, and send it commands."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from mlpbench.errors import InputError
from mlpbench.measuring.side import Side
from mlpbench.records.codec import decode
from mlpbench.records.kinds import Record

PROTOCOL = 1
"""The version of the commands that `mlpbench.measuring.worker` understands."""

# In older commits, without the package `measuring`, the worker is `mlpbench/worker.py`. They can be measured too.
_START = """
import ctypes, os, runpy, sys
if sys.platform == "linux":
    # As machine/parent.py does, which another commit may lack: end with the driver, also while computing.
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
try:
    import mlpbench.measuring
    worker = "mlpbench.measuring.worker"
except ModuleNotFoundError:
    worker = "mlpbench.worker"
runpy.run_module(worker, run_name="__main__")
"""


class WorkerProcess:
    """Hold the process of one worker, send its commands, and pass its records on."""

    def __init__(
        self, name: str, process: "subprocess.Popen[str]", errors: IO[str], emit: Callable[[Record], None]
    ) -> None:
        self._name, self._process, self._errors, self._emit = name, process, errors, emit

    @classmethod
    def start(cls, side: Side, source: Path | None, job: Mapping[str, Any], emit: Callable[[Record], None]) -> Self:
        """Start a worker of this side, and send it its job. `source` is the worktree to run, None for this source.

        Raises:
            InputError: if the interpreter cannot be run.
        """
        name = f"side {job['side']} ({' '.join(side.labels) or 'this environment'})"
        environment = os.environ | side.variables
        if source is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
        if environment.get("MLPBENCH_DATA"):
            environment["MLPBENCH_DATA"] = str(Path(environment["MLPBENCH_DATA"]).resolve())
        # A file, because a pipe that nobody reads would fill up; `__exit__` closes it.
        errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # Not resolved, because the Python of a virtual environment is a link.
        interpreter = Path(shutil.which(side.interpreter) or side.interpreter).absolute()
        try:
            process = subprocess.Popen(  # noqa: S603
                [interpreter, "-c", _START, str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, encoding="utf-8", env=environment, cwd=source,
            )  # fmt: skip
        except OSError as error:
            errors.close()
            raise InputError(f"{name}: cannot run {side.interpreter}: {error.strerror}") from None
        worker = cls(name, process, errors, emit)
        worker._send(job)
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, *command: Any) -> None:
        """Send a command, and wait until it is done.

        Raises:
            InputError: if the worker refuses the command, or ends.
        """
        self._send(command)
        self.wait()

    def _send(self, content: Any) -> None:
        assert self._process.stdin is not None, "`start` opens it"
        # If the process has ended, `wait` reports the reason.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def wait(self) -> None:
        """Pass the records of the process on until it answers.

        Raises:
            InputError: if the worker refuses the job or a command, sends a record of an unknown format, or ends.
        """
        assert self._process.stdout is not None, "`start` opens it"
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                refusal = json.loads(line)["answer"].get("refused")
                if refusal:
                    raise InputError(f"{self._name}: {refusal}")
                return
            try:
                record = decode(line)
            except ValueError as error:
                raise InputError(f"{self._name} sent a record that this mlpbench cannot read: {error}") from None
            self._emit(record)
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"the process ended with exit code {code}"]
        raise InputError(f"{self._name}: {lines[-1]}")
