"""Hold records of any number of files, and look them up."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar, cast

from mlpbench.config import RunConfig
from mlpbench.records.codec import DamageError
from mlpbench.records.kinds import (
    KINDS,
    Block,
    Check,
    Conditions,
    Ending,
    EpochResult,
    Measurement,
    Memory,
    Noise,
    Peak,
    Plan,
    R,
    Record,
    Session,
    Skip,
    TrainResult,
)

S = TypeVar("S", Session, Plan)
Place = tuple[float, int, bool, int]
"""A place in time: the sort key of sessions and plans."""


@dataclass(slots=True)
class Results:
    """Hold records of any number of files by kind, in the order of reading.

    `of` and `by_key` work for every kind; the properties give each kind its name.
    """

    problems: list[str] = field(default_factory=list)
    """One line for each damaged file."""
    _lists: dict[type[Record], list[Record]] = field(
        init=False, default_factory=lambda: {kind: [] for kind in KINDS.values() if kind.key is None}
    )
    _dicts: dict[type[Record], dict[str, Record]] = field(
        init=False, default_factory=lambda: {kind: {} for kind in KINDS.values() if kind.key is not None}
    )

    _num_files: int = field(init=False, default=0, compare=False)
    _times: dict[tuple[type[Record], str], Place] = field(init=False, default_factory=dict, compare=False)
    """The place in time of every session and plan, by kind and id."""
    _latest_s: dict[type[Record], float] = field(init=False, default_factory=dict, compare=False)
    """The latest time of a session or plan of the file that is read."""
    _rounds: set[tuple[str, int]] = field(init=False, default_factory=set)
    """The measurement and the round of every block."""

    def begin_file(self) -> None:
        """Note that the records that follow come from one file, in the order in which they were appended."""
        self._num_files += 1
        self._latest_s = {}

    def add(self, record: Record) -> None:
        """Add one record.

        Raises:
            DamageError: if the session, measurement or plan that the record points to is missing; or if there is
                another record with its key, or another block with its measurement and round.
        """
        kind = type(record)
        if kind.points_to:
            pointer = getattr(record, kind.points_to)
            if pointer not in self._dicts[KINDS[kind.points_to]]:
                raise DamageError(f"its {kind.points_to} {pointer!r} is missing")
        if isinstance(record, Block):
            place = record.measurement, record.round
            if place in self._rounds:
                raise DamageError(f"another block has its measurement and its round {record.round}")
            self._rounds.add(place)
        if kind.key:
            key = getattr(record, kind.key)
            if self._dicts[kind].setdefault(key, record) is not record:
                raise DamageError(f"another {kind.kind} has its {kind.key} {key!r}")
            if isinstance(record, Session | Plan):
                self._times.setdefault((kind, key), self._place_in_time(record))
        else:
            self._lists[kind].append(record)

    def _place_in_time(self, record: Session | Plan) -> Place:
        """Return the seconds since 1970, the number of the file, whether it is side B, and the position.

        A file only grows, so what was appended later is later, even if the clock was set back in between. The two
        processes of a pair start together, so B is taken as the later one.
        """
        try:
            instant = datetime.fromisoformat(record.started_at)
        except ValueError:
            raise DamageError(f"its started_at {record.started_at!r:.40} is not a time") from None
        instant_s = (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
        if self._num_files:
            instant_s = self._latest_s[type(record)] = max(instant_s, self._latest_s.get(type(record), instant_s))
        return instant_s, self._num_files, getattr(record, "side", "") == "b", len(self._times)

    def time_of(self, session: str) -> Place:
        """Return the sort key of a session: it is larger for a session that started later.

        Within a file the order of appending counts, because a clock can be set back. Between files the instants count,
        whatever their time zones, and then the order of reading.
        """
        return self._times[Session, session]

    def in_order(self, kind: type[S]) -> list[S]:
        """Return the sessions or the plans, the one that started last at the end; see `time_of`."""
        return sorted(self.by_key(kind).values(), key=lambda record: self._times[kind, record.id])

    def of(self, kind: type[R]) -> list[R]:
        """Return the records of a kind, in the order of reading."""
        return list(self.by_key(kind).values()) if kind.key else cast("list[R]", self._lists[kind])

    def by_key(self, kind: type[R]) -> dict[str, R]:
        """Return the records of a kind that has a key, by that key."""
        return cast("dict[str, R]", self._dicts[kind])

    def records(self) -> Iterator[Record]:
        """Yield every record, each after the one that it points to; sessions and plans in the order of time."""
        for kind in KINDS.values():
            if kind is Session:
                yield from self.in_order(Session)
            elif kind is Plan:
                yield from self.in_order(Plan)
            else:
                yield from self.of(kind)

    def whole(self) -> dict[str, list[Block]]:
        """Return the blocks of every complete measurement, by the id of the measurement."""
        blocks: dict[str, list[Block]] = {}
        for block in self.blocks:
            blocks.setdefault(block.measurement, []).append(block)
        return {name: group for name, group in blocks.items() if len(group) >= self.measurements[name].rounds}

    def unfinished(self) -> dict[tuple[str, RunConfig], list[EpochResult]]:
        """Return the epochs of every training run without a result, by the run of its sessions and by its config.

        An epoch that was repeated after an interruption counts once, as it was at last. The run that went on last is
        the last one.
        """
        epochs: dict[tuple[str, RunConfig], dict[int, EpochResult]] = {}
        for epoch in self.epochs:
            key = self.sessions[epoch.session].run, epoch.config
            # Taken out and put back, the run becomes the last one.
            epochs[key] = epochs.pop(key, {}) | {epoch.index: epoch}
        for result in self.train_results:
            epochs.pop((self.sessions[result.session].run, result.config), None)
        return {key: [each for _, each in sorted(of_run.items())] for key, of_run in epochs.items()}

    @property
    def newest_session(self) -> Session:
        """Return the session that started last, as `time_of` has it; `store.load` ensures that there is one."""
        return max(self.sessions.values(), key=lambda session: self.time_of(session.id))

    @property
    def sessions(self) -> dict[str, Session]:
        """Sessions by id."""
        return self.by_key(Session)

    @property
    def plans(self) -> dict[str, Plan]:
        """Plans by id."""
        return self.by_key(Plan)

    @property
    def measurements(self) -> dict[str, Measurement]:
        """Measurements by id."""
        return self.by_key(Measurement)

    @property
    def blocks(self) -> list[Block]:
        """Timed blocks of all measurements."""
        return self.of(Block)

    @property
    def epochs(self) -> list[EpochResult]:
        """Epochs of training runs, also of runs that were interrupted."""
        return self.of(EpochResult)

    @property
    def train_results(self) -> list[TrainResult]:
        """Results of training runs."""
        return self.of(TrainResult)

    @property
    def checks(self) -> list[Check]:
        """Reruns: each compared the bits of two runs."""
        return self.of(Check)

    @property
    def skips(self) -> list[Skip]:
        """Skipped operations."""
        return self.of(Skip)

    @property
    def endings(self) -> dict[str, Ending]:
        """Endings by the id of their plan."""
        return self.by_key(Ending)

    @property
    def conditions(self) -> dict[str, Conditions]:
        """Conditions by the id of their session."""
        return self.by_key(Conditions)

    @property
    def peaks(self) -> list[Peak]:
        """Peak rates."""
        return self.of(Peak)

    @property
    def memories(self) -> list[Memory]:
        """Peak memory of operations."""
        return self.of(Memory)

    @property
    def noises(self) -> list[Noise]:
        """Noise of benchmarks."""
        return self.of(Noise)
