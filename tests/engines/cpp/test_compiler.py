"""Test the compiler that builds the C++: its errors, its limits, and how it ends with the process."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlpbench.engines.cpp import cache, compiler
from mlpbench.errors import InputError
from tests.conformance import needs_compiler
from tests.engines.cpp.small_library import digest_of, visible
from tests.paths import ROOT

pytestmark = needs_compiler

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


# --- processes that are killed

SLOW_COMPILER = """#!/bin/sh
# As g++ does: start another process, and wait for it.
sleep 300 & echo begun > "$TMPDIR/begun"; wait
"""

# The same build without PyTorch, which takes seconds to start.
BUILD = """
import sys
from pathlib import Path
from mlpbench.engines.cpp import cache, compiler
cache.make_private(Path(sys.argv[1]))
with cache.workspace(Path(sys.argv[1])) as scratch:
    compiler.build([sys.argv[2]], scratch / "library.so", limit_s=600, scratch=scratch)
"""
LOAD = """
import sys
from pathlib import Path
from tests.engines.cpp.small_library import small_library
library = small_library(Path(sys.argv[1]).parents[1])
library.load()
"""


def begin_to_build(folder: Path, compiler: Path, code: str = BUILD) -> tuple[subprocess.Popen, Path]:
    """Start a process that builds, and return it and its workspace as soon as its compiler has a child."""
    known = set(folder.glob("tmp*"))
    command = [sys.executable, "-c", code, str(folder), str(compiler)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    while True:
        for place in set(folder.glob("tmp*")) - known:
            if (place / "begun").exists():
                return process, place
        assert process.poll() is None
        time.sleep(0.02)


def running(text: str) -> list[int]:
    """Return the processes whose command line or working folder has the text."""
    numbers = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if text in (place / "cmdline").read_text() or text in str((place / "cwd").readlink()):
                numbers.append(int(place.name))
        except OSError:
            pass
    return numbers


@pytest.fixture
def slow_compiler(library, monkeypatch, tmp_path):
    script = tmp_path / "slow"
    script.write_text(SLOW_COMPILER)
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_compiler_and_its_children_end_with_the_process(library, slow_compiler, ending):
    assert_compiler_ends(*begin_to_build(library.path().parent, slow_compiler), ending)


@needs_proc
@pytest.mark.real
def test_compiler_ends_with_a_process_that_loads_an_engine(library, slow_compiler, monkeypatch):
    assert_compiler_ends(*begin_to_build(library.path().parent, slow_compiler, LOAD), signal.SIGKILL)
    monkeypatch.delenv("CXX")
    assert library.load().seven() == 7
    assert visible(library.path().parent) == [library.path().name, digest_of(library.path()).name]


def assert_compiler_ends(process: subprocess.Popen, place: Path, ending: int) -> None:
    # The supervisor, the compiler, and its child.
    assert len(running(str(place))) == 3
    process.send_signal(ending)
    process.wait()
    deadline = time.monotonic() + 10
    while running(str(place)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(str(place)) == []


def test_only_folders_of_processes_that_have_ended_are_removed(library, slow_compiler, monkeypatch):
    folder = library.path().parent
    (killed, left), (alive, used) = (begin_to_build(folder, slow_compiler) for _ in range(2))
    try:
        killed.kill()
        killed.wait()
        assert left.exists()
        monkeypatch.delenv("CXX")
        library.build(library.path())
        assert list(folder.glob("tmp*")) == [used]
        assert (used / "begun").exists()
    finally:
        alive.kill()
        alive.wait()


def test_folder_of_an_earlier_version_is_removed(library):
    folder = library.path().parent
    for name in ("tmpabcd_123", "tmp-of-mine", "MNIST"):
        (folder / name).mkdir(parents=True)
        (folder / name / "library.so").write_text("")
    library.load()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"tmp-of-mine", "MNIST"}


def test_without_locks_only_old_folders_are_removed(library, monkeypatch):
    folder = library.path().parent
    for name in ("tmpaaaaaaaa", "tmpbbbbbbbb"):
        (folder / name).mkdir(parents=True)
    os.utime(folder / "tmpaaaaaaaa", (0, 0))

    def flock(handle, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(cache.fcntl, "flock", flock)
    assert library.load().seven() == 7
    assert [path.name for path in folder.glob("tmp*")] == ["tmpbbbbbbbb"]


def test_builds_at_once_both_give_a_library(library):
    code = (
        "import sys\nfrom pathlib import Path\nfrom mlpbench.engines.cpp import cache\n"
        "folder, text = Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(200):\n"
        "    with cache.workspace(folder) as scratch:\n"
        "        (scratch / 'draft').write_text(text)\n"
        "        cache.store(scratch / 'draft', folder / 'one.so')\n"
        "    with cache.locked(folder, is_shared=True):\n"
        "        assert cache.damage(folder / 'one.so') is None\n"
    )
    folder = library.path().parent
    cache.make_private(folder)
    processes = [subprocess.Popen([sys.executable, "-c", code, str(folder), text], cwd=ROOT) for text in ("A", "BB")]
    assert [process.wait() for process in processes] == [0, 0]
    assert visible(folder) == ["one.so", "one.so.sha256"]


# --- compilers


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('g++ "-O2', "which is no command: No closing quotation; set it to a C++ compiler"),
        (" ", "CXX is ' ', which is no command; set it to a C++ compiler"),
        ("''", "found no program ''; install g++"),
        ("/does/not/exist", "found no /does/not/exist; install g++"),
        ("/tmp", "found no /tmp; install g++"),
        ("a\x1b[2Jb", r"found no a\x1b[2Jb; install g++"),
        ("rm -rf", "rm cannot build it: rm: "),
        ("rm -rf --", "rm cannot build it: it made no library; set CXX to a C++ compiler"),
        ("true", "true cannot build it: it made no library"),
        ("touch --", "touch cannot build it: it made no library"),
        (r"printf error:\033[2J\rbad\n", "printf cannot build it: "),
    ],
)
def test_program_that_is_no_compiler_gets_one_line_and_damages_nothing(
    library, monkeypatch, tmp_path, command, message
):
    monkeypatch.setenv("CXX", command)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        library.load()
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert library.source.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["small.cpp"]


def test_control_characters_of_a_compiler_are_escaped(library, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nprintf 'error: \\033[2J\\033]0;x\\007 bad\\r\\n' >&2; exit 3\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "./c++")
    with pytest.raises(InputError) as error:
        library.load()
    assert rf"{tmp_path}/c++ cannot build it: error: \x1b[2J\x1b]0;x\x07 bad (engine=eager" in str(error.value)
    assert str(error.value).isprintable()


@needs_proc
def test_compiler_that_hangs_is_stopped_with_its_children(library, slow_compiler, monkeypatch):
    monkeypatch.setattr("mlpbench.engines.cpp.library._PROBE_LIMIT_S", 1.0)
    with pytest.raises(InputError, match=r"small cannot be built: .*slow did not end within 1 s, and was stopped; eng"):
        library.load()
    assert visible(library.path().parent) == []
    assert running(str(library.path().parent)) == []


def test_compiler_has_no_input_and_endless_output_is_not_kept(tmp_path):
    assert compiler.run(["cat"], limit_s=60, scratch=tmp_path) == (0, "")
    with pytest.raises(TimeoutError):
        compiler.run(["yes"], limit_s=0.5, scratch=tmp_path)
    code, output = compiler.run(["sh", "-c", "yes | head -c 5000000; kill -9 $$"], limit_s=60, scratch=tmp_path)
    assert code == 128 + 9
    assert len(output) == 100_000


def test_program_that_the_system_cannot_run_gets_one_line(library, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(InputError, match="cannot build it: error: cannot run it: Exec format error"):
        library.load()


# --- a full disk


@pytest.mark.parametrize("kilobytes", [0, 1, 8])
def test_limit_of_file_size_gives_one_line_and_leaves_no_library(library, kilobytes, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            library.load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value).startswith("engine small")
    assert str(error.value).isprintable()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert visible(library.path().parent) == []
    assert library.load().seven() == 7


def test_library_that_cannot_be_moved_leaves_the_old_one(library, monkeypatch):
    library.load()
    old = library.path().read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(InputError, match="small cannot be built: No space left on device; engine=eager"):
            library.build(library.path())
    assert library.path().read_bytes() == old
    assert cache.damage(library.path()) is None
