"""A verb's exit code is that of its answer, however its output is read; every other end has a code of its own."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlpbench.cli import exits, main, streams
from mlpbench.errors import InputError, OutputError
from tests.judging.processes import STEADY, scaled, write
from tests.strategies import HOSTILE_REASON, replicated, skip

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a device of Linux")


def run(*arguments, cwd, stdout=subprocess.PIPE, **options) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a real process; it never prints a traceback."""
    command = [sys.executable, "-m", "mlpbench", *map(str, arguments)]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=cwd, check=False, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Return a folder with `base.jsonl`, `same.jsonl` and `slower.jsonl`."""
    folder = tmp_path_factory.mktemp("sides")
    write(folder / "base.jsonl", replicated(STEADY))
    write(folder / "same.jsonl", replicated(STEADY, run="n"))
    write(folder / "slower.jsonl", replicated(scaled(1.2), run="n"))
    return folder


def closed_pipe() -> int:
    """Return the writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


# --- an answer


@pytest.mark.parametrize(("new", "code"), [("same", 0), ("slower", 1)])
def test_reader_that_leaves_does_not_change_the_answer(sides, new, code):
    pipe = closed_pipe()
    done = run("compare", "base.jsonl", f"{new}.jsonl", cwd=sides, stdout=pipe)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (code, "")


@needs_full
@pytest.mark.parametrize("new", ["same", "slower"])
def test_output_that_cannot_be_written_is_no_answer_but_the_files_are_there(sides, tmp_path, new):
    with FULL.open("w") as full:
        done = run("compare", "base.jsonl", f"{new}.jsonl", "--json", tmp_path / "v.json", cwd=sides, stdout=full)
    assert (done.returncode, len(done.stderr.splitlines())) == (74, 1)
    assert f'"verdict": "{new}"' in (tmp_path / "v.json").read_text()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_encoding_without_our_characters_loses_nothing(sides, tmp_path, variables):
    code = run(
        "compare", "base.jsonl", "slower.jsonl", "--json", tmp_path / "v.json", cwd=sides, env=os.environ | variables
    ).returncode
    assert (code, '"verdict": "slower"' in (tmp_path / "v.json").read_text()) == (1, True)


def test_verdicts_are_printed_even_if_their_file_cannot_be_written(sides, capsys, monkeypatch):
    monkeypatch.chdir(sides)
    assert main.main(["compare", "base.jsonl", "slower.jsonl", "--json", "."]) == 2
    output = capsys.readouterr()
    assert "1 slower" in output.out
    assert len(output.err.splitlines()) == 1


def test_only_an_answer_has_an_exit_code():
    assert exits.of_outcome(None, ()) == 0
    assert [exits.of_outcome(exits.Answer(code), ()) for code in (0, 1, 3, 4)] == [0, 1, 3, 4]
    with pytest.raises(AssertionError, match="only an answer"):
        exits.of_outcome(1, ())


@pytest.mark.parametrize(("answer", "code"), [(None, 2), (0, 2), (3, 2), (1, 1), (4, 4)])
def test_damaged_input_is_never_a_pass(answer, code):
    outcome = None if answer is None else exits.Answer(answer)
    assert exits.of_outcome(outcome, ["a.jsonl: line 1 is damaged"]) == code


def test_no_error_has_the_exit_code_of_an_answer():
    errors = [
        InputError("x"), OutputError("x"), KeyboardInterrupt(), MemoryError(), BrokenPipeError(), OSError(28, "full"),
        SystemExit(1), RuntimeError("x"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ]  # fmt: skip
    codes = [exits.of_error(error)[0] for error in errors]
    assert codes == [2, 74, 130, 71, 70, 74, 70, 70, 71]
    assert not {0, 1, 3, 4}.intersection(codes)


# --- other verbs


@pytest.mark.parametrize(
    "verb", [["env"], ["--help"], ["report", "base.jsonl"], ["export", "pytest-benchmark", "base.jsonl"]]
)
def test_reader_that_leaves_ends_another_verb_with_141(sides, verb):
    pipe = closed_pipe()
    done = run(*verb, cwd=sides, stdout=pipe)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (141, "")


@needs_full
@pytest.mark.parametrize("verb", [["env"], ["export", "pytest-benchmark", "base.jsonl"]])
def test_full_disk_behind_the_output_has_one_line_and_74(sides, verb):
    with FULL.open("w") as full:
        done = run(*verb, cwd=sides, stdout=full)
    assert (done.returncode, len(done.stderr.splitlines())) == (74, 1)


@pytest.mark.parametrize(
    "command",
    [
        ["report", "base.jsonl", "--output", "report"],
        ["export", "pytest-benchmark", "base.jsonl", "--output", "old"],
        ["baseline", "accept", "base.jsonl", "--results", "."],
        ["certify", "old", "--steps", "2"],
        ["compare", "base.jsonl", "same.jsonl", "--html", "old"],
    ],
    ids=lambda command: command[0],
)
def test_file_that_grows_too_large_leaves_the_old_one(sides, tmp_path, command):
    for name in ("base.jsonl", "same.jsonl"):
        (tmp_path / name).write_bytes((sides / name).read_bytes())
    (tmp_path / "old").write_text("old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = run(*command, cwd=tmp_path, preexec_fn=limit, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.returncode, len(done.stderr.splitlines())) == (74, 1)
    assert (tmp_path / "old").read_text() == "old"
    assert not list(tmp_path.rglob("*.tmp"))


def test_text_of_a_record_is_never_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reason = "needs the package jax: pip install 'mlpbench[peers]' [/x] [bold] :smile:"
    Path("a.jsonl").write_bytes(b"")
    write(Path("a.jsonl"), [*replicated(STEADY), skip(reason, session=replicated(STEADY)[0].id)])
    assert main.main(["report", "a.jsonl", "--output", "o[/x]y"]) == 0
    printed = capsys.readouterr().out
    assert "'mlpbench[peers]' [/x] [bold] :smile:" in " ".join(printed.split())
    assert "report: o[/x]y/report.html" in printed


def test_control_characters_of_a_path_do_not_reach_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["report", "a\x1b[2Jb\nc"]) == 2
    error = capsys.readouterr().err
    assert "a\\x1b[2Jb\\nc" in error
    assert len(error.splitlines()) == 1


def test_stream_drops_what_comes_after_a_failure():
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

    stream = streams.Stream(Closed())
    assert [stream.write("abc"), stream.write("de")] == [3, 2]
    stream.flush()
    assert isinstance(stream.failure, BrokenPipeError)


def test_process_without_standard_output_does_its_work(sides):
    command = f"exec {sys.executable} -m mlpbench compare base.jsonl slower.jsonl >&-"
    assert subprocess.run(command, shell=True, cwd=sides, check=False).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("library", ["numpy", "libtorch_cpu", "_ckdtree", "_image", "epoch"])
def test_interrupt_at_any_time_has_one_line_and_130(tmp_path, number, library):
    """Send a signal when a library was loaded, or after the first epoch."""
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlpbench", "train", "--epochs", "500", "--results", tmp_path],
            stdout=output, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while library not in (log.read_text() if library == "epoch" else maps.read_text()):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (error.count("\n"), "mlpbench: interrupted" in error, process.returncode) == (1, True, 130)


def test_hostile_reason_is_in_one_line_of_the_message():
    _, line = exits.of_error(InputError(HOSTILE_REASON))
    assert line.isprintable()
