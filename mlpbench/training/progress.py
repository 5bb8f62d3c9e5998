"""Show the progress of training.

A terminal gets a live bar and two lines for each run. Other outputs get a line for each epoch.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mlpbench.config import RunConfig
from mlpbench.records.kinds import EpochResult


def epoch_line(epoch: EpochResult, num_epochs: int) -> str:
    """Return the numbers of an epoch as one line."""
    return (
        f"epoch {epoch.index + 1}/{num_epochs}  "
        f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.4f}  "
        f"test loss {epoch.test_loss:.4f} accuracy {epoch.test_accuracy:.4f}  {epoch.train_s:.2f} s"
    )


class TrainingProgress:
    """Show the progress of a run for each config, within a `with` block, as the observer of `study.run`."""

    def __init__(self, configs: Sequence[RunConfig], console: Console) -> None:
        self._console = console
        self._num_runs = len(configs)
        self._run = 0
        self._numbers: dict[RunConfig, int] = {}
        self._epochs_left: dict[RunConfig, int] = {}
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=sum(config.num_epochs for config in configs))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, config: RunConfig, num_done: int = 0) -> None:
        """Show that a run starts, or goes on after `num_done` epochs."""
        self._run += 1
        self._config = config
        self._numbers[config] = self._run
        self._epochs_left[config] = config.num_epochs - num_done
        state = f", goes on after epoch {num_done}/{config.num_epochs}" if num_done else ""
        self._console.print(f"run {self._run}/{self._num_runs}: {config}{state}")
        self._bar.update(self._task, advance=num_done)

    def epoch(self, epoch: EpochResult, config: RunConfig | None = None) -> None:
        """Show an epoch of a run. Without a config, it belongs to the run that started last."""
        prefix = f"run {self._numbers[config]}/{self._num_runs}  " if config else ""
        config = config or self._config
        self._epochs_left[config] = config.num_epochs - epoch.index - 1
        if self._epochs_left[config] == 0 or not self._console.is_terminal:
            self._console.print(prefix + epoch_line(epoch, config.num_epochs))
        description = f"{prefix}epoch {epoch.index + 1}/{config.num_epochs}  test accuracy {epoch.test_accuracy:.4f}"
        self._bar.update(self._task, advance=1, description=description)

    def failure(self, config: RunConfig, reason: str) -> None:
        """Show that a run ended without a result, and count its remaining epochs as done."""
        self._console.print(f"run {self._numbers[config]}/{self._num_runs} has no result: {reason}")
        self._bar.update(self._task, advance=self._epochs_left[config])

    def note(self, text: str) -> None:
        """Show a text."""
        self._console.print(text)
