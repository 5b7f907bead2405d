"""The reasons why execve(2) refuses a file that is there.

The kernel reports a missing interpreter with the same ENOENT as a missing program, so the error alone sends users
to look for a file that exists. This module reads the file for the interpreter that it names: the ``#!`` line of a
script, or the PT_INTERP segment of an ELF program (elf(5)).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final

__all__ = ["GONE", "explain_failure", "is_binary", "is_working_directory_gone"]

_HEAD: Final = 4096
"""Bytes that are read; of a ``#!`` line the kernel reads 256 (BINPRM_BUF_SIZE, Linux 5.1)."""
_LONGEST_CHAIN: Final = 5
"""Interpreters that are scripts themselves; the kernel follows as many (execve(2), ELOOP)."""
GONE: Final = "the working directory has been removed; change to another one"
"""A sentence for users whose relative paths lead nowhere."""
_PT_INTERP: Final = 3
_ELF: Final = b"\x7fELF"


def explain_failure(path: str | bytes, number: int) -> str:
    """Return why execve(2) of ``path`` failed with the error ``number``: the file that is missing or not executable.

    Never raises: what cannot be read is left to the system's words for the error.
    """
    try:
        return _explain(os.fsencode(path), number) or os.strerror(number)
    except (OSError, ValueError, LookupError, ArithmeticError, struct.error):
        return os.strerror(number)


def is_binary(path: bytes) -> bool:
    """Tell whether a file that execve(2) refuses with ENOEXEC is not a shell script either: NUL in its first line.

    POSIX.1-2024, XCU 2.9.1.6, allows a shell to decide so; bash and dash do.
    """
    try:
        head = _head(path)
        return head.startswith(_ELF) or b"\0" in head.partition(b"\n")[0]
    except OSError:
        return False


def _explain(path: bytes, number: int) -> str:
    if number == errno.ENOEXEC:
        return "it is a program for another kind of machine, or damaged" if is_binary(path) else ""
    if number == errno.EACCES and (own := _forbidden(path)):
        return own
    if number not in (errno.ENOENT, errno.EACCES, errno.ELOOP):
        return ""
    if number == errno.ENOENT and not path.startswith(b"/") and is_working_directory_gone():
        return GONE
    return _explain_interpreter(path, number)


def is_working_directory_gone() -> bool:
    """Tell whether the working directory was removed: no relative path leads anywhere then."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _explain_interpreter(path: bytes, number: int) -> str:
    for _ in range(_LONGEST_CHAIN):
        head = _head(path)
        found = _elf_interpreter(head) if head.startswith(_ELF) else _script_interpreter(head)
        if not found:
            return ""
        shown = os.fsdecode(found)
        if found.endswith(b"\r"):
            return f"the first line of {os.fsdecode(path)} ends with a carriage return, as on Windows: remove it"
        where = f"which {os.fsdecode(path)} needs"
        if not os.path.exists(found):  # noqa: PTH110 - bytes
            return f"{shown}, {where}, does not exist"
        if number == errno.EACCES and (reason := _forbidden(found)):
            return f"{shown}, {where}: {reason}"
        path = found
    return ""


def _forbidden(path: bytes) -> str:
    mode = os.stat(path).st_mode  # noqa: PTH116 - bytes
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH):
        return "it is not marked as executable (chmod +x)"
    return ""


def _head(path: bytes) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - bytes
        return file.read(_HEAD)


def _script_interpreter(head: bytes) -> bytes:
    if not head.startswith(b"#!"):
        return b""
    line = head[2:].partition(b"\n")[0].strip(b" \t")
    return line.replace(b"\t", b" ").partition(b" ")[0]


def _elf_interpreter(head: bytes) -> bytes:
    order, is_wide = "<>"[head[5] == 2], head[4] == 2
    (start,) = struct.unpack_from(f"{order}Q" if is_wide else f"{order}I", head, 32 if is_wide else 28)
    size, count = struct.unpack_from(f"{order}HH", head, 54 if is_wide else 42)
    for at in range(start, start + size * count, size):
        if struct.unpack_from(f"{order}I", head, at)[0] == _PT_INTERP:
            # p_offset to p_filesz, which have p_flags before them in 64-bit programs (elf(5)).
            offset, _, _, length = struct.unpack_from(
                f"{order}4Q" if is_wide else f"{order}4I", head, at + 4 + 4 * is_wide
            )
            return head[offset : offset + length].rstrip(b"\0")
    return b""
