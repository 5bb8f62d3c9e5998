"""Show how training goes: a live bar on a terminal, a line an epoch elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    """Progress over a number of runs; a context manager, and the observer of `study.run`."""

    def __init__(self, num_runs: int, console: Console) -> None:
        self._console = console
        self._num_runs = num_runs
        self._run = 0
        self._num_epochs = 0
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[latest]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

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
        self._num_epochs = config.num_epochs
        title = f"run {self._run}/{self._num_runs}: {config}"
        self._task = self._live.add_task(title, total=config.num_epochs, latest="")
        if not self._console.is_terminal:
            self._console.print(title)

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of it is over."""
        if self._console.is_terminal:
            latest = f"loss {epoch.train_loss:.4f}  test accuracy {epoch.test_accuracy:.4f}"
            self._live.update(self._task, advance=1, latest=latest)
        else:
            self._console.print(epoch_line(epoch, self._num_epochs))
