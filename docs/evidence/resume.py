"""What does `kill -9` cost `mlpbench ab`?

    python docs/evidence/resume.py --kills 50

Starts a comparison, kills it at a random moment, resumes it, kills that, and so on; when one is through, the next
begins. After every kill: what the file held is still there, byte for byte, it loads, no worker lives on. At the end of
each comparison: one plan, every process of its design whole exactly once, no block twice.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlpbench.measuring import turns
from mlpbench.records import store

PAIRS, ROUNDS = 4, 5
COMMAND = ["ab", "forward", "--b", "batch_size=20", "--pairs", str(PAIRS), "--rounds", str(ROUNDS), "--all-pairs"]


def file_in(folder: Path) -> Path | None:
    """The file of the run, if it has got as far as its plan."""
    return next((path for path in folder.rglob("*-ab-*.jsonl") if b'"kind":"plan"' in path.read_bytes()), None)


def num_workers() -> int:
    """Worker processes of this machine."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += b"mlpbench.measuring.worker" in path.read_bytes()
        except OSError:
            continue
    return found


def check_after_kill(folder: Path, before: bytes) -> None:
    """What was there is there, and loads; the workers end by themselves."""
    path = file_in(folder)
    if path is not None:
        assert path.read_bytes().startswith(before), "bytes that were on disk are gone"
        results = store.load([path])
        assert len(results.problems) <= 1, "more than the line that was being written is damaged"
    deadline = time.monotonic() + 20
    while num_workers():
        assert time.monotonic() < deadline, "a worker outlives its driver"
        time.sleep(0.1)


def check_design(folder: Path) -> None:
    """The design is that of an undisturbed run."""
    path = file_in(folder)
    assert path is not None, "a finished run has a file"
    results = store.load([path])
    (plan,) = results.plans.values()
    whole = turns.finished(results, plan)
    assert sorted(whole) == list(range(2 * PAIRS)), "a process of the design is missing"
    order = [side for _, pair in zip(range(PAIRS), turns.orders(plan.first), strict=False) for side in pair]
    assert [whole[process].side for process in sorted(whole)] == order, "the order is another"
    assert plan.id in results.endings, "it did not end"
    counts = Counter((block.measurement, block.round) for block in results.blocks)
    assert set(counts.values()) == {1}, "a block is there twice"
    per_process = Counter(
        m.session for m in results.measurements.values() for b in results.blocks if b.measurement == m.id
    )
    assert {per_process[s.id] for s in whole.values()} == {ROUNDS}, "a process has not its blocks"
    again = Counter(s.process for s in results.sessions.values())
    cut = sum(count - 1 for count in again.values())
    print(f"  whole: {len(results.blocks)} blocks, {cut} processes cut short and measured again", flush=True)


def main() -> None:
    """Kill so many times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    kills, runs = parser.parse_args().kills, 0
    done = 0
    while done < kills:
        with tempfile.TemporaryDirectory() as place:
            folder, runs = Path(place), runs + 1
            while True:
                path = file_in(folder)
                if path and b'"kind":"ending"' in path.read_bytes():
                    check_design(folder)  # killed after its end
                    break
                command = [sys.executable, "-m", "mlpbench", *COMMAND, "--results", place]
                command += ["--resume"] if path else []
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                try:
                    code = driver.wait(random.uniform(0.5, 16) if done < kills else None)
                except subprocess.TimeoutExpired:
                    path = file_in(folder)
                    before = path.read_bytes() if path else b""
                    driver.kill()
                    driver.wait()
                    done += 1
                    check_after_kill(folder, before)
                    continue
                assert code in (0, 1), f"exit code {code}"
                check_design(folder)
                break
        print(f"{done} kills, {runs} comparisons", flush=True)


if __name__ == "__main__":
    main()
