"""Kill every verb that writes, again and again, and check that nothing finished is lost.

    python docs/evidence/resume.py --kills 100

Start a verb, kill it at a random moment (SIGKILL), and check: the bytes of its results file are still there, the file
loads with at most the one line damaged that was being written, a file that is replaced is the old or the new one, and
no process of it is left after 10 seconds. Then run the verb again, with `--resume` where it has that, kill it again,
and so on to its end. At the end of `ab`: one plan, every process of its design complete exactly once, no block twice.
At the end of `train` and `study`: the epochs and the digest of an uninterrupted run.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mlpbench.certifying import certificate
from mlpbench.errors import InputError
from mlpbench.measuring import turns
from mlpbench.records import store

PAIRS, ROUNDS = 4, 5
MARK = "MLPBENCH_KILLED_RUN"
"""The environment variable by which the processes of a run are found; its children inherit it."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Describe a verb to kill."""

    command: list[str]
    longest_s: float
    """The latest moment of a kill, in seconds after the start."""
    resumes: bool = False
    replaced: str = ""
    """The file that the verb replaces, if there is one."""
    is_whole: Callable[[Path], object] = field(default=lambda path: path.read_bytes())
    """Reads the replaced file; raises if it is neither the old nor the new one."""
    at_end: Callable[[Path], None] = field(default=lambda _: None)
    """Checks the results after the end."""


def main() -> None:
    """Kill the verbs in turn until the asked number of kills is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one verb")
    parsed = parser.parse_args()
    chance = random.Random(parsed.seed)
    kills: Counter[str] = Counter()
    names = [parsed.only] if parsed.only else list(VERBS)
    while kills.total() < parsed.kills:
        for name in names:
            # Every run gets a kill or two, so that the verbs share the kills.
            wanted = min(2, parsed.kills - kills.total())
            if wanted:
                kills[name] += kill_to_its_end(VERBS[name], wanted, chance)
                print(f"{kills.total()} kills; {name} reached its end", flush=True)
    print(f"{kills.total()} kills: {dict(kills)}; nothing finished was lost, no process was left after 10 s")


def kill_to_its_end(verb: Verb, wanted: int, chance: random.Random) -> int:
    """Kill a verb up to the wanted number of times, and let it reach its end. Return the number of kills."""
    num_kills = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        while True:
            before = contents(folder)
            mark = f"{time.monotonic_ns()}"
            command = [sys.executable, "-m", *verb.command] + (
                ["--resume"] if verb.resumes and is_begun(folder) else []
            )
            process = subprocess.Popen(
                command, cwd=folder, env=os.environ | {MARK: mark}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            limit_s = chance.uniform(0.2, verb.longest_s) if num_kills < wanted else None
            try:
                _, error = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                before = contents(folder)
                process.kill()
                # A child that lives on keeps this pipe open.
                process.communicate(timeout=10)
                num_kills += 1
                check_nothing_runs(mark)
                check_files(verb, folder, before)
                continue
            text = error.decode()
            if process.returncode == 2 and "nothing to resume" in text:
                # It was killed after its end.
                assert num_kills, text
            else:
                assert process.returncode in (0, 1), (verb.command, process.returncode, text)
            check_nothing_runs(mark)
            check_files(verb, folder, before)
            verb.at_end(folder)
            return num_kills


def prepare(folder: Path) -> None:
    """Copy results and a certificate of one machine into the folder, for the verbs that read."""
    for name, content in INPUTS.items():
        (folder / name).write_bytes(content)


def is_begun(folder: Path) -> bool:
    """True if a record of the run is on disk."""
    return any(path.stat().st_size for path in (folder / "results").rglob("*.jsonl"))


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the content of every results file of the run."""
    return {path: path.read_bytes() for path in (folder / "results").rglob("*.jsonl") if "baselines" not in path.parts}


def check_files(verb: Verb, folder: Path, before: dict[Path, bytes]) -> None:
    """Check that every byte from before is there, that the files load, and that a replaced file is a whole one."""
    for path, content in before.items():
        assert path.read_bytes().startswith(content), f"{path}: bytes that were on disk are gone"
    for path in contents(folder):
        try:
            results = store.load([path])
        except InputError:
            # Killed while the first line was being written.
            assert path.read_bytes().count(b"\n") == 0, path
            continue
        assert len(results.problems) <= 1, results.problems
        assert not results.problems or " and " not in results.problems[0], results.problems
    for path in folder.rglob(verb.replaced) if verb.replaced else ():
        verb.is_whole(path)


def check_nothing_runs(mark: str) -> None:
    """Check that no process of the run is left after 10 seconds."""
    deadline = time.monotonic() + 10
    while left := processes(mark):
        assert time.monotonic() < deadline, f"still running after 10 s: {left}"
        time.sleep(0.1)


def processes(mark: str) -> list[str]:
    """Return the command lines of the processes with this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120])
        except OSError:
            continue
    return [command for command in found if command]


# --- the ends


def check_ab(folder: Path) -> None:
    """Check that the processes and blocks are those of an undisturbed run."""
    (path,) = contents(folder)
    results = store.load([path])
    (plan,) = results.plans.values()
    complete = turns.finished(results, plan)
    assert sorted(complete) == list(range(2 * PAIRS)), "a process of the design is missing"
    order = [side for _, pair in zip(range(PAIRS), turns.orders(plan.first), strict=False) for side in pair]
    assert [complete[process].side for process in sorted(complete)] == order, "the order of the sides is wrong"
    assert plan.id in results.endings, "the plan has no ending"
    per_process = Counter(results.measurements[block.measurement].session for block in results.blocks)
    assert {per_process[s.id] for s in complete.values()} == {ROUNDS}, "a process lacks blocks"


def check_training(folder: Path) -> None:
    """Check that every run has one result, with the epochs and the digest of an uninterrupted run."""
    results = store.load(contents(folder))
    found = {result.config: (result.test_loss, result.digests) for result in results.train_results}
    assert len(found) == len(results.train_results), "a run has two results"
    expected = reference(next(iter(results.sessions.values())).command)
    assert found == expected, "the bits are not those of an uninterrupted run"


_REFERENCES: dict[str, dict] = {}


def reference(command: str) -> dict:
    """Return the losses and digests of a command that is not interrupted, by config."""
    if command not in _REFERENCES:
        with tempfile.TemporaryDirectory() as place:
            arguments = command.split(" ")[1:]
            subprocess.run([sys.executable, "-m", "mlpbench", *arguments], cwd=place, check=True, capture_output=True)
            results = store.load([Path(place) / "results"]).train_results
            _REFERENCES[command] = {result.config: (result.test_loss, result.digests) for result in results}
    return _REFERENCES[command]


def report_is_whole(path: Path) -> None:
    """Check that a page has its end."""
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path


def _inputs() -> dict[str, bytes]:
    """Measure and certify once, for the verbs that read."""
    with tempfile.TemporaryDirectory() as place:
        for command in (
            ["ab", "forward", "--b", "batch_size=20", "--pairs", "2", "--rounds", "2", "--results", "r"],
            ["certify", "certificate.json", "--steps", "20"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "mlpbench", *command], cwd=place, check=False, capture_output=True
            )
            assert done.returncode in (0, 1), done.stderr
        (records,) = Path(place, "r").rglob("*.jsonl")
        certified = Path(place, "certificate.json").read_bytes()
        return {"ab.jsonl": records.read_bytes(), "certificate.json": certified, "old.json": b"{}"}


_SMALL = ["--set", "batch_size=500", "--results", "results"]
VERBS = {
    "train": Verb(
        command=["mlpbench", "train", "--epochs", "6", "--set", "optimizer=nesterov", *_SMALL],
        longest_s=8, resumes=True, at_end=check_training,
    ),
    "study": Verb(
        command=["mlpbench", "study", "--activations", "relu", "--optimizers", "sgd", "adam", "--seeds", "0-1",
                 "--jobs", "2", "--set", "num_epochs=4", *_SMALL],
        longest_s=14, resumes=True, at_end=check_training,
    ),
    "ab": Verb(
        command=["mlpbench", "ab", "forward", "--b", "batch_size=20", "--pairs", str(PAIRS), "--rounds", str(ROUNDS),
                 "--all-pairs", "--results", "results"],
        longest_s=16, resumes=True, at_end=check_ab,
    ),
    "aa": Verb(
        command=["mlpbench", "aa", "forward", "--pairs", "5", "--rounds", "2", "--results", "results"],
        longest_s=16, resumes=True,
    ),
    "time": Verb(command=["mlpbench", "time", "forward", "--preset", "quick", "--results", "results"], longest_s=6),
    "pytest": Verb(
        command=["pytest", "-q", str(Path(__file__).parents[2] / "bench"), "-k", "operations and forward", "--results",
                 "results", "-p", "no:cacheprovider"],
        longest_s=10,
    ),
    "certify": Verb(
        command=["mlpbench", "certify", "certificate.json", "--steps", "50"], longest_s=6,
        replaced="certificate.json", is_whole=certificate.read,
    ),
    "verify": Verb(
        command=["mlpbench", "verify", "certificate.json", "--results", "saved"], longest_s=6,
        replaced="saved/*/certificates/*.json", is_whole=certificate.read,
    ),
    "report": Verb(
        command=["mlpbench", "report", "ab.jsonl", "--output", "report"], longest_s=8,
        replaced="report/report.html", is_whole=report_is_whole,
    ),
    "compare": Verb(
        command=["mlpbench", "compare", "ab.jsonl", "--json", "old.json"], longest_s=4,
        replaced="old.json", is_whole=lambda path: json.loads(path.read_text()),
    ),
}  # fmt: skip
INPUTS: dict[str, bytes] = {}


if __name__ == "__main__":
    INPUTS |= _inputs()
    main()
