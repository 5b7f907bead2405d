"""Files named by users: read without a hang, and written atomically.

Devices, pipes, symbolic links, owners and modes are preserved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["read_whole", "remove_durably", "write_atomically"]

_LARGEST = 1 << 26


def read_whole(path: Path) -> bytes:
    """Read a file of at most 64 MiB, or what a program writes into a pipe, as with ``<(...)`` of a shell.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read, or it is larger (``/dev/zero`` has no end), or it is a FIFO that no program has
            open for writing, which would be waited for without end (fifo(7)).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = _begin(descriptor)
        os.set_blocking(descriptor, True)
        while len(data) <= _LARGEST and (more := os.read(descriptor, 1 << 20)):
            data += more
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST:
        raise OSError(errno.EFBIG, "it is larger than 64 MiB", str(path))
    return bytes(data)


def _begin(descriptor: int) -> bytearray:
    """Read what is there already: nothing, without an error, means that no program has the pipe open."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return bytearray()
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return bytearray()
    if not data:
        raise OSError(errno.ENODATA, "it is a pipe that no program writes to")
    return bytearray(data)


def write_atomically(path: Path, data: bytes | str, *, mode: int | None = None, durable: bool = False) -> None:
    """Write a file so that a reader finds the old content or the new, never half of it (rename(2)).

    A symbolic link stays, and the file it points to is written. Anything but a regular file, such as
    ``/dev/null`` or a pipe from ``>(...)``, is written to: a rename would replace the device, for the whole machine.
    A file that exists keeps its owner, mode and extended attributes. Until the rename the new content lies beside
    it under a name that begins with a dot and ends in ``.tmp``, which no reader of ``*.conf`` takes.

    Args:
        path: the file.
        data: text is written as UTF-8.
        mode: for a file that is new; None for the mode that the umask gives.
        durable: also wait until content and name are on the disk (fsync(2)), and make a missing folder.

    Raises:
        OSError: the folder is missing or not writable, the disk is full, ...; ``filename`` is the path, and the old
            file is as it was.
    """
    content = data.encode("utf-8", errors="replace") if isinstance(data, str) else data
    path = Path(os.path.realpath(path))
    try:
        there = _status(path)
        if there is not None and not stat.S_ISREG(there.st_mode):
            with path.open("wb") as file:
                file.write(content)
            return
        if durable:
            path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content, there, mode, durable=durable)
    except OSError as error:
        error.filename = str(path)  # the user does not know the temporary name; ENOSPC comes without a name
        raise


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, and wait until that is on the disk.

    Raises:
        OSError: not permitted.
    """
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _replace(path: Path, content: bytes, there: os.stat_result | None, mode: int | None, *, durable: bool) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as new:
            new.write(content)
            new.flush()
            if there is None:
                os.fchmod(descriptor, _umask_mode() if mode is None else mode)
            else:
                _copy_status(there, path, descriptor, name)
            if durable:
                os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105 - the tests count and interrupt these calls
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    if durable:
        _sync_folder(path.parent)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _copy_status(there: os.stat_result, path: Path, descriptor: int, name: str) -> None:
    with contextlib.suppress(PermissionError):  # another user's file in a folder of ours: the content counts
        os.fchown(descriptor, there.st_uid, there.st_gid)
    shutil.copystat(path, name)  # with it the SELinux label
    os.utime(name)


def _umask_mode() -> int:
    mask = os.umask(0)  # mkstemp makes files that only we can read
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    # A folder that cannot be synced (some network file systems) still has the new entry.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
