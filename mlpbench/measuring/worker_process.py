"""Start a worker in a process of its own, and give it commands."""

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

# Commits before the packages have their worker at another place, and can be measured all the same.
_START = """
import runpy
try:
    import mlpbench.measuring
    worker = "mlpbench.measuring.worker"
except ModuleNotFoundError:
    worker = "mlpbench.worker"
runpy.run_module(worker, run_name="__main__")
"""


class WorkerProcess:
    """One worker, as its driver sees it."""

    def __init__(
        self, name: str, process: "subprocess.Popen[str]", errors: IO[str], emit: Callable[[Record], None]
    ) -> None:
        self._name, self._process, self._errors, self._emit = name, process, errors, emit

    @classmethod
    def start(cls, side: Side, source: Path | None, job: Mapping[str, Any], emit: Callable[[Record], None]) -> Self:
        """Start a worker of this side, from the source of a worktree if one is given, and send it its job.

        Raises:
            InputError: if the interpreter cannot be run.
        """
        name = f"side {job['side']} ({' '.join(side.labels) or 'as it is'})"
        environment = os.environ | side.variables
        if source is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
        if environment.get("MLPBENCH_DATA"):
            environment["MLPBENCH_DATA"] = str(Path(environment["MLPBENCH_DATA"]).resolve())
        # A file, because a pipe that nobody reads would fill up; `__exit__` closes it.
        errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # The path as it was given, since the Python of a virtual environment is a link.
        interpreter = Path(shutil.which(side.interpreter) or side.interpreter).absolute()
        try:
            process = subprocess.Popen(  # noqa: S603
                [interpreter, "-c", _START],
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
        """Give a command, and wait until it is done."""
        self._send(command)
        self.wait()

    def _send(self, content: Any) -> None:
        assert self._process.stdin is not None, "opened above"
        with suppress(BrokenPipeError):  # it has ended: `wait` finds out why
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def wait(self) -> None:
        """Pass on what the process records, until it answers.

        Raises:
            InputError: if it refuses the job, or ends.
        """
        assert self._process.stdout is not None, "opened above"
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                refused = json.loads(line)["answer"].get("refused")
                if refused:
                    raise InputError(f"{self._name}: {refused}")
                return
            try:
                record = decode(line)
            except ValueError as error:
                raise InputError(f"{self._name} measures in a way that this mlpbench cannot read: {error}") from None
            self._emit(record)
        code = self._process.wait()
        self._errors.seek(0)
        told = (self._errors.read().strip().splitlines() or [f"it ended with exit code {code}"])[-1]
        raise InputError(f"{self._name}: {told}")
