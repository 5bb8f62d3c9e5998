"""Describe one side of a comparison: settings, environment variables, an interpreter, a commit."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlpbench.config import RunConfig, digest_paths, override
from mlpbench.errors import InputError
from mlpbench.machine import source

SIDES = ("a", "b")
_PREFIX = "mlpbench-"
"""How the names of temporary folders begin; the id of the process follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Say what one side of a comparison runs, and in which environment."""

    settings: tuple[str, ...] = ()
    """Changes of the workload, each as `field=value`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its processes."""
    interpreter: str = sys.executable
    """The Python that runs its processes."""
    commit: str | None = None
    """The commit whose source it runs, as a short hash; None for the source of this process."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the side as text for a record, without paths."""
        labels = [*self.settings, *(f"env:{name}={digest_paths(value)}" for name, value in self.variables.items())]
        if self.commit:
            labels.append(f"commit={self.commit}")
        if self.interpreter != sys.executable:
            # Not resolved: two virtual environments may share the file of their Python.
            path = str(Path(shutil.which(self.interpreter) or self.interpreter).absolute())
            labels.append(f"python={digest_paths(path, reads_files=False)}")
        return tuple(labels)


def parse_side(settings: Sequence[str], config: RunConfig) -> Side:
    """Build a side from `field=value` on top of the config, `env:NAME=VALUE`, `python=PATH` and `commit=REVISION`.

    Raises:
        InputError: for any other text, an unknown field, or a commit that Git does not know.
    """
    fields: list[str] = []
    variables = {}
    interpreter, commit = sys.executable, None
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(
                f"a setting of a side is field=value, env:NAME=VALUE, python=PATH or commit=REVISION, not {setting!r}"
            )
        if name.startswith("env:"):
            variables[name.removeprefix("env:")] = value
        elif name == "python":
            interpreter = value
        elif name == "commit":
            commit = _hash(value)
        else:
            fields.append(setting)
    override(config, fields)
    return Side(settings=tuple(fields), variables=variables, interpreter=interpreter, commit=commit)


@contextmanager
def worktree(commit: str | None) -> Iterator[Path | None]:
    """Give a git worktree of the commit in a temporary folder, and remove it at the end; for None, give None.

    Raises:
        InputError: if this folder is in no git repository, or if the repository has no such commit.
    """
    if commit is None:
        yield None
        return
    _remove_left_worktrees()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        path = Path(folder) / "source"
        source.git("worktree", "add", "--quiet", "--detach", str(path), commit)
        try:
            yield path
        finally:
            with suppress(InputError):
                source.git("worktree", "remove", "--force", str(path))


def _remove_left_worktrees() -> None:
    """Remove the worktrees of processes that were killed; their names hold the process that made them."""
    for line in source.git("worktree", "list", "--porcelain").splitlines():
        path = Path(line.removeprefix("worktree "))
        maker = path.parent.name.removeprefix(_PREFIX).partition("-")[0]
        if path.parent.name.startswith(_PREFIX) and maker.isdecimal() and not _is_running(int(maker)):
            with suppress(InputError):
                source.git("worktree", "remove", "--force", str(path))
            shutil.rmtree(path.parent, ignore_errors=True)


def _is_running(process: int) -> bool:
    """True if there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # A process of somebody else.
        return True
    return True


def _hash(revision: str) -> str:
    """Return the short hash of a commit.

    Raises:
        InputError: if this folder is in no git repository, or if Git does not know the revision.
    """
    if shutil.which("git") is None:
        raise InputError("cannot run git (it is not installed); a side with commit=REVISION needs it")
    # Fails outside a repository, so that the error below is about the revision.
    source.git("rev-parse", "--git-dir")
    try:
        return source.git("rev-parse", "--verify", "--short=12", f"{revision}^{{commit}}")
    except InputError:
        raise InputError(f"Git knows no commit or branch {revision!r}; `git log --oneline` lists commits") from None
