"""Records of any number of files, by kind."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlpbench.records.codec import _KIND_OF, DamageError
from mlpbench.records.kinds import (
    Block,
    Check,
    Conditions,
    Ending,
    Measurement,
    Memory,
    Noise,
    Peak,
    Plan,
    Record,
    Session,
    Skip,
    TrainResult,
)


@dataclass(slots=True)
class Results:
    """Records of any number of files, by kind, in reading order; `problems` has a line for each damaged file."""

    sessions: dict[str, Session] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    train_results: list[TrainResult] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)  # by plan
    conditions: dict[str, Conditions] = field(default_factory=dict)  # by session
    peaks: list[Peak] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    noises: list[Noise] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take one record in.

        Raises:
            ValueError: if it points to a session, measurement or plan that is not here.
        """
        kind = _KIND_OF[type(record)]
        pointer = _POINTERS.get(kind, "session")
        if pointer and getattr(record, pointer) not in getattr(self, f"{pointer}s"):
            raise DamageError(f"its {pointer} {getattr(record, pointer)!r} is missing")
        place, key = _PLACES[kind]
        if key:
            getattr(self, place)[getattr(record, key)] = record
        else:
            getattr(self, place).append(record)

    @property
    def newest_session(self) -> Session:
        """The session that started last; `load` sees to it that there is one."""
        return max(self.sessions.values(), key=lambda session: session.started_at)

    def whole(self) -> dict[str, list[Block]]:
        """By measurement, the blocks of those that were not cut short."""
        found: dict[str, list[Block]] = {}
        for block in self.blocks:
            found.setdefault(block.measurement, []).append(block)
        return {name: blocks for name, blocks in found.items() if len(blocks) >= self.measurements[name].rounds}

    def records(self) -> Iterator[Record]:
        """Every record, each after the one it points to."""
        first = ("sessions", "plans", "measurements")
        for name in (*first, *(place for place, _ in _PLACES.values() if place not in first)):
            found = getattr(self, name)
            yield from found.values() if isinstance(found, dict) else found


# Which field of a record names another that has to be there before it; a session, unless said otherwise.
_POINTERS = {"session": None, "plan": None, "block": "measurement", "ending": "plan"}

# Where Results keeps a kind, and by which field, if it is looked up.
_PLACES = {
    "session": ("sessions", "id"),
    "measurement": ("measurements", "id"),
    "block": ("blocks", None),
    "train_result": ("train_results", None),
    "check": ("checks", None),
    "skip": ("skips", None),
    "plan": ("plans", "id"),
    "ending": ("endings", "plan"),
    "conditions": ("conditions", "session"),
    "peak": ("peaks", None),
    "memory": ("memories", None),
    "noise": ("noises", None),
}
