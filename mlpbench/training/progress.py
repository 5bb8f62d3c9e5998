"""Show how training goes: a live bar and two lines a run on a terminal, a line an epoch elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mlpbench.config import RunConfig
from mlpbench.training.trainer import Epoch


def epoch_line(epoch: Epoch, num_epochs: int) -> str:
    """One epoch in one line."""
    return (
        f"epoch {epoch.index + 1}/{num_epochs}  "
        f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.4f}  "
        f"test loss {epoch.test_loss:.4f} accuracy {epoch.test_accuracy:.4f}  {epoch.train_s:.2f} s"
    )


class TrainingProgress:
    """Progress over the runs of these configs; a context manager, and the observer of `study.run`."""

    def __init__(self, configs: Sequence[RunConfig], console: Console) -> None:
        self._console = console
        self._num_runs = len(configs)
        self._run = 0
        self._numbers: dict[RunConfig, int] = {}
        self._epochs_left: dict[RunConfig, int] = {}
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task("", total=sum(config.num_epochs for config in configs))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def start(self, config: RunConfig) -> None:
        """A run begins."""
        self._run += 1
        self._config = config
        self._numbers[config] = self._run
        self._epochs_left[config] = config.num_epochs
        self._console.print(f"run {self._run}/{self._num_runs}: {config}")

    def epoch(self, epoch: Epoch, config: RunConfig | None = None) -> None:
        """An epoch is over: of that run, where several run at once; else of the one that began last."""
        whose = f"run {self._numbers[config]}/{self._num_runs}  " if config else ""
        config = config or self._config
        self._epochs_left[config] = config.num_epochs - epoch.index - 1
        if self._epochs_left[config] == 0 or not self._console.is_terminal:
            self._console.print(whose + epoch_line(epoch, config.num_epochs))
        latest = f"{whose}epoch {epoch.index + 1}/{config.num_epochs}  test accuracy {epoch.test_accuracy:.4f}"
        self._live.update(self._task, advance=1, description=latest)

    def lost(self, config: RunConfig, reason: str) -> None:
        """A run has ended without a result."""
        self._console.print(f"run {self._numbers[config]}/{self._num_runs} has no result: {reason}", markup=False)
        self._live.update(self._task, advance=self._epochs_left[config])
