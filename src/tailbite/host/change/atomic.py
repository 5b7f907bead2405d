"""Replacing a file so that whoever reads it, and whoever pulls the plug, sees the old text or the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["remove", "replace_file"]


def replace_file(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Give ``file`` this content; owner, mode and extended attributes of the one that was there stay.

    The new content is on the disk before it gets the name (fsync(2), rename(2)). Until then it lies beside it under
    a name that begins with a dot and ends in ``.tmp``, which nothing that reads a directory of ``*.conf`` takes.

    Args:
        file: no symbolic link; its directory is made if it is missing.
        data: the content.
        mode: for a file that is new.

    Raises:
        OSError: not permitted, the disk is full, ...: then the old file is as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    except OSError as error:
        error.filename = str(file)  # which is what the user knows
        raise
    try:
        with os.fdopen(descriptor, "wb") as new:
            new.write(data)
            new.flush()
            try:
                there = file.stat()
            except FileNotFoundError:
                os.fchmod(descriptor, mode)
            else:
                os.fchown(descriptor, there.st_uid, there.st_gid)
                shutil.copystat(file, name)  # with it the SELinux label
                os.utime(name)
            os.fsync(descriptor)
        os.replace(name, file)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    _sync(file.parent)


def remove(file: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OSError: not permitted.
    """
    file.unlink(missing_ok=True)
    _sync(file.parent)


def _sync(directory: Path) -> None:
    # A directory that cannot be synced (some network file systems) still has the new entry.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
