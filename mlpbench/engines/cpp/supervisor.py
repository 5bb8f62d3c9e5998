"""Run a command, and kill it with all its children as soon as standard input is closed.

`compiler.py` starts this file as a process of a group of its own, and holds the other end of the input. The system
closes that end however the process ends, also by SIGKILL. A signal at the parent's death (PR_SET_PDEATHSIG) would reach
the compiler alone, and not the processes that it starts: cc1plus, as and ld.
"""

import os
import signal
import subprocess
import sys
import threading


def _watch() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command of the arguments, and return its exit code; 128 and the number of a signal that ended it."""
    threading.Thread(target=_watch, daemon=True).start()
    try:
        code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603
    except OSError as error:
        print(f"error: cannot run it: {error.strerror}", flush=True)
        return 127
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
