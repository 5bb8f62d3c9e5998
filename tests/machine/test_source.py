"""Check that a source has the name of its commit only if git knows it, in real repositories and processes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlpbench.errors import InputError
from mlpbench.machine import source
from tests.measuring.repository import git


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a small copy of the source in a repository with one commit, as the current folder."""
    root = tmp_path / "checkout"
    for name in ("mlpbench/__init__.py", "mlpbench/engines/fused.cpp", "bench/test_epochs.py", "pyproject.toml",
                 "docs/usage.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}\n")
    monkeypatch.chdir(root)
    # A repository above the temporary folder must not answer.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    git("init", "-q", "-b", "trunk")
    git("add", ".")
    git("commit", "-qm", "first")
    return root


def read(checkout):
    return source.read(checkout / "mlpbench")


def edit(checkout, name="mlpbench/__init__.py"):
    with (checkout / name).open("a") as file:
        file.write("# edited\n")


# --- git knows the commit


def test_commit_is_that_of_the_repository(checkout):
    assert read(checkout) == source.Source(commit=git("rev-parse", "HEAD")[:12], dirty=False)


@pytest.mark.parametrize("name", ["mlpbench/__init__.py", "mlpbench/engines/fused.cpp", "bench/test_epochs.py",
                                  "pyproject.toml", "mlpbench/new.py"])  # fmt: skip
def test_edited_source_is_dirty(checkout, name):
    edit(checkout, name)
    first = read(checkout)
    edit(checkout, name)
    assert first.dirty
    assert first.commit == git("rev-parse", "HEAD")[:12]
    assert len({None, first.digest, read(checkout).digest}) == 3


def test_files_that_are_no_source_do_not_count(checkout):
    edit(checkout, "docs/usage.md")
    (checkout / "results.jsonl").touch()
    (checkout / "mlpbench/__pycache__").mkdir()
    (checkout / "mlpbench/__pycache__/__init__.pyc").touch()
    assert not read(checkout).dirty


def test_source_in_a_folder_of_another_repository_has_its_own_state(checkout):
    inner = checkout / "third_party"
    shutil.copytree(checkout / "mlpbench", inner / "mlpbench")
    git("add", ".")
    git("commit", "-qm", "second")
    assert not source.read(inner / "mlpbench").dirty
    edit(checkout, "third_party/mlpbench/__init__.py")
    assert source.read(inner / "mlpbench").dirty
    assert not read(checkout).dirty


def test_variables_of_a_git_hook_do_not_change_the_answer(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    expected = read(checkout)
    for name, value in {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": "index"}.items():
        monkeypatch.setenv(name, value)
    assert read(checkout) == expected
    edit(checkout)
    assert read(checkout).dirty


def test_every_variable_that_git_calls_local_is_removed_but_the_configuration():
    local = set(git("rev-parse", "--local-env-vars").split())
    assert {name for name in local if not name.startswith("GIT_CONFIG")} <= set(source._LOCAL_VARIABLES)


# --- git does not know it


def refuse(checkout, monkeypatch):
    # As git does it for the checkout of another user.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def remove_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")


def remove_repository(checkout, monkeypatch):
    shutil.rmtree(checkout / ".git")


def leave_untracked(checkout, monkeypatch):
    git("rm", "-rq", "--cached", ".")


def spoil_the_index(checkout, monkeypatch):
    (checkout / ".git/index").write_bytes(b"garbage")


def start_without_a_commit(checkout, monkeypatch):
    shutil.rmtree(checkout / ".git")
    git("init", "-q")
    git("add", ".")


PROBLEMS = {
    refuse: "dubious ownership",
    remove_git: "cannot run git",
    remove_repository: "not a git repository",
    leave_untracked: "no git repository holds it",
    spoil_the_index: "index",
    start_without_a_commit: "the repository has no commit",
}


@pytest.mark.parametrize("spoil", PROBLEMS, ids=lambda spoil: spoil.__name__)
def test_source_is_named_by_its_content_if_git_does_not_know_the_commit(checkout, monkeypatch, spoil):
    spoil(checkout, monkeypatch)
    before, again = read(checkout), read(checkout)
    assert before.commit.startswith("source-")
    assert len(before.commit) == len("source-") + 12
    assert before == again
    assert not before.dirty
    assert PROBLEMS[spoil] in before.problem
    names = {before.commit}
    for name in ("mlpbench/__init__.py", "mlpbench/engines/fused.cpp", "bench/test_epochs.py", "pyproject.toml"):
        edit(checkout, name)
        names.add(read(checkout).commit)
    assert len(names) == 5


def test_digest_depends_on_the_source_alone(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    (copy / "mlpbench/__pycache__").mkdir()
    (copy / "mlpbench/__pycache__/__init__.pyc").write_bytes(b"compiled")
    edit(copy, "docs/usage.md")
    assert read(copy).commit == read(checkout).commit
    (copy / "mlpbench/engines/fused.cpp").rename(copy / "mlpbench/engines/other.cpp")
    assert read(copy).commit != read(checkout).commit


def test_installed_package_is_named_by_its_content_alone(checkout):
    site = checkout / "venv/lib/site-packages"
    shutil.copytree(checkout / "mlpbench", site / "mlpbench")
    before = source.read(site / "mlpbench")
    # Beside it are other packages.
    shutil.copytree(checkout / "bench", site / "bench")
    assert source.read(site / "mlpbench").commit == before.commit
    assert source.is_installed(site / "mlpbench")
    assert not source.is_installed(checkout / "mlpbench")
    edit(site)
    assert source.read(site / "mlpbench").commit != before.commit


def test_source_that_cannot_be_read_is_unknown_and_not_clean(checkout, monkeypatch):
    shutil.rmtree(checkout / ".git")

    def refuse_to_read(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse_to_read)
    assert read(checkout).commit == "unknown"
    assert read(checkout).dirty
    assert read(checkout).digest is None


# --- the real package in a process of its own


@pytest.mark.parametrize("spoil", [refuse, remove_repository], ids=lambda spoil: spoil.__name__)
def test_process_warns_in_one_line_and_names_the_digest(tmp_path, monkeypatch, spoil):
    root = Path(source.PACKAGE).parent
    shutil.copytree(root / "mlpbench", tmp_path / "mlpbench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-c", "from mlpbench.machine.environment import current; print(current().source)"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == git("rev-parse", "HEAD")[:12]
    assert process.stderr == ""
    spoil(tmp_path, monkeypatch)
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("source-")
    (line,) = process.stderr.splitlines()
    assert line.startswith("mlpbench: the commit of this source is not known (git ls-files failed: ")
    assert line.endswith(f"results name it {process.stdout.strip()}")


# --- running git


def test_failure_of_git_is_one_line_with_its_reason(checkout):
    with pytest.raises(InputError, match=r"^git rev-parse failed: Needed a single revision$"):
        source.git("rev-parse", "--verify", "nothing")


def test_missing_git_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"^cannot run git \("):
        source.git("status")
