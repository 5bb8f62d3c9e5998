"""Turn the outcome of a verb into the exit code of the process: the only place that does.

| code | meaning |
|---|---|
| 0 | done; of a verb that answers: no regression, equal bits, a fit machine |
| 1 | the answer is bad: a confirmed regression, bits that differ, or a machine that is not fit |
| 2 | bad input, or a damaged file among the input |
| 3 | the answer is inconclusive, where that fails |
| 4 | nothing comparable, or a benchmark is missing or without a verdict |
| 70 | an internal error |
| 71 | too little memory |
| 74 | output could not be written, or the system failed to read or write |
| 130 | interrupted |
| 141 | the reader of the output has closed it before an answer |
"""

import errno
from collections.abc import Sequence

from mlpbench.errors import InputError, printable

INTERNAL, NO_MEMORY, FAILED_OUTPUT, INTERRUPTED, CLOSED = 70, 71, 74, 130, 141
_DAMAGED = 2
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_MEMORY = "too little memory; use a smaller workload, fewer seeds or fewer --jobs"


class Answer(int):
    """Hold the exit code that an answer has: 0, 1, 3 or 4. Nothing else has the codes 1, 3 and 4."""

    __slots__ = ()


def of_outcome(outcome: Answer | None, problems: Sequence[str]) -> int:
    """Return the exit code of a verb that ended by itself; damaged input is never a pass.

    Args:
        outcome: the answer of a verb that judges; None for any other verb.
        problems: the damaged files that the verb has read.
    """
    assert outcome is None or type(outcome) is Answer, "only an answer has an exit code"
    code = int(outcome or 0)
    return _DAMAGED if problems and code in (0, 3) else code


def of_error(error: BaseException) -> tuple[int, str | None]:
    """Return the exit code of an exception, and the line that reports it; None where only a traceback helps."""
    match error:
        case InputError():
            return error.exit_code, printable(str(error))
        case KeyboardInterrupt():
            way_on = f": {error}" if str(error) else ""
            return INTERRUPTED, printable(f"interrupted; everything that was finished is in the results file{way_on}")
        case MemoryError():
            return NO_MEMORY, _NO_MEMORY
        # PyTorch's allocators have no exception class in common.
        case RuntimeError() if "allocate memory" in str(error) or "out of memory" in str(error):
            return NO_MEMORY, _NO_MEMORY
        # A pipe to another process of ours that breaks is a defect.
        case OSError() if not isinstance(error, BrokenPipeError):
            where = f" {error.filename}" if error.filename else ""
            advice = "; make room there" if error.errno in _FULL else ""
            return FAILED_OUTPUT, printable(f"cannot read or write{where}: {error.strerror or error}{advice}")
        case _:
            return INTERNAL, None


def of_stream(failure: OSError, code: int, *, is_answer: bool) -> tuple[int, str | None]:
    """Return the exit code of a verb whose standard output failed, and the line that reports it.

    The reader of a pipe may leave when it has seen enough, so an answer keeps its code. Output that a file was to hold
    is lost, which is never a success.

    Args:
        failure: the reason why the output was not written.
        code: the exit code of the verb itself.
        is_answer: True if that code is the answer of a verb that judges.
    """
    if isinstance(failure, BrokenPipeError):
        return (code, None) if is_answer or code else (CLOSED, None)
    advice = "; make room there" if failure.errno in _FULL else ""
    return FAILED_OUTPUT, f"cannot write to standard output: {failure.strerror}{advice}"
