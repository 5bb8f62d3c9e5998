"""Kill `mlpbench ab` again and again, and check that nothing is lost.

    python docs/evidence/resume.py --kills 50

Start a comparison, kill it at a random moment, resume it, kill it again, and so on. When one comparison is complete,
the next begins. After every kill: the bytes of the file are still there, the file loads, and no worker is left running.
At the end of each comparison: one plan, every process of its design complete exactly once, and no block twice.
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
    """Return the file of the run, or None if its plan is not written yet."""
    return next((path for path in folder.rglob("*-ab-*.jsonl") if b'"kind":"plan"' in path.read_bytes()), None)


def num_workers() -> int:
    """Count the worker processes of this machine."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += b"mlpbench.measuring.worker" in path.read_bytes()
        except OSError:
            continue
    return count


def check_after_kill(folder: Path, before: bytes) -> None:
    """Check that the earlier bytes are there, that the file loads, and that the workers end by themselves."""
    path = file_in(folder)
    if path is not None:
        assert path.read_bytes().startswith(before), "bytes that were on disk are gone"
        results = store.load([path])
        assert len(results.problems) <= 1, "more than the line that was being written is damaged"
    deadline = time.monotonic() + 20
    while num_workers():
        assert time.monotonic() < deadline, "a worker still runs after its driver was killed"
        time.sleep(0.1)


def check_design(folder: Path) -> None:
    """Check that the processes and blocks are those of an undisturbed run."""
    path = file_in(folder)
    assert path is not None, "a finished run has a file"
    results = store.load([path])
    (plan,) = results.plans.values()
    complete = turns.finished(results, plan)
    assert sorted(complete) == list(range(2 * PAIRS)), "a process of the design is missing"
    order = [side for _, pair in zip(range(PAIRS), turns.orders(plan.first), strict=False) for side in pair]
    assert [complete[process].side for process in sorted(complete)] == order, "the order of the sides is wrong"
    assert plan.id in results.endings, "the plan has no ending"
    counts = Counter((block.measurement, block.round) for block in results.blocks)
    assert set(counts.values()) == {1}, "a block is there twice"
    per_process = Counter(
        m.session for m in results.measurements.values() for b in results.blocks if b.measurement == m.id
    )
    assert {per_process[s.id] for s in complete.values()} == {ROUNDS}, "a process lacks blocks"
    num_sessions = Counter(s.process for s in results.sessions.values())
    num_repeated = sum(count - 1 for count in num_sessions.values())
    print(
        f"  complete: {len(results.blocks)} blocks, {num_repeated} processes cut short and measured again", flush=True
    )


def main() -> None:
    """Kill comparisons until the asked number of kills is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    num_kills, num_runs = 0, 0
    while num_kills < kills:
        with tempfile.TemporaryDirectory() as place:
            folder, num_runs = Path(place), num_runs + 1
            while True:
                path = file_in(folder)
                if path and b'"kind":"ending"' in path.read_bytes():
                    # It was killed after its end.
                    check_design(folder)
                    break
                command = [sys.executable, "-m", "mlpbench", *COMMAND, "--results", place]
                command += ["--resume"] if path else []
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                try:
                    code = driver.wait(random.uniform(0.5, 16) if num_kills < kills else None)
                except subprocess.TimeoutExpired:
                    path = file_in(folder)
                    before = path.read_bytes() if path else b""
                    driver.kill()
                    driver.wait()
                    num_kills += 1
                    check_after_kill(folder, before)
                    continue
                assert code in (0, 1), f"exit code {code}"
                check_design(folder)
                break
        print(f"{num_kills} kills, {num_runs} comparisons", flush=True)


if __name__ == "__main__":
    main()
