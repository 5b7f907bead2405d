"""Files of the user's: whole or not there, and never something else than they were."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader finds the old content or the new, never half of it (rename(2)).

    A symbolic link stays one, and what it points to is written. What is no regular file, such as ``/dev/null`` or a
    pipe from ``>(...)``, is written to: moving a file there would replace the device, for the whole machine.

    Args:
        path: where to; a new file has the rights the umask gives.
        data: text is written as UTF-8.

    Raises:
        OSError: the folder is missing or not writable.
    """
    content = data.encode("utf-8", errors="replace") if isinstance(data, str) else data
    path = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                file.write(content)
            return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp makes files that only we can read.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
