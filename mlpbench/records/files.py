"""Write whole files: beside the old file, and then moved over it, so that a failure leaves the old file as it was."""

import contextlib
import errno
import glob
import os
import tempfile
import time
from pathlib import Path

from mlpbench.errors import InputError, OutputError

# Reasons that another name or folder does not mend.
_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

_SUFFIX = ".tmp"
_OLD_S = 3600.0
"""The age in seconds from which on a draft is nobody's: no write takes so long."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file, with its folder: the old content is replaced completely or not at all.

    A text becomes UTF-8, and what UTF-8 cannot hold becomes an escape. A device or a pipe, such as `/dev/stdout`, is
    written to directly. A link stays a link, and the file that it names is replaced.

    Raises:
        OutputError: if the disk is full or failed, or the file may not be so large.
        InputError: if the path cannot be written for another reason, for example because it is a folder.
    """
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        _replace(path.resolve(), data)
    # A ValueError means a path that no file can have, for example with a null character.
    except (OSError, ValueError) as error:
        raise problem(path, error) from None


def _replace(target: Path, data: bytes) -> None:
    prefix = f".{target.name[:50]}."
    for left in target.parent.glob(f"{glob.escape(prefix)}*{_SUFFIX}"):
        # A process that was killed left it.
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _OLD_S:
                left.unlink()
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # Otherwise a crash of the machine may leave the new name with no content.
            os.fsync(file.fileno())
        draft.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        draft.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the rights that new files do not get; the system tells them only when they are set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def problem(path: Path, error: OSError | ValueError, advice: str = "choose another place") -> InputError:
    """Return the exception that reports why a path cannot be written, with advice on what to do."""
    reason = error.strerror if isinstance(error, OSError) else error
    if isinstance(error, OSError) and error.errno in _FAILURES:
        return OutputError(f"cannot write {path}: {reason}; make room or {advice}")
    return InputError(f"cannot write {path}: {reason}; {advice}")
