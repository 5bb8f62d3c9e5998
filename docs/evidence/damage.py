"""Damage results, certificates and foreign files, and check that no verb gives a traceback or a wrong answer.

    PYTHONPATH=. python docs/evidence/damage.py --files 10000

Damage of bytes: change, insert and delete them; cut, double and swap lines; change digits and the number of the schema;
other line ends, byte order marks, other encodings. Damage of values: replace one value of a record, and seal the line
again, so that its checksum fits. Every verb that reads must end with a documented exit code, in one line for each
problem, and never with the exit code of an answer that it has not given. Every process behind a verdict of `compare`
must be one of the undamaged file, with exactly the same times.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mlpbench.certifying import certificate as certificates
from mlpbench.cli.main import main as mlpbench
from mlpbench.errors import InputError
from mlpbench.judging.evidence import collect
from mlpbench.judging.formats import to_pytest_benchmark
from mlpbench.records import store
from mlpbench.records.codec import SCHEMA, encode, seal
from tests.strategies import certificate, memory, noise, replicated, results, skip, trained

STEADY = [[1.0, 1.01, 0.99], [1.01, 1.0, 1.02], [0.99, 1.0, 0.98]]
HOSTILE = [
    "", " ", "nan", "inf", "-inf", "\x1b[2J", "a\x00b", "\ud800", "$\\frac{$", "[/bold]", "=cmd()", "<script>", "..",
    "a/b", "x" * 5000, "\u202e", None, [], {}, True, False, [[]], -1, 0, 0.5, 10**30, 1e308, -1e-308, 2**64 + 1,
    "2026-13-45",
]  # fmt: skip
"""Values that no measurement gives, and texts that are dangerous in some output."""


def original(factor: float) -> bytes:
    """Return the content of a file of two benchmarks in three processes, with other kinds of records."""
    records = [
        *replicated([[t * factor for t in times] for times in STEADY], control_ms=[0.5] * 3),
        *replicated([[t * factor for t in times] for times in STEADY], run="f", operation="forward"),
    ]
    session = records[0].id
    others = [memory(2**30, session=session), noise(1.01, session=session), skip("no CUDA device", session=session)]
    return b"".join(encode(record).encode() + b"\n" for record in [*records, *others, trained((0.9,), session=session)])


# --- damage


def of_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return the content, damaged in one to four ways."""
    for _ in range(chance.randint(1, 4)):
        content = chance.choice(_WAYS)(content, chance)
    return content


def _byte(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(len(content), 1))
    return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]


def _insertion(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(len(content), 1))
    return content[:place] + chance.randbytes(chance.randint(1, 8)) + content[place:]


def _deletion(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(len(content), 1))
    return content[:place] + content[place + chance.randint(1, 60) :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(max(len(content), 1))]


def _swap(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _copy(content: bytes, chance: random.Random) -> bytes:
    """Repeat a line, perhaps with another end: one record is one record."""
    lines = content.split(b"\n")
    line = chance.choice(lines) + chance.choice([b"", b"\r", b" ", b"\t\r"])
    lines.insert(chance.randrange(len(lines)), line)
    return b"\n".join(lines)


def _digit(content: bytes, chance: random.Random) -> bytes:
    digits = [m.start() for m in re.finditer(rb"\d", content)]
    if not digits:
        return content
    place = chance.choice(digits)
    return content[:place] + str(chance.randrange(10)).encode() + content[place + 1 :]


def _schema(content: bytes, chance: random.Random) -> bytes:
    number = b'"schema":%d' % SCHEMA
    return content.replace(number, b'"schema":%d' % chance.choice([0, 1, 2, SCHEMA + 1]), chance.randint(1, 3))


def _form(content: bytes, chance: random.Random) -> bytes:
    """Write the text as another program would: other line ends, a byte order mark, another encoding."""
    text = content.decode("utf-8", errors="replace")
    forms = [
        content.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + content,
        text.encode("utf-16", errors="replace"),
        content.replace(b",", b", "),
        b"\x00" * 100 + content,
    ]
    return chance.choice(forms)


_WAYS = (_byte, _insertion, _deletion, _cut, _swap, _copy, _digit, _schema, _form)


def of_values(content: bytes, chance: random.Random) -> bytes:
    """Replace a value in one or two records, and seal them again, so that the checksums fit."""
    lines = content.rstrip(b"\n").split(b"\n")
    for _ in range(chance.randint(1, 2)):
        place = chance.randrange(len(lines))
        record = json.loads(lines[place])
        record.pop("crc32", None)
        _replace(record, chance)
        with contextlib.suppress(UnicodeEncodeError):
            lines[place] = seal(json.dumps(record, separators=(",", ":"))).encode()
    return b"\n".join(lines) + b"\n"


def _replace(value: dict | list, chance: random.Random) -> None:
    """Replace one value of a document, at any depth."""
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    names = [name for name in places if name not in ("kind", "schema")]
    if not names:
        return
    name = chance.choice(names)
    if isinstance(value[name], dict | list) and value[name] and chance.random() < 0.7:
        _replace(value[name], chance)
    else:
        value[name] = chance.choice(HOSTILE)


def of_a_certificate(content: bytes, chance: random.Random) -> bytes:
    """Damage the bytes of a certificate, or replace a value and seal it again."""
    if chance.random() < 0.5:
        return of_bytes(content, chance)
    document = json.loads(content)
    version = document.pop("mlpbench_certificate")
    del document["sha256"]
    _replace(document, chance)
    sealed = {"mlpbench_certificate": version, **document, "sha256": certificates._seal(document)}
    return json.dumps(sealed, separators=(",", ":")).encode()


def of_a_document(content: bytes, chance: random.Random) -> bytes:
    """Replace a value of a JSON document, or damage its bytes."""
    if chance.random() < 0.3:
        return of_bytes(content, chance)
    document = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        _replace(document, chance)
    return json.dumps(document).encode()


# --- checks


def run(arguments: list[str], where: object) -> tuple[int, str]:
    """Run a verb; check its exit code, and that there is no traceback. Return its exit code and its output."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = mlpbench(arguments)
    text = out.getvalue() + errors.getvalue()
    assert code in (0, 1, 2, 3, 4), (where, arguments, code, text[-2000:])
    assert "Traceback" not in text, (where, text)
    assert not any(c < " " and c != "\n" for c in text), (where, "a control character reaches the terminal")
    assert code != 2 or errors.getvalue(), (where, arguments, "no reason is given")
    return code, text


def check_verdict(code: int, text: str, undamaged: list[dict[int, float]], where: object) -> None:
    """Check that the code is that of a verdict, and that the times of every process behind it are undamaged.

    A name that was replaced and sealed is a name: then these times are those of another benchmark.
    """
    assert (code in (0, 1, 3)) <= (f"exit code {code}" in text), (where, code, text)
    with contextlib.suppress(InputError):
        for benchmark, evidence in collect(store.load([Path("new.jsonl")])).items():
            for key, process in evidence.processes.items() if benchmark.metric == "seconds" else ():
                assert dict(process.rounds) in undamaged, (where, benchmark, key)


READERS = {
    "report": ["report", "new.jsonl", "--output", "report"],
    "export": ["export", "pytest-benchmark", "new.jsonl", "--output", "export.json"],
    "export for github-action-benchmark": ["export", "github-action-benchmark", "new.jsonl", "--output", "export.json"],
    "baseline accept": ["baseline", "accept", "new.jsonl", "--results", "root"],
    "baseline show": ["baseline", "show", "--results", "shown"],
}
"""Verbs that read results and give no answer."""


def main() -> None:
    """Damage the asked number of files, and let the verbs read each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    chance = random.Random(parsed.seed)
    codes: dict[str, Counter[int]] = {}
    os.environ.pop("GITHUB_STEP_SUMMARY", None)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for number in range(parsed.files):
            kind = chance.choices(list(KINDS), weights=[weight for weight, _ in KINDS.values()])[0]
            code = KINDS[kind][1](chance, (kind, number))
            codes.setdefault(kind, Counter())[code] += 1
    for kind, counts in sorted(codes.items()):
        print(f"{kind}: {counts.total()} files, exit codes {dict(sorted(counts.items()))}")
    print(f"{parsed.files} files: no traceback, no verdict from damage, no exit code of an answer without one")


def _results(damage: Callable[[bytes, random.Random], bytes]) -> Callable[[random.Random, object], int]:
    base, new = original(1.0), original(1.2)

    def check(chance: random.Random, where: object) -> int:
        Path("base.jsonl").write_bytes(base)
        Path("new.jsonl").write_bytes(new)
        evidence = collect(store.load([Path("new.jsonl")])).values()
        undamaged = [dict(process.rounds) for of_one in evidence for process in of_one.processes.values()]
        Path("new.jsonl").write_bytes(damage(new, chance))
        code, text = run(["compare", "base.jsonl", "new.jsonl", "--json", "v.json"], where)
        check_verdict(code, text, undamaged, where)
        return code

    return check


def _other_verbs(chance: random.Random, where: object) -> int:
    damage = chance.choice([of_bytes, of_values])
    content = damage(original(1.2), chance)
    Path("new.jsonl").write_bytes(content)
    Path("shown/baselines").mkdir(parents=True, exist_ok=True)
    Path("shown/baselines/m.jsonl").write_bytes(content)
    # A report draws figures, which takes seconds.
    names = [name for name in READERS if name != "report" or chance.random() < 0.1]
    code, _ = run(READERS[chance.choice(names)], where)
    assert code in (0, 2), (where, code)
    return code


def _certificates(chance: random.Random, where: object) -> int:
    path = Path("c.json")
    certificates.write(path, certificate())
    Path("d.json").write_bytes(of_a_certificate(path.read_bytes(), chance))
    code, text = run(["verify", "c.json", "d.json"], where)
    assert (code == 0) <= ("verified" in text), (where, text)
    assert (code == 1) <= ("diverged" in text), (where, text)
    return code


def _foreign(chance: random.Random, where: object) -> int:
    document = to_pytest_benchmark(results(*replicated(STEADY), *replicated(STEADY, run="f", operation="forward")))
    for side, factor in (("base", 1.0), ("new", 1.2)):
        Path(side).mkdir(exist_ok=True)
        for number in range(3):
            for benchmark in document["benchmarks"]:
                times = [0.001 * factor * (1 + 0.01 * number + 0.001 * block) for block in range(5)]
                benchmark["stats"] |= {"data": times, "median": times[2]}
            Path(side, f"{number}.json").write_text(json.dumps(document))
    Path("new/1.json").write_bytes(of_a_document(Path("new/1.json").read_bytes(), chance))
    code, text = run(["compare", "base", "new"], where)
    assert (code in (0, 1, 3)) <= (f"exit code {code}" in text), (where, code, text)
    return code


KINDS: dict[str, tuple[int, Callable[[random.Random, object], int]]] = {
    "bytes of results, compare": (5, _results(of_bytes)),
    "sealed values of results, compare": (5, _results(of_values)),
    "results, other verbs": (4, _other_verbs),
    "certificates, verify": (3, _certificates),
    "files of pytest-benchmark, compare": (3, _foreign),
}
"""The kinds of damage, each with its weight and its check."""


if __name__ == "__main__":
    main()
