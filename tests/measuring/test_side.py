"""Test that a side of a comparison is parsed, labelled and refused correctly, and that worktrees are removed."""

import os
import sys

import pytest

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.measuring.side import Side, parse_side, worktree
from tests.measuring.repository import git


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a git repository with one commit, as the current folder."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "trunk")
    (tmp_path / "file").write_text("content")
    git("add", "file")
    git("commit", "-qm", "first")
    return tmp_path


def test_side_is_settings_variables_interpreter_and_commit(monkeypatch):
    monkeypatch.setattr("mlpbench.machine.source.git", lambda *arguments: f"hash of {arguments[-1]}")
    settings = ["lr=0.1", "env:OMP_NUM_THREADS=1", "python=/opt/python", "commit=HEAD~1", "env:X=a=b"]
    side = parse_side(settings, RunConfig())
    assert side.settings == ("lr=0.1",)
    assert side.variables == {"OMP_NUM_THREADS": "1", "X": "a=b"}
    assert (side.interpreter, side.commit) == ("/opt/python", "hash of HEAD~1^{commit}")


def test_labels_hold_no_path():
    side = parse_side(["env:LD_PRELOAD=/usr/lib/libjemalloc.so", "python=/home/me/bin/python"], RunConfig())
    assert all("/" not in label and "(a path, sha256 " in label for label in side.labels)
    assert [label.partition("=")[0] for label in side.labels] == ["env:LD_PRELOAD", "python"]


@pytest.mark.parametrize("setting", ["env:LD_PRELOAD={}", "env:XLA_FLAGS=--xla_dump_to={}", "python={}"])
def test_labels_tell_two_paths_apart(setting):
    labels = [
        parse_side([setting.format(path)], RunConfig()).labels for path in ("/opt/a/bin", "/opt/b/bin", "/opt/a/bin")
    ]
    assert labels[0] != labels[1]
    assert labels[0] == labels[2]


def test_virtual_environments_with_one_python_have_different_labels(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").symlink_to(sys.executable)
    one, other = (parse_side([f"python={tmp_path / name / 'python'}"], RunConfig()).labels for name in ("a", "b"))
    assert one != other


@pytest.mark.parametrize("setting", ["lr", "=3", "unknown=1", "lr=fast", "batch_size=0"])
def test_setting_that_cannot_be_is_refused(setting):
    with pytest.raises(InputError):
        parse_side([setting], RunConfig())


@pytest.mark.parametrize("revision", ["nosuch", "-x", ""])
def test_commit_that_git_does_not_know_is_refused_by_its_name(repository, revision):
    with pytest.raises(InputError, match=f"^Git knows no commit or branch '{revision}'; "):
        parse_side([f"commit={revision}"], RunConfig())


def test_commit_is_refused_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(InputError, match="not a git repository"):
        parse_side(["commit=HEAD"], RunConfig())


def test_commit_is_refused_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"^cannot run git .*commit=REVISION"):
        parse_side(["commit=HEAD"], RunConfig())


def test_worktree_has_the_source_of_the_commit_and_is_removed_at_the_end(repository):
    side = parse_side(["commit=trunk"], RunConfig())
    (repository / "file").write_text("changed")
    with worktree(side.commit) as path:
        assert (path / "file").read_text() == "content"
    assert not path.exists()
    assert len(git("worktree", "list").splitlines()) == 1


def test_worktree_of_a_killed_process_is_removed_by_the_next_and_a_running_one_stays(repository, tmp_path):
    left, running = (tmp_path / f"mlpbench-{process}-x" / "source" for process in (2**22 + 1, os.getpid()))
    for path in (left, running):
        git("worktree", "add", "--quiet", "--detach", str(path), "HEAD")
    with worktree(parse_side(["commit=HEAD"], RunConfig()).commit):
        assert (left.parent.exists(), running.exists()) == (False, True)
    assert [str(running) in line for line in git("worktree", "list").splitlines()] == [False, True]


def test_side_without_a_commit_has_no_worktree():
    with worktree(Side().commit) as path:
        assert path is None
