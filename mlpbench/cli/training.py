"""Share what `train` and `study` have in common: they record epochs as they end, and go on after an interruption."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlpbench.config import RunConfig
from mlpbench.errors import printable

if TYPE_CHECKING:
    from mlpbench.cli.output import SessionFile
    from mlpbench.records.kinds import EpochResult, TrainResult
    from mlpbench.records.results import Results
    from mlpbench.training.resume import Interrupted

_GO_ON = "the same command with --resume goes on"


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add the option that goes on after an interruption."""
    parser.add_argument("--resume", action="store_true", help="go on with the same command that was interrupted")


class TrainingFile:
    """Append epochs and results of a command to its results file, and count them."""

    def __init__(self, file: "SessionFile", configs: Sequence[RunConfig], interrupted: "Interrupted | None") -> None:
        from mlpbench.training.resume import Starts

        self.path, self.session = file.path, file.session
        self._file, self._configs, self._interrupted = file, configs, interrupted
        starts = dict(interrupted.starts) if interrupted else {}
        self.start_of: Starts = Starts(file.path.parent, file.session.run, starts)
        self._num_epochs = sum(start.num_done for start in starts.values())
        self._num_runs = 0

    @classmethod
    def start(cls, parsed: argparse.Namespace, command: str, configs: Sequence[RunConfig], preset: str = "-") -> Self:
        """Start a session: a new one, or one that goes on.

        Raises:
            InputError: if there is nothing to go on with, or it cannot go on here; or if the file cannot be written.
        """
        from mlpbench.cli.output import SessionFile, say
        from mlpbench.training import checkpoint
        from mlpbench.training.resume import resolved

        interrupted = _find(parsed.results, command, configs) if parsed.resume else None
        if interrupted is None:
            file = SessionFile.start(parsed.results, command, preset)
            num_left = checkpoint.num_left(file.path.parent, map(resolved, configs))
            if num_left:
                say(f"interrupted before: {num_left} of {len(configs)} runs; --resume would have gone on with them")
        else:
            file = SessionFile.start(
                parsed.results, command, preset, run=interrupted.run, process=len(interrupted.sessions)
            )
        return cls(file, configs, interrupted)

    @property
    def configs(self) -> list[RunConfig]:
        """The configs that have no result yet."""
        from mlpbench.training.resume import resolved

        finished = self._interrupted.finished if self._interrupted else {}
        return [config for config in self._configs if resolved(config) not in finished]

    def __call__(self, record: "EpochResult | TrainResult") -> None:
        """Write a record."""
        from mlpbench.records.kinds import TrainResult

        self._file(record)
        is_result = isinstance(record, TrainResult)
        self._num_runs += is_result
        self._num_epochs += not is_result

    def results(self, records: Sequence["TrainResult"]) -> "Results":
        """Return these results and those from before the interruption, as if they were loaded from files."""
        from mlpbench.cli.output import as_results

        before = self._interrupted
        return as_results(
            self.session,
            [*(before.sessions if before else ()), *(before.finished.values() if before else ()), *records],
        )

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let an interrupt within the block say what there is, and how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._progress()) from None

    def _progress(self) -> str:
        configs = self.configs
        runs = f"{self._num_runs} of {len(configs)} runs, " if len(configs) > 1 else ""
        return f"{runs}{self._num_epochs} of {sum(c.num_epochs for c in configs)} epochs; {_GO_ON}"


def _find(root: Path, command: str, configs: Sequence[RunConfig]) -> "Interrupted":
    """Find the interrupted run of a command.

    Raises:
        InputError: if there is none, or it cannot go on here.
    """
    from mlpbench.records.results import Results
    from mlpbench.records.store import load
    from mlpbench.training import resume

    verb = " ".join(command.split(" ")[:2]).encode()
    paths = [path for path in root.rglob("*.jsonl") if path.is_file() and verb in path.read_bytes()]
    results = load(sorted(paths, key=lambda path: path.stat().st_mtime)) if paths else Results()
    for problem in results.problems:
        # The line that was being written when the run was killed is one.
        print(f"mlpbench: {printable(problem)}", file=sys.stderr)
    return resume.find(results, root, command, configs)
