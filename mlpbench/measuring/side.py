"""One side of a comparison: settings, variables, an interpreter, a commit."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlpbench.config import RunConfig, override, without_paths
from mlpbench.errors import InputError

SIDES = ("a", "b")


# --- a side -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What one side of a comparison runs: settings of the workload, variables, an interpreter, a commit."""

    settings: tuple[str, ...] = ()  # field=value
    variables: Mapping[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable
    commit: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The side as text for the record, without paths."""
        labels = [*self.settings, *(f"env:{name}={without_paths(value)}" for name, value in self.variables.items())]
        if self.commit:
            labels.append(f"commit={self.commit}")
        if self.interpreter != sys.executable:
            labels.append(f"python={without_paths(self.interpreter)}")
        return tuple(labels)


def parse_side(settings: Sequence[str], config: RunConfig) -> Side:
    """A side from `field=value` on top of the config, `env:NAME=VALUE`, `python=PATH` and `commit=REVISION`.

    Raises:
        InputError: for anything else, an unknown field, or a commit that is not there.
    """
    fields: list[str] = []
    variables = {}
    interpreter, commit = sys.executable, None
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"a side is field=value, env:NAME=VALUE, python=PATH or commit=REVISION, not {setting!r}")
        if name.startswith("env:"):
            variables[name.removeprefix("env:")] = value
        elif name == "python":
            interpreter = value
        elif name == "commit":
            commit = _git("rev-parse", "--verify", "--short=12", f"{value}^{{commit}}")
        else:
            fields.append(setting)
    override(config, fields)
    return Side(settings=tuple(fields), variables=variables, interpreter=interpreter, commit=commit)


@contextmanager
def worktree(commit: str | None) -> Iterator[Path | None]:
    """A git worktree of the commit in a temporary folder, gone afterwards; None for None.

    Raises:
        InputError: if this is no git repository, or has no such commit.
    """
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mlpbench-") as folder:
        path = Path(folder) / "source"
        _git("worktree", "add", "--quiet", "--detach", str(path), commit)
        try:
            yield path
        finally:
            with suppress(InputError):
                _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise InputError(f"git cannot be run ({error.strerror}); a side that is a commit needs it") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it failed"])[-1].removeprefix("fatal: ")
        raise InputError(f"git {arguments[0]} {arguments[-1]}: {told}")
    return done.stdout.strip()
