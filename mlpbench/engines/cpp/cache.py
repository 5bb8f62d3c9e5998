"""Keep compiled code where no other user can change it, and check it before it is loaded.

Whoever can change a file that is loaded as code can run code as this user. So the folder has the mode 0700, its files
belong to this user, and nobody else can put another folder in its place. The SHA-256 of each library stands beside it,
in the format of `sha256sum --check`, and finds damage.
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mlpbench.errors import InputError, printable

_IS_POSIX = os.name == "posix"
if _IS_POSIX:
    import fcntl
    import grp
    import pwd

_LOCK = ".lock"
_DIGEST = ".sha256"
# The names that `tempfile` gives. Earlier versions built in folders with such names too, and left them behind.
_WORKSPACE = re.compile(r"tmp[a-z0-9_]{8}")
_OLD_S = 3600.0
"""The age in seconds from which on a workspace is nobody's, where the file system has no locks."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PRIVATE = 0o700
# While the digests of others are removed. A process that sees this mode does so too, because another may have been
# killed meanwhile.
_UNCHECKED = _PRIVATE | stat.S_ISVTX


def home() -> Path:
    """Return the folder of compiled code: `$XDG_CACHE_HOME/mlpbench`, by default `~/.cache/mlpbench`.

    Raises:
        InputError: if the user has no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlpbench"
    except RuntimeError:
        raise InputError(
            "there is no home folder for compiled code; set XDG_CACHE_HOME to a folder that only you can write"
        ) from None


def give_private_folder(variable: str, name: str) -> None:
    """Let another compiler keep its code in a private folder: the one that its variable names, or one of ours.

    PyTorch's own default is a fixed name in the folder for temporary files, where everybody can create it first.

    Raises:
        InputError: as `make_private` does.
    """
    if not _IS_POSIX:
        return
    if not os.environ.get(variable):
        make_private(home(), variable)
        os.environ[variable] = str(home().absolute() / name)
    make_private(Path(os.environ[variable]), variable, has_digests=False)


# --- the folder -------------------------------------------------------------------------------------------------------


def make_private(folder: Path, variable: str = "XDG_CACHE_HOME", *, has_digests: bool = True) -> None:
    """Create a folder with mode 0700, or give this mode to a folder of this user that has looser rights.

    What others may have put into a folder that they could write is not used. Its digests are removed, so that its
    libraries are built again. A folder without digests is refused.

    Raises:
        InputError: if others can change the folder or what its path means; the message names `variable`.
    """
    if not _IS_POSIX:
        raise InputError("compiled libraries need Linux or macOS; choose an engine without C++, such as engine=manual")
    folder = folder.absolute()
    try:
        # Not `parents=True`, which would create them with the rights that the umask leaves.
        for place in (*reversed(folder.parents), folder):
            if not os.path.lexists(place):
                place.mkdir(mode=_PRIVATE, exist_ok=True)
        _check_path(folder.parent, folder, variable)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _tighten(handle, folder, variable, has_digests=has_digests)
        finally:
            os.close(handle)
    except OSError as error:
        if folder.is_symlink():
            _refuse(folder, "is a link", folder, variable)
        _refuse(folder, f"cannot be used ({error.strerror})", folder, variable)


def _check_path(path: Path, folder: Path, variable: str) -> None:
    """Check each part of a path, and of the links in it: only this user and root can give it another meaning.

    In a folder with the sticky bit, such as /tmp, others cannot rename or remove what belongs to this user.
    """
    for place in (*reversed(path.parents), path):
        status = place.lstat()
        if status.st_uid not in _trusted():
            _refuse(place, f"belongs to {_user(status.st_uid)}", folder, variable)
        if stat.S_ISLNK(status.st_mode):
            # A path that leads in a circle ends here.
            place.stat()
            _check_path(place.parent / place.readlink(), folder, variable)
        elif status.st_mode & _OTHERS_WRITE and not (status.st_mode & stat.S_ISVTX or _is_private_group(status)):
            advice = f"run `chmod go-w {shlex.quote(str(place))}`, or " if status.st_uid == os.geteuid() else ""
            _refuse(place, "can be written by others", folder, variable, advice)


def _trusted() -> set[int]:
    """Return the users who can change everything anyway: this one, root, and the owner of `/`.

    In a container without a user root, the owner of `/` has another number.
    """
    return {os.geteuid(), 0, Path("/").stat().st_uid}


def _is_private_group(status: os.stat_result) -> bool:
    """True if only the group of this user alone can write: many systems give each user a group of the same name."""
    if status.st_mode & stat.S_IWOTH or status.st_uid != os.geteuid():
        return False
    try:
        group, name = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _tighten(handle: int, folder: Path, variable: str, *, has_digests: bool) -> None:
    status = os.fstat(handle)
    if status.st_uid != os.geteuid():
        _refuse(folder, f"belongs to {_user(status.st_uid)}", folder, variable)
    if stat.S_IMODE(status.st_mode) == _PRIVATE:
        return
    is_open = bool(status.st_mode & _OTHERS_WRITE) and not _is_private_group(status)
    if is_open and not has_digests:
        _refuse(folder, "can be written by others, who may have put code there", folder, variable, "delete it, or ")
    must_clear = is_open or stat.S_IMODE(status.st_mode) == _UNCHECKED
    # A folder that others can only read does no harm where the rights cannot be changed, as on a read-only disk.
    with contextlib.suppress(OSError):
        os.fchmod(handle, _UNCHECKED if must_clear else _PRIVATE)
    if os.fstat(handle).st_mode & _OTHERS_WRITE:
        _refuse(folder, "can be written by others, which its file system does not let us change", folder, variable)
    if must_clear:
        # Another user who opened the old lock could hold it for ever.
        for path in (folder / _LOCK, *folder.glob(f"*{_DIGEST}")):
            path.unlink(missing_ok=True)
        os.fchmod(handle, _PRIVATE)


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _refuse(place: Path, reason: str, folder: Path, variable: str, advice: str = "") -> NoReturn:
    purpose = "" if place == folder else f", so others could put code into {folder}"
    raise InputError(
        printable(f"{place} {reason}{purpose}; {advice}set {variable} to a folder that only you can write")
    )


# --- the files in it --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path, *, is_shared: bool = False) -> Iterator[None]:
    """Keep other processes from moving libraries meanwhile; several processes can read at once.

    A read-only or remote disk may have no locks. Then a library can meet the digest of another build. That is found as
    damage, and mended by the next build.
    """
    handle = None
    try:
        with contextlib.suppress(OSError):
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(handle, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def damage(library: Path) -> str | None:
    """Return the reason why a library must not be loaded; None if it is as it was built."""
    try:
        content, digest = _read(library), _read(_digest_file(library))
    except FileNotFoundError as error:
        return "has no SHA-256" if library.exists() and error.filename != str(library) else "is missing"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return None if digest == _digest_line(content, library) else "differs from its SHA-256"


def _read(path: Path) -> bytes:
    """Return the content of a file that only this user can write.

    Raises:
        OSError: if it is something else, or cannot be read.
    """
    # A link is not followed, and a pipe is not waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a file")
        if status.st_uid != os.geteuid():
            raise OSError(None, f"belongs to {_user(status.st_uid)}")
        if status.st_mode & _OTHERS_WRITE:
            raise OSError(None, "others can write it")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def _digest_file(library: Path) -> Path:
    return library.with_name(library.name + _DIGEST)


def _digest_line(content: bytes, library: Path) -> bytes:
    # With the name, so that the library of another engine, with its own digest, is not taken for this one.
    return f"{hashlib.sha256(content).hexdigest()}  {library.name}\n".encode()


def store(draft: Path, library: Path) -> None:
    """Move a library from its workspace to its name, with its digest.

    Raises:
        OSError: if it cannot be moved; then an older library is still whole, or will be built again.
    """
    draft.chmod(_PRIVATE)
    digest = draft.with_name("digest")
    digest.write_bytes(_digest_line(draft.read_bytes(), library))
    digest.chmod(0o600)
    with locked(library.parent):
        digest.replace(_digest_file(library))
        draft.replace(library)


def remove(library: Path) -> None:
    """Remove a library and its digest."""
    with locked(library.parent), contextlib.suppress(OSError):
        _digest_file(library).unlink(missing_ok=True)
        library.unlink(missing_ok=True)


# --- folders to build in ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Give a new folder to build in, and remove it at the end; first remove those that killed processes have left.

    The process holds a lock on its own workspace. The system releases it however the process ends, also on another
    machine or in another container, where a process number would mean nothing.

    Raises:
        OSError: if it cannot be created.
    """
    # Nobody looks for workspaces before this one has its lock.
    with locked(folder):
        for path in folder.iterdir():
            if _WORKSPACE.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and _is_left(path):
                shutil.rmtree(path, ignore_errors=True)
        place = Path(tempfile.mkdtemp(dir=folder)).absolute()
        handle = None
        with contextlib.suppress(OSError):
            handle = _hold(place)
    try:
        yield place
    finally:
        # Nobody may look for the lock in a folder that is about to vanish, and so create it anew.
        with locked(folder):
            shutil.rmtree(place, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _hold(place: Path) -> int:
    """Lock a workspace, and return the handle; closing it opens the lock.

    Raises:
        BlockingIOError: if a process holds it.
        OSError: if the file system has no locks.
    """
    handle = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _is_left(place: Path) -> bool:
    age = 0.0
    try:
        # Before the lock is tried: that may create its file, which makes the folder new.
        age = time.time() - place.stat().st_mtime
        os.close(_hold(place))
    except BlockingIOError:
        return False
    except OSError:
        return age > _OLD_S
    return True
