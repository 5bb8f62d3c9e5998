"""Run the plans of `ab` and `aa`: pairs of fresh processes, because a process cannot see how another one would differ.

The two processes of a pair start together, and are warmed up one after the other. Then they are interleaved: one times
a block while the other waits. So when the machine changes its speed, it changes for both.
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
    """Return a new plan; the side that comes first is random."""
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


def same_design(results: Results, plan: Plan) -> Plan | None:
    """Return the newest plan of the results that measures the same as `plan`; None if there is no such plan."""

    def design(plan: Plan) -> tuple[object, ...]:
        return plan.a, plan.b, plan.operations, plan.config, plan.pairs, plan.rounds, plan.interleaved

    plans = [p for p in results.in_order(Plan) if design(p) == design(plan)]
    return plans[-1] if plans else None


def finished(results: Results, plan: Plan) -> dict[int, Session]:
    """Return the plan's complete processes, by position; of several at one position, the last one."""
    counts = Counter(results.measurements[measurement].session for measurement in results.whole())
    sessions = results.sessions.values()
    return {s.process: s for s in sessions if s.run == plan.id and counts[s.id] == len(plan.operations)}


def orders(first: str) -> Iterator[tuple[str, str]]:
    """Give the order of the sides in each round: A, B, B, A ..., or B, A, A, B ... from side b.

    >>> [one + other for one, other in itertools.islice(orders("a"), 4)]
    ['ab', 'ba', 'ab', 'ba']
    """
    second = SIDES[first == SIDES[0]]
    return itertools.cycle(((first, second), (second, first)))


def run_plan(
    plan: Plan,
    sides: Mapping[str, Side],
    complete: Mapping[int, Session],
    emit: Callable[[Record], None],
    *,
    preset: str,
    warm_up_s: float,
    on_pair: Callable[[int], str | None],
) -> None:
    """Measure the plan's pairs whose processes are not `complete`; processes 2p and 2p + 1 are pair p.

    After each pair of an interleaved plan, `on_pair` gets the number of pairs so far. It returns a reason to stop, or
    None.

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
                if {2 * pair, 2 * pair + 1} <= complete.keys():
                    # Its verdicts were read before the interruption, or must not be read together with later pairs.
                    continue
                with ExitStack() as running:
                    _measure(plan, {s: start(running, s, 2 * pair + place) for place, s in enumerate(order)})
                reason = on_pair(pair + 1)
                if reason:
                    emit(Ending(plan=plan.id, reason=reason))
                    return
        else:
            # The same positions as in an interleaved plan, but all processes of one side come first.
            for side in SIDES if plan.first == "a" else SIDES[::-1]:
                for pair in range(plan.pairs):
                    process = 2 * pair + (side != plan.first)
                    if process not in complete:
                        with ExitStack() as running:
                            _measure(plan, {side: start(running, side, process)})
        emit(Ending(plan=plan.id, reason=f"all {plan.pairs} pairs measured"))


def _settings(config: RunConfig) -> list[str]:
    text = str(config)
    return [] if text == "default" else text.split(" ")


def _measure(plan: Plan, processes: Mapping[str, WorkerProcess]) -> None:
    """Measure one process alone, or two interleaved."""
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
