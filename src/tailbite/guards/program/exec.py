"""Becoming another program, and leaving no trace of the Python that ran in this process before."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CANNOT_EXECUTE",
    "NOT_FOUND",
    "InheritedSignals",
    "become",
    "explain",
    "occupy_standard_descriptors",
    "original_environment",
    "status_of",
]

NOT_FOUND: Final = 127
CANNOT_EXECUTE: Final = 126
"""The exit statuses of shells (POSIX.1-2024, XCU 2.8.2), and env(1), nice(1) and timeout(1) like them."""

_CHANGED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_RESETS_ITS_CHILDREN: Final = ("node", "bun", "deno")
"""Runtimes that ignore SIGPIPE themselves and set every signal to its default in the children they start."""


@dataclass(frozen=True, slots=True)
class InheritedSignals:
    """The signals among SIGPIPE, SIGXFSZ and SIGCHLD that the program is to ignore, as its caller arranged it.

    An ignored signal stays ignored across execve(2) (signal(7)). Every other disposition and the mask of blocked
    signals need no change: neither Python nor the guard changes them in the process that becomes the program.

    Attributes:
        ignored: the numbers of the signals to ignore.
    """

    ignored: frozenset[int] = frozenset()

    @classmethod
    def take_over(cls) -> InheritedSignals:
        """Read the dispositions, and set SIGCHLD to its default: a guard has to wait for children of its own.

        Python ignores SIGPIPE and SIGXFSZ before any Python code runs, so their inherited disposition can no longer
        be read. The parent process tells it in nearly every case: a child inherits what its parent ignores.
        """
        ignored = set(_ignored_by_caller())
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            ignored.add(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return cls(frozenset(ignored))

    def give_back(self) -> None:
        """Set the dispositions that the program is to inherit, right before execve(2)."""
        for number in (*_CHANGED_BY_PYTHON, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number in self.ignored else signal.SIG_DFL)


def _ignored_by_caller() -> list[int]:
    """Return the signals among SIGPIPE and SIGXFSZ that this process was most likely started with as ignored.

    A parent that is a Python itself ignores both and restores both in its children (``subprocess``,
    ``restore_signals``); node does the same with SIGPIPE. Any other parent that ignores one of them passes that on: a
    shell after ``trap '' PIPE``, or systemd, whose services ignore SIGPIPE unless ``IgnoreSIGPIPE=no``.
    """
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/status", "rb") as file:  # noqa: PTH123 - pathlib takes 4 ms to load
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        mask = int(lines[b"SigIgn"], 16)
        name = os.fsdecode(lines[b"Name"].strip())
    except (OSError, KeyError, ValueError):
        return []
    ignored = [int(number) for number in _CHANGED_BY_PYTHON if mask >> (number - 1) & 1]
    if len(ignored) == len(_CHANGED_BY_PYTHON) or name.startswith(_RESETS_ITS_CHILDREN):
        return []
    return ignored


def occupy_standard_descriptors() -> None:
    """Open /dev/null for each standard descriptor that the caller closed, so that no other file gets its number.

    The descriptors are closed again by execve(2), so the program finds what its caller left.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number; Python opens with O_CLOEXEC


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


def become(command: Sequence[str], environment: Mapping[bytes, bytes], signals: InheritedSignals) -> OSError:
    """Replace this process by ``command``, found along PATH as execvp(3) does; returns only if that fails.

    Returns:
        The error; :func:`status_of` gives the exit status for it.
    """
    signals.give_back()
    arguments = [os.fsencode(argument) for argument in command]
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    candidates = _candidates(arguments[0], environment)
    for path in candidates:
        try:
            os.execve(path, arguments, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC and not _is_binary(path):  # a script without #! is one for the shell
                os.execve(b"/bin/sh", [b"/bin/sh", path, *arguments[1:]], environment)
            if len(candidates) == 1 or error.errno not in (errno.ENOENT, errno.ENOTDIR) or _exists(path):
                failure = error
                if error.errno not in (errno.EACCES, errno.ENOENT):
                    break
    return failure


def _is_binary(path: bytes) -> bool:
    from tailbite.kernel.executable import is_binary

    return is_binary(path)


def _exists(path: bytes) -> bool:
    """Tell whether a program is there, and it is its interpreter that is missing."""
    return os.path.isfile(path)  # noqa: PTH113 - bytes


def explain(failure: OSError) -> str:
    """Return the reason of a failed :func:`become` in words."""
    from tailbite.kernel.executable import explain_failure

    path, number = failure.filename, failure.errno
    return explain_failure(path, number) if path and number else failure.strerror or str(failure)


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
