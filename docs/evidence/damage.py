"""Damage results files, and check that none gives a traceback, or a verdict from a damaged record.

    PYTHONPATH=. python docs/evidence/damage.py --files 10000

Change NEW of a comparison: change, insert and delete bytes; cut, double and swap lines; change digits and the number of
the schema; replace values in the JSON. `mlpbench compare` must end with a documented exit code and without a traceback.
Every process behind a verdict must be one of the undamaged file, with exactly the same blocks.
"""

import argparse
import contextlib
import io
import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path

from mlpbench.cli.main import main as mlpbench
from mlpbench.errors import InputError
from mlpbench.judging.evidence import collect
from mlpbench.records import store
from mlpbench.records.codec import encode
from tests.strategies import replicated

STEADY = [[1.0, 1.01, 0.99], [1.01, 1.0, 1.02], [0.99, 1.0, 0.98]]


def original(factor: float) -> bytes:
    """Return the content of a file of two benchmarks in three processes."""
    records = [
        *replicated([[t * factor for t in times] for times in STEADY], control_ms=[0.5] * 3),
        *replicated([[t * factor for t in times] for times in STEADY], run="f", operation="forward"),
    ]
    return b"".join(encode(record).encode() + b"\n" for record in records)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the content, damaged in one to four ways."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(max(len(content), 1))
        lines = content.split(b"\n")
        match chance.randrange(9):
            case 0:
                content = content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
            case 1:
                content = content[:place] + chance.randbytes(chance.randint(1, 8)) + content[place:]
            case 2:
                content = content[:place] + content[place + chance.randint(1, 60) :]
            case 3:
                content = content[:place]
            case 4:
                one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
                lines[one], lines[other] = lines[other], lines[one]
                content = b"\n".join(lines)
            case 5:
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                content = b"\n".join(lines)
            case 6:
                digits = [m.start() for m in re.finditer(rb"\d", content)]
                if digits:
                    place = chance.choice(digits)
                    content = content[:place] + str(chance.randrange(10)).encode() + content[place + 1 :]
            case 7:
                content = content.replace(
                    b'"schema":2', b'"schema":%d' % chance.choice([0, 1, 3]), chance.randint(1, 3)
                )
            case 8:
                content = edited(lines, chance)
    return content


def edited(lines: list[bytes], chance: random.Random) -> bytes:
    """Replace a value of one record by something else, as an editor or another program would."""
    place = chance.randrange(len(lines))
    try:
        record = json.loads(lines[place])
        name = chance.choice(list(record))
        record[name] = chance.choice([None, -1, 0, 10**30, 1e308, "", "nan", [], {}, True, record.get("id"), [[]]])
        lines[place] = json.dumps(record, separators=(",", ":")).encode()
    except (ValueError, TypeError, IndexError, RecursionError):
        lines[place] = b"[" * 2000
    return b"\n".join(lines)


def main() -> None:
    """Damage the asked number of files, and compare each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    chance = random.Random(parsed.seed)
    codes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        base, new = Path("base.jsonl"), Path("new.jsonl")
        base.write_bytes(original(1.0))
        new.write_bytes(original(1.2))
        undamaged = {benchmark: dict(e.processes) for benchmark, e in collect(store.load([new])).items()}
        original_bytes = new.read_bytes()
        for number in range(parsed.files):
            new.write_bytes(mutated(original_bytes, chance))
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = mlpbench(["compare", "base.jsonl", "new.jsonl", "--json", "verdicts.json"])
            assert code in (0, 1, 2, 4), (number, code)
            assert "Traceback" not in output.getvalue(), number
            with contextlib.suppress(InputError):
                for benchmark, evidence in collect(store.load([new])).items():
                    for key, process in evidence.processes.items():
                        assert undamaged[benchmark][key] == process, (number, benchmark, key)
            codes[code] += 1
    print(f"{parsed.files} files: exit codes {dict(sorted(codes.items()))}; no traceback, no verdict from damage")


if __name__ == "__main__":
    main()
