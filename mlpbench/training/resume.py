"""Go on with training runs that were interrupted, to the bits of runs that were not.

A run starts from its last checkpoint, which can be older than its last record of an epoch. So epochs may be repeated,
and their digests are compared with the recorded ones.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import mlpbench
from mlpbench.config import RunConfig
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.machine import environment
from mlpbench.machine.clock import now
from mlpbench.records.environment import NOT_SET, decides
from mlpbench.records.facts import Decides
from mlpbench.records.kinds import EpochResult, Session, TrainResult
from mlpbench.records.ranges import tidy
from mlpbench.records.results import Results
from mlpbench.training import checkpoint
from mlpbench.training.checkpoint import Checkpoint, State

DEFAULT_NUM_THREADS = torch.get_num_threads()
"""PyTorch's own thread count. It is read at import, because later a trainer may have changed it for the process."""
_SUFFIXES = (".py", ".cpp", ".h")
_MOST_COST = 0.05
"""The largest share of the time of training that checkpoints may take."""


def stack(config: RunConfig) -> checkpoint.Stack:
    """Return the facts that can change a bit of a run here, by the names of the parts in `Engine.depends_on`."""
    here = environment.current()
    software = here.stack.texts()
    # A machine chooses its vector level.
    capability = software.pop("cpu_capability")
    return {
        "source": {"source": _source()},
        "torch": _deciding(software),
        "machine": _deciding(here.hardware.texts() | {"cpu_capability": capability}),
        "threads": {"num_threads": str(config.num_threads or DEFAULT_NUM_THREADS)},
    }


def _deciding(facts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if Decides.BITS in decides(name)}


@functools.cache
def _source() -> str:
    """Return the digest of the source of mlpbench."""
    package = Path(mlpbench.__file__).parent
    sha256 = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in _SUFFIXES):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(package).as_posix()} {len(content)};".encode() + content)
    return sha256.hexdigest()[:16]


def resolved(config: RunConfig) -> RunConfig:
    """Return the config as records have it: with the device that `auto` stands for."""
    return replace(config, device=environment.resolve_device(config.device).type)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Say where a run begins, and where it stores its state."""

    run: str
    """The `run` of its sessions."""
    path: Path
    """The file of its checkpoints."""
    is_resumed: bool = False
    """True if it begins with the checkpoint in that file."""
    num_done: int = 0
    """The number of epochs in that checkpoint."""
    digests: Mapping[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """The digests of epochs that were recorded before, by the number of the epoch."""
    notes: tuple[str, ...] = ()
    """What there is to say when the run begins."""


class Keeper:
    """Store the state of a run after its epochs, as often as that costs little."""

    def __init__(self, start: Start, config: RunConfig, note: Callable[[str], None]) -> None:
        self._start, self._config, self._note = start, config, note
        self._stack = stack(config)
        self._written_at_s, self._cost_s = float("-inf"), 0.0
        self._is_off = not ENGINES[config.engine].has_state

    def first(self) -> Checkpoint | None:
        """Return the checkpoint to begin with; None for a run that begins from its initial parameters."""
        for note in self._start.notes:
            self._note(note)
        return _read(self._start.path, self._start.run, self._config) if self._start.is_resumed else None

    def add(self, epochs: list[EpochResult], state: Callable[[], State]) -> None:
        """Compare the last epoch with its record from before, and store the state, unless that was done just now."""
        last = epochs[-1]
        before = dict(self._start.digests.get(last.index, ()))
        if any(before.get(name, value) != value for name, value in last.digests):
            self._note(
                f"epoch {last.index + 1} of {self._config} has other bits than before the interruption: "
                "something that the records do not name has changed"
            )
        # The result follows at once.
        is_last = last.index + 1 == self._config.num_epochs
        if self._is_off or is_last or now() - self._written_at_s < self._cost_s / _MOST_COST:
            return
        start = now()
        try:
            checkpoint.write(
                self._start.path,
                Checkpoint(
                    run=self._start.run, config=self._config, stack=self._stack, epochs=tuple(epochs), state=state()
                ),
            )
        except InputError as error:
            # Training is worth more than the chance to interrupt it.
            self._note(f"no checkpoint of this run, so --resume would begin again: {error}")
            self._is_off = True
        self._written_at_s = now()
        self._cost_s = self._written_at_s - start


class Starts:
    """Give each config of a session its start. Finished runs have none."""

    def __init__(self, folder: Path, run: str, interrupted: Mapping[RunConfig, Start] | None = None) -> None:
        self._folder, self._run, self._interrupted = folder, run, interrupted or {}

    def __call__(self, config: RunConfig) -> Start:
        """Return the start of a run: where it was interrupted, or a new one."""
        config = resolved(config)
        new = Start(run=self._run, path=checkpoint.path_of(self._folder, self._run, config))
        return self._interrupted.get(config, new)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """Hold everything that exists of an interrupted command."""

    run: str
    sessions: tuple[Session, ...]
    finished: Mapping[RunConfig, TrainResult]
    starts: Mapping[RunConfig, Start]
    """The runs that have epochs, but no result."""


def find(results: Results, root: Path, command: str, configs: Iterable[RunConfig]) -> Interrupted:
    """Find the newest run of a command among results, and check that it can go on here.

    The command `train` also continues a run of the same config that was asked for in other words.

    Args:
        results: the records, files in the order of their last change.
        root: the folder of these results.
        command: the command, as its session has it.
        configs: the configs of the command.

    Raises:
        InputError: if there is no such run, if it is complete, if a checkpoint is damaged or of another run, or if it
            was made by a stack that may compute other bits.
    """
    configs = [resolved(config) for config in configs]
    # A record holds it like this.
    command = tidy(command)
    verb = " ".join(command.split(" ")[:2])
    recorded: list[EpochResult | TrainResult] = [*results.epochs, *results.train_results]
    same = {each.session for each in recorded if [each.config] == configs}
    runs = [
        session.run
        for session in results.sessions.values()
        if session.command == command or (session.id in same and session.command.startswith(f"{verb} "))
    ]
    if not runs:
        raise InputError(f"nothing to resume: no interrupted run of this command under {root}; leave --resume out")
    run = runs[-1]
    sessions = tuple(session for session in results.sessions.values() if session.run == run)
    ids = {session.id for session in sessions}
    finished = {each.config: each for each in results.train_results if each.session in ids}
    if all(config in finished for config in configs):
        raise InputError("nothing to resume: the newest run of this command is complete; `mlpbench report` shows it")
    unfinished = results.unfinished()
    starts = {
        config: _start(root, run, config, unfinished[run, config]) for config in configs if (run, config) in unfinished
    }
    return Interrupted(run=run, sessions=sessions, finished=finished, starts=starts)


def _start(root: Path, run: str, config: RunConfig, epochs: list[EpochResult]) -> Start:
    """Return the start of an interrupted run.

    Raises:
        InputError: as `find`.
    """
    folder = root / environment.current().machine
    path = checkpoint.path_of(folder, run, config)
    # The run may have begun on another machine.
    path = next((other for other in root.glob(f"*/{checkpoint.FOLDER}/{path.name}") if other.is_file()), path)
    digests = {epoch.index: epoch.digests for epoch in epochs}
    again = f"{config} begins again"
    if not ENGINES[config.engine].has_state:
        note = f"{again}: engine {config.engine} does not give its state, so there is no checkpoint"
        return Start(run=run, path=path, digests=digests, notes=(note,))
    if not path.exists():
        return Start(run=run, path=path, digests=digests, notes=(f"{again}: it has no checkpoint yet",))
    stored = _read(path, run, config)
    here = stack(config)
    for part in sorted(ENGINES[config.engine].depends_on):
        before = stored.stack.get(part, {})
        for name in sorted({*before, *here[part]}):
            was, now_is = (facts.get(name, NOT_SET) for facts in (before, here[part]))
            if was != now_is:
                raise InputError(
                    f"cannot resume {config}: engine {config.engine} may compute other bits here, because {name} was "
                    f"{was} and is {now_is}; train without --resume, or go on there"
                )
    return Start(run=run, path=path, is_resumed=True, num_done=len(stored.epochs), digests=digests)


def _read(path: Path, run: str, config: RunConfig) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises:
        InputError: if it is damaged, or of another run.
    """
    advice = "delete it, and --resume begins the run again"
    try:
        stored = checkpoint.read(path)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    indices = [epoch.index for epoch in stored.epochs]
    if (stored.run, stored.config) != (run, config) or indices != list(range(len(indices))):
        raise InputError(f"{path} is the checkpoint of another run; {advice}")
    return stored
