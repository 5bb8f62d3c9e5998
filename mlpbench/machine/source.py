"""Tell which source of mlpbench runs: the commit, if git knows it, or else a digest."""

import functools
import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mlpbench.errors import InputError

PACKAGE = Path(__file__).parent.parent
DIGITS = 12
"""The hexadecimal digits of a commit or digest that records hold."""

# Git sets these for its hooks. They would make it ask about another repository than that of the folder. As
# `git rev-parse --local-env-vars` lists them, without the configuration.
_LOCAL_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
)  # fmt: skip

# What decides the benchmarks, beside the package.
_BESIDE = ("bench", "pyproject.toml")
# What Python compiles is no source, also where no .gitignore says so.
_NOT_COMPILED = ":(top,exclude)*__pycache__*"
# Folders into which package managers install.
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Hold the name of a source."""

    commit: str
    """The commit, or `source-` and a digest of the source."""
    dirty: bool
    """True if the source differs from the commit, or cannot be read."""
    digest: str | None = None
    """The digest of a source that differs from its commit; None if it does not, or cannot be read."""
    problem: str | None = None
    """The reason why git does not know the commit."""


def git(*arguments: str, folder: Path | None = None) -> str:
    """Run git in a folder, None for the current one, whatever repository the environment variables name.

    Returns:
        Its output, without white space at the end.

    Raises:
        InputError: if git is missing, or fails.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _LOCAL_VARIABLES}
    try:
        process = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            capture_output=True, text=True, errors="replace", check=False, cwd=folder,
            # It must not change the index that another git may be writing.
            env=variables | {"GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot run git ({error.strerror})") from None
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        # Advice may follow the reason.
        reason = next((line for line in lines if line.startswith("fatal: ")), lines[-1])
        raise InputError(f"git {arguments[0]} failed: {reason.removeprefix('fatal: ')}")
    return process.stdout.rstrip()


def read(package: Path = PACKAGE) -> Source:
    """Return the source of a copy of the package. Results do not belong to it; `bench/` and pyproject.toml do.

    Git is not believed when it fails: a source without a known commit is named by its content.
    """
    beside = [name for name in _BESIDE if (package.parent / name).exists()]
    try:
        if not git("ls-files", "--", "__init__.py", folder=package):
            raise InputError("no git repository holds it")
        status = git(
            "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--", _NOT_COMPILED, ".",
            *(f"../{name}" for name in beside), folder=package,
        )  # fmt: skip
    except InputError as error:
        return _without_git(package, str(error))
    lines = status.splitlines()
    commit = next((line.rpartition(" ")[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return _without_git(package, "the repository has no commit")
    dirty = any(not line.startswith("#") for line in lines)
    return Source(commit=commit[:DIGITS], dirty=dirty, digest=_digest(package) if dirty else None)


def is_installed(package: Path = PACKAGE) -> bool:
    """True if a package manager installed the package, so that there is no commit to know."""
    return not _INSTALLED.isdisjoint(package.parts)


def _without_git(package: Path, problem: str) -> Source:
    digest = _digest(package)
    commit = "unknown" if digest is None else f"source-{digest}"
    return Source(commit=commit, dirty=digest is None, problem=problem)


def _digest(package: Path) -> str | None:
    """Return the digest of the names and contents of all source files; None if one of them cannot be read.

    What Python compiled and hidden files do not belong to the source.
    """
    # Beside an installed package are other packages.
    roots = [package, *([] if is_installed(package) else (package.parent / name for name in _BESIDE))]
    content = hashlib.sha256()
    try:
        files = [file for root in roots for file in (root.rglob("*") if root.is_dir() else [root]) if file.is_file()]
        for file in sorted(files):
            name = file.relative_to(package.parent)
            if not any(part.startswith((".", "__pycache__")) for part in name.parts):
                data = file.read_bytes()
                content.update(f"{name.as_posix()}\n{len(data)}\n".encode() + data)
    except OSError:
        return None
    return content.hexdigest()[:DIGITS]


@functools.cache
def current() -> Source:
    """Return the source that runs, as it was at the first call."""
    return read()
