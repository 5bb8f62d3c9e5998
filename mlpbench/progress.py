"""Show how training goes: a live bar and a line a run on a terminal, a line an epoch elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mlpbench.records import RunConfig
from mlpbench.trainer import Epoch


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
        self._console.print(f"run {self._run}/{self._num_runs}: {config}")

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of it is over."""
        line = epoch_line(epoch, self._config.num_epochs)
        is_last = epoch.index + 1 == self._config.num_epochs
        if is_last or not self._console.is_terminal:
            self._console.print(line)
        latest = f"epoch {epoch.index + 1}/{self._config.num_epochs}  test accuracy {epoch.test_accuracy:.4f}"
        self._live.update(self._task, advance=1, description=latest)
