"""Share what `ab` and `aa` have in common: measure pairs of processes by a plan, and record it."""

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlpbench.cli.options import OPERATIONS_HELP, add_workload, positive, settings_of
from mlpbench.config import Operation, RunConfig, override
from mlpbench.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from mlpbench.judging.judgement import Margins
    from mlpbench.measuring.side import Side
    from mlpbench.records.kinds import Plan, Record
    from mlpbench.records.results import Results

_WARM_UP_S = 0.5


def add_plan(parser: argparse.ArgumentParser, pairs: int) -> None:
    """Add the options that say how much to measure."""
    parser.add_argument(
        "operations", nargs="*", metavar="OPERATION", help=f"{OPERATIONS_HELP} (default: {Operation.TRAIN_STEP})"
    )
    parser.add_argument(
        "--pairs", type=positive, default=pairs, help=f"fresh processes of each side, at most (default {pairs})"
    )
    parser.add_argument("--rounds", type=positive, default=10, help="timed blocks in each process (default 10)")
    parser.add_argument(
        "--all-pairs", action="store_true", help="measure every pair, even when every verdict is reached"
    )
    parser.add_argument("--resume", action="store_true", help="continue the same command that was interrupted")
    parser.add_argument("--time-limit", type=positive, metavar="S", help="start no pair after so many seconds")
    add_workload(parser)


def base_of(parsed: argparse.Namespace) -> RunConfig:
    """Return the config of both sides, before their own settings.

    Raises:
        InputError: for a setting that is no field, or has no such value.
    """
    a, b = (
        {setting.partition("=")[0]: setting for setting in getattr(parsed, side, ()) if "=" in setting}
        for side in ("a", "b")
    )
    # Only what both sides give may be missing here.
    return override(
        RunConfig(), settings_of(parsed), [a[name] for name in ("activations", "hidden_sizes") if {name} <= {*a} & {*b}]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """Describe what `ab` or `aa` was asked to measure."""

    a: "Side"
    b: "Side"
    command: str
    margins: "Margins"
    is_interleaved: bool = True
    measures_all_pairs: bool = False


class PlanFile:
    """Append the records of a plan to a file of its own, and keep them.

    The file is named when the first process has said on which machine it runs.
    """

    def __init__(self, root: Path, plan: "Plan", path: Path | None, results: "Results") -> None:
        self._root, self.plan, self.path = root, plan, path
        self.results = results

    def __call__(self, record: "Record") -> None:
        """Write a record, and keep it."""
        from mlpbench.cli.output import write
        from mlpbench.records.kinds import Session

        if self.path is None:
            assert isinstance(record, Session), "a process first says where it runs"
            day = datetime.now(UTC).date().isoformat()
            self.path = self._root / record.environment.machine / f"{day}-ab-{self.plan.id}.jsonl"
            self(record)
            record = self.plan  # after a session, so that a file with a plan always has one
        write(self.path, record)
        self.results.add(record)


def measure(parsed: argparse.Namespace, request: PlanRequest) -> PlanFile:
    """Measure a plan, a new one or an interrupted one; every record is on disk as soon as it exists.

    Raises:
        InputError: if a side cannot run, a file cannot be written, or there is nothing to resume.
    """
    from mlpbench.measuring import turns
    from mlpbench.records.results import Results
    from mlpbench.reporting import terminal

    plan = turns.make_plan(
        request.a,
        request.b,
        command=request.command,
        operations=tuple(dict.fromkeys(parsed.operations)) or (Operation.TRAIN_STEP.value,),
        config=base_of(parsed),
        pairs=parsed.pairs,
        rounds=parsed.rounds,
        interleaved=request.is_interleaved,
        margin_ratio=request.margins.default_ratio,
    )
    file = _resumed(parsed.results, plan) if parsed.resume else PlanFile(parsed.results, plan, None, Results())
    finished = turns.finished(file.results, file.plan)
    progress = _Progress(parsed, request, file, terminal.console())
    sides = {"a": request.a, "b": request.b}
    turns.run_plan(file.plan, sides, finished, file, preset="ab", warm_up_s=_WARM_UP_S, on_pair=progress)
    return file


class _Progress:
    """Print each pair, and decide after which one to stop."""

    def __init__(self, parsed: argparse.Namespace, request: PlanRequest, file: PlanFile, console: "Console") -> None:
        self._request, self._file, self._console = request, file, console
        self._time_limit_s: float | None = parsed.time_limit
        self._start = time.monotonic()

    def __call__(self, count: int) -> str | None:
        """Return the reason to stop after so many pairs, or None."""
        from mlpbench.judging.metrics import Verdict
        from mlpbench.judging.verdict import judge_plan, looks

        plan = self._file.plan
        comparisons: Any = judge_plan(self._file.results, plan, self._request.margins).comparisons
        so_far = f"; so far: B takes {comparisons[0].ratio:.3f} times as long as A" if comparisons else ""
        self._console.print(f"pair {count} of {plan.pairs}{so_far}")
        is_decided = bool(comparisons) and all(
            c.verdict != Verdict.INCONCLUSIVE and not c.is_blind for c in comparisons
        )
        if is_decided and count in looks(plan.pairs)[:-1] and not self._request.measures_all_pairs:
            return f"every verdict reached after {count} pairs"
        is_late = self._time_limit_s is not None and time.monotonic() - self._start > self._time_limit_s
        if is_late and count < plan.pairs:
            return f"time limit of {self._time_limit_s} s, after {count} pairs"
        return None


def _resumed(root: Path, plan: "Plan") -> PlanFile:
    """Find the newest interrupted run of the same design.

    Raises:
        InputError: if there is none, or if it is complete.
    """
    from mlpbench.measuring import turns
    from mlpbench.records.store import load

    for path in sorted(root.rglob("*-ab-*.jsonl"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            results = load([path])
        except InputError:  # a foreign file, or one that was interrupted at once
            continue
        same = turns.same_design(results, plan)
        if same and same.id in results.endings:
            raise InputError(f"nothing to resume: it is complete; `mlpbench compare {path}` judges it again")
        if same:
            return PlanFile(root, same, path, results)
    raise InputError(f"nothing to resume: no unfinished run of this command under {root}")
