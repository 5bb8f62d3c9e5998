"""Records survive the disk exactly, even if their writer is killed, and several files are loaded together."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given

from mlpbench.errors import InputError
from mlpbench.records import store
from tests import strategies
from tests.paths import ROOT
from tests.records.history import HISTORY, as_bytes, content
from tests.strategies import ENVIRONMENT, changed, histories, results


def search_path() -> dict[str, str]:
    """Return the environment in which a new interpreter finds `tests`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


# --- writing ----------------------------------------------------------------------------------------------------------


@given(histories())
def test_every_record_survives_the_disk_exactly_and_in_order(folder, history):
    path = folder / "history.jsonl"
    path.unlink(missing_ok=True)
    for record in history:
        store.append(path, record)
    loaded = store.load([path])
    assert content(loaded) == content(results(*history))
    assert loaded.problems == []


def test_append_creates_the_folder_and_keeps_earlier_records(tmp_path):
    path = tmp_path / "machine" / "day.jsonl"
    store.append(path, HISTORY[0])
    before = path.read_bytes()
    store.append(path, HISTORY[1])
    assert path.read_bytes() == before + as_bytes([HISTORY[1]])


def test_results_file_is_named_after_machine_day_and_commit():
    clean = store.results_file(Path("results"), ENVIRONMENT, date(2026, 2, 3))
    dirty = store.results_file(Path("results"), changed(ENVIRONMENT, dirty=True), date(2026, 2, 3))
    assert clean == Path(f"results/{ENVIRONMENT.machine}/2026-02-03-0123abc.jsonl")
    assert dirty.name == "2026-02-03-0123abc-dirty.jsonl"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mlpbench.records import store
from tests import strategies

path = Path(sys.argv[1])
store.append(path, strategies.session("s"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100,) * 2)
try:
    store.append(path, strategies.session("t"))
except OSError:
    sys.exit(28)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the file's size")
def test_append_raises_if_the_disk_is_full(tmp_path):
    path = tmp_path / "full.jsonl"
    assert subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], env=search_path(), check=False).returncode == 28
    assert list(store.load([path]).sessions) == ["s"]


WRITER = """
import sys
from itertools import count
from pathlib import Path
from mlpbench.records import store
from tests import strategies

path = Path(sys.argv[1])
store.append(path, strategies.session("s"))
store.append(path, strategies.measurement("m"))
for number in count():
    store.append(path, *strategies.blocks("m", {number: 1.0}))
    print(number, flush=True)
"""


@pytest.mark.parametrize("num_blocks", [1, 2, 17, 200, 1000])
def test_killed_writer_leaves_every_finished_block(tmp_path, num_blocks):
    path = tmp_path / "killed.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=search_path()) as process:
        for _ in range(num_blocks):
            assert process.stdout.readline()
        process.kill()
        num_reported = num_blocks + len(process.stdout.readlines())
    loaded = store.load([path])
    rounds = [block.round for block in loaded.blocks]
    assert rounds == list(range(len(rounds)))
    assert len(rounds) >= num_reported
    assert len(rounds) == path.read_bytes().count(b"\n") - 2
    assert all("cut off" in problem for problem in loaded.problems)


# --- files without records --------------------------------------------------------------------------------------------

PYTEST_BENCHMARK = {"machine_info": {"node": "example"}, "benchmarks": [{"name": "test_x", "stats": {"min": 1.0}}]}


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n", id="blank"),
        pytest.param(b"machine,median_s\nexample,0.001\n", id="csv"),
        pytest.param(json.dumps(PYTEST_BENCHMARK, indent=4).encode(), id="pytest-benchmark"),
        pytest.param(json.dumps(PYTEST_BENCHMARK).encode() + b"\n", id="pytest-benchmark-one-line"),
        pytest.param(bytes(range(256)) * 20, id="binary"),
        pytest.param(b'[1]\n"kind"\n3\nnull\n', id="json-lines"),
        pytest.param(b'{"kind":"block","schema":1,"a\\nb":1}\n', id="field-with-a-newline"),
    ],
)
def test_foreign_file_is_refused_in_one_line_with_its_path(tmp_path, foreign):
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(foreign)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        store.load([path])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("missing.jsonl", id="file"),
        pytest.param("missing/folder", id="folder"),
        pytest.param("nul\0byte", id="nul"),
        pytest.param("x" * 300, id="name-too-long"),
    ],
)
def test_missing_path_is_refused_in_one_line_with_its_name(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        store.load([tmp_path / name])
    assert len(str(caught.value).splitlines()) == 1


def test_empty_folder_is_refused_in_one_line_with_its_path(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as caught:
        store.load([tmp_path])
    assert len(str(caught.value).splitlines()) == 1


# --- several files ----------------------------------------------------------------------------------------------------


def test_path_named_twice_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "machine" / "day.jsonl"
    for record in HISTORY:
        store.append(path, record)
    (tmp_path / "link.jsonl").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    loaded = store.load([path, Path("machine/day.jsonl"), tmp_path, tmp_path / "link.jsonl", path.parent])
    assert content(loaded) == content(results(*HISTORY))


def test_copy_of_a_file_counts_once(tmp_path):
    for name in ("day.jsonl", "copy.jsonl"):
        (tmp_path / name).write_bytes(as_bytes(HISTORY))
    assert content(store.load([tmp_path])) == content(results(*HISTORY))


def test_folder_is_read_with_its_subfolders_and_only_jsonl(tmp_path):
    store.append(tmp_path / "a" / "b" / "1.jsonl", strategies.session("one"))
    store.append(tmp_path / "2.jsonl", strategies.session("two"))
    (tmp_path / "README.md").write_text("not results")
    assert set(store.load([tmp_path]).sessions) == {"one", "two"}


def test_damage_in_one_file_does_not_affect_the_others(tmp_path):
    store.append(tmp_path / "1.jsonl", strategies.session("one"))
    store.append(tmp_path / "2.jsonl", strategies.session("two"))
    with (tmp_path / "1.jsonl").open("ab") as file:
        file.write(b"{\n")
    loaded = store.load([tmp_path])
    assert set(loaded.sessions) == {"one", "two"}
    assert [problem.split(":")[0] for problem in loaded.problems] == [str(tmp_path / "1.jsonl")]


def test_newest_file_is_the_one_written_last(tmp_path):
    for name, seconds in (("a/1.jsonl", 100), ("b/2.jsonl", 300), ("b/3.jsonl", 200)):
        store.append(tmp_path / name, strategies.session(name))
        os.utime(tmp_path / name, (seconds, seconds))
    assert store.newest_files(tmp_path)[0] == tmp_path / "b/2.jsonl"


def test_bad_file_in_a_folder_does_not_affect_the_others(tmp_path):
    store.append(tmp_path / "good.jsonl", strategies.session("one"))
    (tmp_path / "torn.jsonl").write_text('{"kind":"session","sch')
    loaded = store.load([tmp_path])
    assert (set(loaded.sessions), len(loaded.problems)) == ({"one"}, 1)
    assert str(tmp_path / "torn.jsonl") in loaded.problems[0]
    with pytest.raises(InputError):
        store.load([tmp_path / "torn.jsonl"])
