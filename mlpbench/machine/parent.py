"""End a process with the one that started it, however that ends, so that no work goes on that nobody waits for."""

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
"""The number of this function of Linux: it names the signal that a process gets when its parent ends."""
_INTERVAL_S = 1.0


def end_with_parent(parent: int | None = None) -> None:
    """Let this process end when its parent does, for example when the parent is killed.

    On Linux the system sends the signal. Elsewhere a thread looks at the parent every second, which has to wait while a
    library keeps the interpreter's lock.

    Args:
        parent: the id of the process that started this one; None for the parent that it has now. With the id, a parent
            that has ended before this call is noticed too.
    """
    started_by = parent or os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(started_by,), daemon=True).start()
    if os.getppid() != started_by:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os._exit(1)
