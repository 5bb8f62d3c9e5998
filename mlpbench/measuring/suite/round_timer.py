"""Turn the rounds of pytest-benchmark into blocks: the clock that it reads, which emits each round at its end."""

from collections.abc import Callable
from typing import Any

from mlpbench.machine.clock import now
from mlpbench.measuring import timing
from mlpbench.records.kinds import Block


class RoundTimer:
    """Read the synchronising clock for pytest-benchmark, and emit a block for every round that it has counted.

    pytest-benchmark counts a round after it has read the clock for the second time. So a round is emitted at the next
    reading, before the clock is read. The writing and the control workload stay outside the timed region.
    """

    def __init__(self) -> None:
        self._readings = (0.0, 0.0)
        self._emit: Callable[[Block], None] | None = None

    def __call__(self) -> float:
        """Return the seconds of the clock, after the device has finished."""
        self.flush()
        self._readings = (self._readings[1], now())
        return self._readings[1]

    def follow(self, benchmark: Any, measurement_id: str, watch: timing.Watch, emit: Callable[[Block], None]) -> None:
        """Emit the rounds of this fixture `benchmark` from now on."""
        self._benchmark = benchmark
        self._measurement_id = measurement_id
        self._watch = watch
        self._emit = emit
        self._num_emitted = 0
        watch.sentinels.restart()
        watch.begin()

    def flush(self) -> None:
        """Emit the round that was counted last, unless it is emitted already."""
        if self._emit is None or self._benchmark.stats is None:
            return
        if len(self._benchmark.stats.stats.data) > self._num_emitted:
            start, end = self._readings
            flags, control_ns = self._watch.end()
            block = Block(
                measurement=self._measurement_id,
                round=self._num_emitted,
                order=0,
                iterations=self._benchmark.stats.iterations,
                wall_ns=round((end - start) * 1e9),
                control_ns=control_ns,
                flags=flags,
            )
            self._num_emitted += 1
            self._emit(block)
            self._watch.begin()
