"""A process ends with the one that started it, also while it computes and keeps the interpreter's lock."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

_CHILD = """
import sys
from mlpbench.machine.parent import end_with_parent
end_with_parent()
print("ready", flush=True)
sum(range(10**12))
"""
_PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_child_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert child.exists()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_process_whose_parent_ended_before_ends_at_once():
    code = "from mlpbench.machine.parent import end_with_parent; end_with_parent(parent=2**22 + 1); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
