"""Guard standard output and standard error, so that no output of a verb can fail: every print goes through here.

A character that the encoding lacks is written as an escape. If the reader has closed the pipe or the disk is full, the
rest is dropped, and the verb goes on to its end: its answer and its files do not depend on who reads its lines.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class Stream:
    """Pass text on to a stream; after a failure, drop it and remember the failure."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> object:
        """Return any other attribute of the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, and return its length."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Write what is still in memory."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        # Python writes what is left in memory at its end, and would then fail again.
        with contextlib.suppress(OSError):
            descriptor = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@contextlib.contextmanager
def guarded() -> Iterator[tuple[Stream | None, Stream | None]]:
    """Guard both streams within the block. A stream is None if the process was started without it."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    output, errors = (None if stream is None else Stream(stream) for stream in before)
    sys.stdout, sys.stderr = output, errors
    try:
        yield output, errors
    finally:
        for guard in (output, errors):
            if guard is not None:
                guard.flush()
        sys.stdout, sys.stderr = before
