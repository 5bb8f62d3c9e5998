"""Fresh processes: what one process cannot know about itself. Runs the plans of `ab` and `aa`.

The two processes of a pair start together, are warmed up one after the other, and then take turns, block by block,
while the other waits: a machine that changes its speed changes it for both.
"""

import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from mlpbench.config import RunConfig, override
from mlpbench.measuring.side import SIDES, Side, worktree
from mlpbench.measuring.worker_process import PROTOCOL, WorkerProcess
from mlpbench.records.kinds import Ending, Plan, Record, Session
from mlpbench.records.results import Results

# --- a plan -----------------------------------------------------------------------------------------------------------


def make_plan(
    a: Side,
    b: Side,
    *,
    command: str,
    operations: Sequence[str],
    config: RunConfig,
    pairs: int,
    rounds: int,
    interleaved: bool,
    margin_ratio: float | None = None,
) -> Plan:
    """A new plan; which side comes first is drawn."""
    plan_id = uuid.uuid4().hex[:12]
    return Plan(
        id=plan_id,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        a=a.labels,
        b=b.labels,
        operations=tuple(operations),
        config=config,
        pairs=pairs,
        rounds=rounds,
        first=random.Random(plan_id).choice(SIDES),  # noqa: S311 (an order, not a secret)
        interleaved=interleaved,
        margin_ratio=margin_ratio,
    )


def same_design(results: Results, wanted: Plan) -> Plan | None:
    """The newest plan that asks for the same as `wanted`."""

    def design(plan: Plan) -> tuple[object, ...]:
        return plan.a, plan.b, plan.operations, plan.config, plan.pairs, plan.rounds, plan.interleaved

    same = [p for p in results.plans.values() if design(p) == design(wanted)]
    return max(same, key=lambda plan: plan.started_at, default=None)


def finished(results: Results, plan: Plan) -> dict[int, Session]:
    """The plan's processes that measured everything they were to, by position; the last of those at one position."""
    whole = Counter(results.measurements[measurement].session for measurement in results.whole())
    return {s.process: s for s in results.sessions.values() if s.run == plan.id and whole[s.id] == len(plan.operations)}


def orders(first: str) -> Iterator[tuple[str, str]]:
    """ABBA from the first side on: which goes first in each turn.

    >>> [one + other for one, other in itertools.islice(orders("a"), 4)]
    ['ab', 'ba', 'ab', 'ba']
    """
    second = SIDES[first == SIDES[0]]
    return itertools.cycle(((first, second), (second, first)))


def run_plan(
    plan: Plan,
    sides: Mapping[str, Side],
    done: Mapping[int, Session],
    emit: Callable[[Record], None],
    *,
    preset: str,
    warm_up_s: float,
    on_pair: Callable[[int], str | None],
) -> None:
    """Measure the plan's pairs that are not `done`; process 2p and 2p + 1 are pair p.

    `on_pair` is told how many pairs there are after each that ran in turns, and gives the reason to stop, or None.

    Raises:
        InputError: if a side cannot run.
    """

    def job(side: str, process: int) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "command": plan.command,
            "preset": preset,
            "run": plan.id,
            "process": process,
            "side": side,
            "suite": "ab",
            "settings": _settings(override(plan.config, sides[side].settings)),
            "operations": plan.operations,
            "rounds": plan.rounds,
            "warm_up_s": warm_up_s,
            "has_peaks": process < 2,
            "takes_turns": plan.interleaved,
        }

    with ExitStack() as stack:
        sources = {side: stack.enter_context(worktree(sides[side].commit)) for side in SIDES}

        def start(stack: ExitStack, side: str, process: int) -> WorkerProcess:
            return stack.enter_context(WorkerProcess.start(sides[side], sources[side], job(side, process), emit))

        starts = itertools.islice(orders(plan.first), plan.pairs)
        if plan.interleaved:
            for pair, order in enumerate(starts):
                if {2 * pair, 2 * pair + 1} <= done.keys():
                    continue  # its verdicts were read, or shall not be read with the pairs after it
                with ExitStack() as running:
                    _measure(plan, {s: start(running, s, 2 * pair + place) for place, s in enumerate(order)})
                reason = on_pair(pair + 1)
                if reason:
                    emit(Ending(plan=plan.id, reason=reason))
                    return
        else:
            # side by side in the record, one after the other in time
            for side in SIDES if plan.first == "a" else SIDES[::-1]:
                for pair in range(plan.pairs):
                    process = 2 * pair + (side != plan.first)
                    if process not in done:
                        with ExitStack() as running:
                            _measure(plan, {side: start(running, side, process)})
        emit(Ending(plan=plan.id, reason=f"all {plan.pairs} pairs measured"))


def _settings(config: RunConfig) -> list[str]:
    text = str(config)
    return [] if text == "default" else text.split(" ")


def _measure(plan: Plan, processes: Mapping[str, WorkerProcess]) -> None:
    """One process alone, or two in turns."""
    for process in processes.values():
        process.wait()
    for process in processes.values():
        process.ask("warm")
    turns = itertools.islice(orders(next(iter(processes))), plan.rounds)
    for round_index, order in enumerate(turns):
        for index in range(len(plan.operations)):
            for place, side in enumerate(side for side in order if side in processes):
                processes[side].ask("block", index, round_index, place)
    for process in processes.values():
        process.ask("end")
