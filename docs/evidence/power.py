"""Measure how often `mlpbench ab` finds a slowdown of a known size, and in what time.

    python docs/evidence/power.py measure FOLDER --repeats 10 [--slowdowns 0 1 3 5 10] [--neighbour] [--threads 1]
    python docs/evidence/power.py judge FOLDER

Run this in a clean clone. It makes a commit for each slowdown, in a copy of the clone. In that commit every training
step is followed by waiting for that share of its own time. Then `mlpbench ab --a commit=BASE --b commit=SLOW` compares
the two as a user would: two worktrees, fresh processes, interleaved. `--neighbour` keeps one core busy meanwhile.
`--threads` is the thread count of the training.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlpbench.judging import statistics as stats
from mlpbench.judging.evidence import Evidence, sides
from mlpbench.judging.judgement import Margins
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import ALPHA, judge, looks
from mlpbench.records import store

FIRST = "        self._optimizer.zero_grad(set_to_none=True)\n"
RETURN = "        return loss.detach(), logits.detach()\n"
DELAY = """
        busy_s = time.perf_counter() - start
        while time.perf_counter() - start < busy_s * (1 + {share}):
            pass
"""


def make_commits(clone: Path, percents: list[int]) -> dict[int, str]:
    """Make a commit for each slowdown, on top of the clone's own; 0 adds the calls of the clock, but no wait."""
    path = clone / "mlpbench" / "engines" / "eager.py"
    original = path.read_text()
    commits = {}
    for percent in percents:
        changed = original.replace("import torch\n", "import time\n\nimport torch\n", 1)
        changed = changed.replace(FIRST, f"        start = time.perf_counter()\n{FIRST}", 1)
        changed = changed.replace(RETURN, DELAY.format(share=percent / 100) + RETURN, 1)
        is_known = changed.count("time.perf_counter") == 3 and "import time\n" in changed
        assert is_known, "eager.py has changed; adapt FIRST and RETURN of this script to it"
        path.write_text(changed)
        git = ["git", "-C", str(clone), "-c", "user.name=power", "-c", "user.email=power@localhost"]
        subprocess.run([*git, "commit", "-qam", f"slower by {percent} %", "--allow-empty"], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        commits[percent] = done.stdout.strip()
        path.write_text(original)
    return commits


@contextlib.contextmanager
def neighbour(*, is_there: bool) -> Iterator[None]:
    """Keep one core busy with another process, if asked to."""
    if not is_there:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(folder: Path, percents: list[int], repeats: int, *, has_neighbour: bool, threads: int | None) -> None:
    """Run one comparison after the other, the slowdowns in a new random order each time; 0 is the base of all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, neighbour(is_there=has_neighbour):
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "-q", ".", str(clone)], check=True)
        commits = make_commits(clone, sorted({0, *percents}))
        # Another commit of the same speed, so that 0 is a comparison too.
        unchanged = make_commits(clone, [0])[0]
        for repeat in range(repeats):
            for percent in random.sample(percents, len(percents)):
                how = f"{threads or 'all'}{'-busy' if has_neighbour else ''}"
                verdict = folder / f"{percent:02}-{repeat:03}-{how}.json"
                if verdict.exists():
                    continue
                new = commits[percent] if percent else unchanged
                command = [
                    sys.executable,
                    "-m",
                    "mlpbench",
                    "ab",
                    "--a",
                    f"commit={commits[0]}",
                    "--b",
                    f"commit={new}",
                ]
                command += ["--results", str((folder / "results").resolve()), "--json", str(verdict.resolve())]
                command += ["--set", f"num_threads={threads}"] if threads else []
                start = time.monotonic()
                subprocess.run(command, cwd=clone, stdout=subprocess.DEVNULL, check=False)
                wall_s = time.monotonic() - start
                newest = max((folder / "results").rglob("*-ab-*.jsonl"), key=lambda path: path.stat().st_mtime)
                plan_id = newest.stem.rsplit("-", 1)[1]
                content = json.loads(verdict.read_text()) | {"wall_s": wall_s, "plan": plan_id}
                verdict.write_text(json.dumps(content, indent=1) + "\n")
                (comparison,) = content["comparisons"]
                interval = f"{comparison['low_ratio']:.4f} to {comparison['high_ratio']:.4f}"
                summary = f"{comparison['verdict']} {comparison['ratio']:.4f} ({interval}) {wall_s:.0f} s"
                print(f"{verdict.stem}: {summary}", flush=True)


def table(folder: Path) -> None:
    """Print a row for each slowdown, and the resampled shares."""
    print(
        "| slowdown | threads, neighbour | found | `faster` | ratio, median | pairs, median | seconds, median; most |"
    )
    print("|---|---|---|---|---|---|---|")
    for how, percent in sorted({(p.stem.split("-", 2)[2], p.stem[:2]) for p in folder.glob("*.json")}):
        contents = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{percent}-???-{how}.json"))]
        comparisons = [content["comparisons"][0] for content in contents]
        verdicts = [comparison["verdict"] for comparison in comparisons]
        share = stats.share_interval(verdicts.count("slower"), len(verdicts))
        walls = [content["wall_s"] for content in contents]
        row = [
            f"{int(percent)} %",
            how.replace("-busy", ", one core busy"),
            f"{verdicts.count('slower')} of {len(contents)} ({share.low:.0%} to {share.high:.0%})",
            str(verdicts.count("faster")),
            f"{statistics.median(comparison['ratio'] for comparison in comparisons):.4f}",
            f"{statistics.median(comparison['num_new'] for comparison in comparisons):.0f}",
            f"{statistics.median(walls):.0f}; {max(walls):.0f}",
        ]
        print(f"| {' | '.join(row)} |")
    print()
    print("The recorded pairs of each row, 12 drawn at a time without replacement, judged at the same readings:")
    for how, percent in sorted({(p.stem.split("-", 2)[2], p.stem[:2]) for p in folder.glob("*.json")}):
        print(resampled(folder, percent, how))


def resampled(folder: Path, percent: str, how: str, count: int = 2000) -> str:
    """Count the verdicts of `count` comparisons that are put together from the recorded pairs."""
    base, new = {}, {}
    for path in sorted(folder.glob(f"{percent}-???-{how}.json")):
        plan_id = json.loads(path.read_text())["plan"]
        results = store.load(folder.glob(f"results/*/*-ab-{plan_id}.jsonl"))
        for side, of_side in zip((base, new), sides(results, results.plans[plan_id]), strict=True):
            (evidence,) = of_side.values()
            side.update({f"{plan_id} {pair}": process for pair, process in evidence.processes.items()})
    draw = random.Random(0)
    verdicts = []
    pairs = sorted(base.keys() & new.keys())
    if len(pairs) < 24:
        return f"- {int(percent)} %, {how}: too few pairs ({len(pairs)})"
    for _ in range(count):
        sample = draw.sample(pairs, 12)
        for reading in looks(12):
            both = [
                {
                    Benchmark(Metric.SECONDS, "x"): Evidence(
                        environment={}, processes={p: side[p] for p in sample[:reading]}
                    )
                }
                for side in (base, new)
            ]
            judgement = judge(*both, Margins(), is_paired=True, is_early=reading < 12, alpha=ALPHA / len(looks(12)))
            (comparison,) = judgement.comparisons
            if comparison.verdict != "inconclusive":
                break
        verdicts.append(comparison.verdict)
    shares = ", ".join(f"{verdicts.count(v) / count:.1%} {v}" for v in ("slower", "faster", "same", "inconclusive"))
    return f"- {int(percent)} %, {how}: {len(pairs)} pairs, {count} draws: {shares}"


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--slowdowns", type=int, nargs="+", default=[0, 1, 3, 5, 10], metavar="PERCENT")
    parser.add_argument("--neighbour", action="store_true")
    parser.add_argument("--threads", type=int)
    parsed = parser.parse_args()
    if parsed.what == "measure":
        measure(parsed.folder, parsed.slowdowns, parsed.repeats, has_neighbour=parsed.neighbour, threads=parsed.threads)
    else:
        table(parsed.folder)


if __name__ == "__main__":
    main()
