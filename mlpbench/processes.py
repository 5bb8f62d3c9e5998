"""Fresh processes: what one process cannot know about itself. Runs the plans of `ab` and `aa`.

The two processes of a pair start together, are warmed up one after the other, and then take turns, block by block,
while the other waits: a machine that changes its speed changes it for both.
"""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from mlpbench.records import Ending, InputError, Plan, Record, RunConfig, Session, override, without_paths
from mlpbench.store import Results, decode

P = ParamSpec("P")
T = TypeVar("T")

PROTOCOL = 1  # of the commands to `python -m mlpbench.worker`
SIDES = ("a", "b")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, computed by a new interpreter that inherits the environment variables and nothing else.

    Function, arguments and result must be picklable. An exception of the function is raised here.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


# --- a side -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What one side of a comparison runs: settings of the workload, variables, an interpreter, a commit."""

    settings: tuple[str, ...] = ()  # field=value
    variables: Mapping[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable
    commit: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The side as text for the record, without paths."""
        labels = [*self.settings, *(f"env:{name}={without_paths(value)}" for name, value in self.variables.items())]
        if self.commit:
            labels.append(f"commit={self.commit}")
        if self.interpreter != sys.executable:
            labels.append(f"python={without_paths(self.interpreter)}")
        return tuple(labels)


def parse_side(settings: Sequence[str], config: RunConfig) -> Side:
    """A side from `field=value` on top of the config, `env:NAME=VALUE`, `python=PATH` and `commit=REVISION`.

    Raises:
        InputError: for anything else, an unknown field, or a commit that is not there.
    """
    fields: list[str] = []
    variables = {}
    interpreter, commit = sys.executable, None
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"a side is field=value, env:NAME=VALUE, python=PATH or commit=REVISION, not {setting!r}")
        if name.startswith("env:"):
            variables[name.removeprefix("env:")] = value
        elif name == "python":
            interpreter = value
        elif name == "commit":
            commit = _git("rev-parse", "--verify", "--short=12", f"{value}^{{commit}}")
        else:
            fields.append(setting)
    override(config, fields)
    return Side(settings=tuple(fields), variables=variables, interpreter=interpreter, commit=commit)


@contextmanager
def worktree(commit: str | None) -> Iterator[Path | None]:
    """A git worktree of the commit in a temporary folder, gone afterwards; None for None.

    Raises:
        InputError: if this is no git repository, or has no such commit.
    """
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mlpbench-") as folder:
        path = Path(folder) / "source"
        _git("worktree", "add", "--quiet", "--detach", str(path), commit)
        try:
            yield path
        finally:
            with suppress(InputError):
                _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise InputError(f"git cannot be run ({error.strerror}); a side that is a commit needs it") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it failed"])[-1].removeprefix("fatal: ")
        raise InputError(f"git {arguments[0]} {arguments[-1]}: {told}")
    return done.stdout.strip()


# --- a process --------------------------------------------------------------------------------------------------------


class Process:
    """One worker, as its driver sees it."""

    def __init__(self, side: Side, source: Path | None, job: Mapping[str, Any], emit: Callable[[Record], None]) -> None:
        self._name = f"side {job['side']} ({' '.join(side.labels) or 'as it is'})"
        self._emit = emit
        environment = os.environ | side.variables
        if source is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
        if environment.get("MLPBENCH_DATA"):
            environment["MLPBENCH_DATA"] = str(Path(environment["MLPBENCH_DATA"]).resolve())
        # a pipe would fill up, since nobody reads it meanwhile; closed by __exit__
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # as it is called, not where its link leads: a virtual environment's Python is a link
        interpreter = Path(shutil.which(side.interpreter) or side.interpreter).absolute()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [interpreter, "-m", "mlpbench.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                text=True, encoding="utf-8", env=environment, cwd=source,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise InputError(f"{self._name}: cannot run {side.interpreter}: {error.strerror}") from None
        self._send(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, *command: Any) -> None:
        """Give a command, and wait until it is done."""
        self._send(command)
        self.wait()

    def _send(self, content: Any) -> None:
        assert self._process.stdin is not None, "opened above"
        with suppress(BrokenPipeError):  # it has ended: `wait` finds out why
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def wait(self) -> None:
        """Pass on what the process records, until it answers.

        Raises:
            InputError: if it refuses the job, or ends.
        """
        assert self._process.stdout is not None, "opened above"
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                refused = json.loads(line)["answer"].get("refused")
                if refused:
                    raise InputError(f"{self._name}: {refused}")
                return
            try:
                record = decode(line)
            except ValueError as error:
                raise InputError(f"{self._name} measures in a way that this mlpbench cannot read: {error}") from None
            self._emit(record)
        code = self._process.wait()
        self._errors.seek(0)
        told = (self._errors.read().strip().splitlines() or [f"it ended with exit code {code}"])[-1]
        raise InputError(f"{self._name}: {told}")


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

        def start(stack: ExitStack, side: str, process: int) -> Process:
            return stack.enter_context(Process(sides[side], sources[side], job(side, process), emit))

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


def _measure(plan: Plan, processes: Mapping[str, Process]) -> None:
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
