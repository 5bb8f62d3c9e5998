"""Hold one run of the suite: its workload, how much it measures, and the file to which it appends records."""

import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from mlpbench.config import Operation, RunConfig, override
from mlpbench.errors import choose
from mlpbench.machine import environment, peaks
from mlpbench.measuring import timing
from mlpbench.measuring.suite.options import command, is_distributed, is_given
from mlpbench.measuring.suite.round_timer import RoundTimer
from mlpbench.records import store
from mlpbench.records.kinds import Record, Session, Skip
from mlpbench.training.trainer import check_names

RUN_VARIABLE = "MLPBENCH_RUN"
"""The environment variable `RUN:PROCESS` that the first process sets for the fresh processes after it."""

# pytest shows the end of a run as `MODULE.CLASS: MESSAGE`, and leaves out `builtins`. So this class name is the prefix.
_Exit: Any = type("mlpbench", (pytest.exit.Exception,), {"__module__": "builtins"})


def end_run(message: str) -> NoReturn:
    """End the whole run with one line, `mlpbench: MESSAGE`, and exit code 2."""
    raise _Exit(message, 2)


class Suite:
    """Hold one run of the suite.

    Raises:
        InputError: for options that cannot be: an unknown preset, field, name or device.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.preset_name: str = config.getoption("preset")
        self.preset = choose(timing.PRESETS, self.preset_name, "preset")
        names = {name: config.getoption(name) for name in ("dataset", "device")}
        settings = [*(f"{name}={value}" for name, value in names.items() if value), *config.getoption("set")]
        self.base = override(RunConfig(), settings)
        """The workload, which a benchmark changes in some fields."""
        check_names(self.base)
        has_device = any(setting.startswith("device=") for setting in settings)
        self.devices = [environment.resolve_device(self.base.device).type] if has_device else ["cpu", "cuda"]
        self.is_recording = not (config.getoption("benchmark_disable") or is_distributed(config))
        self.run, _, process = os.environ.get(RUN_VARIABLE, "").partition(":")
        """The run that this process continues; empty in the first process."""
        self.process = int(process or 0)
        self.results = Path(config.getoption("results") or config.rootpath / "results")
        self.timer = RoundTimer()
        self.remarks: dict[str, list[str]] = defaultdict(list)
        """Lines for the end of the terminal output, by the title of their section."""
        self.file: Path | None = None
        """The file of the records; None before the first record."""
        self.benchmark = ""
        """The test that runs now, as `FILE::NAME[PARAMETERS]`."""
        self.has_recorded_skip = False
        """True if this test has recorded what it skipped."""
        self._min_rounds = config.getoption("benchmark_min_rounds") if is_given(config, "--benchmark-min-rounds") else 0
        self._command = command(config)
        self._session: Session | None = None
        self._watches: dict[str, timing.Watch] = {}

    @property
    def session(self) -> Session:
        """Return the session. It starts, and is written to the file, when the first record needs it."""
        if self._session is None:
            session = environment.start_session(
                self._command, self.preset_name, run=self.run or None, process=self.process
            )
            self.file = store.results_file(self.results, session.environment, datetime.now(UTC).date())
            self.append(session)
            self._session = session
            if self.process == 0:
                for device in self.devices:
                    if device == "cpu" or torch.cuda.is_available():
                        for peak in peaks.measure(session.id, torch.device(device)):
                            self.append(peak)
        return self._session

    @property
    def session_id(self) -> str:
        """Return the id of the session; `-` if nothing is recorded."""
        return self.session.id if self.is_recording else "-"

    def rounds(self, operation: str) -> int:
        """Return the number of blocks: the user's, else the preset's; for a long operation the larger of the two."""
        if Operation(operation).is_long:
            return max(self.preset.epoch_rounds, self._min_rounds)
        return self._min_rounds or self.preset.rounds

    def watch(self, device: str) -> timing.Watch:
        """Return the control workload and the sentinels of a device; the first call starts them."""
        if device not in self._watches:
            self._watches[device] = timing.Watch.start(torch.device(device))
        return self._watches[device]

    def append(self, record: Record) -> None:
        """Write a record. If it cannot be written, end the run, because all later measurements would be lost."""
        assert self.file is not None, "a record names its session, which opens the file"
        self.has_recorded_skip |= isinstance(record, Skip)
        try:
            store.append(self.file, record)
        except OSError as error:
            end_run(f"cannot write {self.file}: {error.strerror}; choose another folder with --results")

    def skip(self, operation: str, config: RunConfig, reason: str) -> NoReturn:
        """Skip this test, and record the reason."""
        self.record_skip(operation, config, reason)
        pytest.skip(reason)

    def record_skip(self, operation: str, config: RunConfig, reason: str) -> None:
        """Record that an operation could not run, and why."""
        if self.is_recording:
            names = {"session": self.session.id, "benchmark": self.benchmark, "operation": operation}
            self.append(Skip(**names, config=config, reason=reason))


SUITE = pytest.StashKey[Suite]()
"""Where the pytest config holds the suite."""
