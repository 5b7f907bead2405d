"""Becoming another program, and leaving no trace of the Python that was here before it."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CANNOT_EXECUTE", "NOT_FOUND", "become", "original_environment", "status_of"]

NOT_FOUND: Final = 127
CANNOT_EXECUTE: Final = 126
"""What shells exit with (POSIX.1-2024, XCU 2.8.2), and env(1), nice(1) and timeout(1) like them."""


def original_environment() -> dict[bytes, bytes]:
    """Return the environment this process was called with, and what was set since.

    In the C locale Python sets LC_CTYPE for itself (PEP 538), and a program that inherits it would behave
    differently; what the kernel keeps in /proc shows whether it was there before.
    """
    environment = dict(os.environb)
    if b"LC_CTYPE" in environment:
        try:
            with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - a tenth of a start would be pathlib's
                before = file.read()
        except OSError:
            return environment
        if not any(entry.startswith(b"LC_CTYPE=") for entry in before.split(b"\0")):
            del environment[b"LC_CTYPE"]
    return environment


def become(command: Sequence[str], environment: Mapping[bytes, bytes]) -> OSError:
    """Replace this process by ``command``, found along PATH as execvp(3) does; returns only if that fails.

    Returns:
        Why it failed; :func:`status_of` is what to exit with.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    arguments = [os.fsencode(argument) for argument in command]
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    candidates = _candidates(arguments[0], environment)
    for path in candidates:
        try:
            os.execve(path, arguments, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:  # a script without #! is one for the shell
                os.execve(b"/bin/sh", [b"/bin/sh", path, *arguments[1:]], environment)
            if len(candidates) == 1 or error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
                if error.errno != errno.EACCES:
                    break
    return failure


def _candidates(program: bytes, environment: Mapping[bytes, bytes]) -> list[bytes]:
    if not program:
        return []
    if b"/" in program:
        return [program]
    folders = environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    return [os.path.join(folder or b".", program) for folder in folders]  # noqa: PTH118 - bytes


def status_of(failure: OSError) -> int:
    """Return the exit status that says why a program could not be started."""
    return NOT_FOUND if failure.errno == errno.ENOENT else CANNOT_EXECUTE
