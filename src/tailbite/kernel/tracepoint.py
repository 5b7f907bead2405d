"""Tracepoints: their description in tracefs, and the perf event that runs a BPF program at one.

A tracepoint has a number and a layout of its record that both depend on the kernel's build; the file ``format`` in
tracefs has both (Documentation/trace/events.rst). Tracefs is root's (mode 0700), so a service that has no more than
CAP_BPF and CAP_PERFMON needs a copy of the file: in its ``RuntimeDirectory=``, or as a credential of systemd.
"""
# ruff: noqa: PTH123 - pathlib takes 4 ms to load

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import Final

from tailbite.kernel.libc import last_error, libc
from tailbite.kernel.perf_event import PERF_TYPE_TRACEPOINT, open_perf_event, set_program

__all__ = ["Field", "Format", "attach_program", "parse_format", "read_format"]

_TRACEFS: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # Linux 5.2, the same on every architecture
_FSCONFIG_CMD_CREATE = 6
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a tracepoint's record: where it begins, and its bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Format:
    """A tracepoint as this kernel has it.

    Attributes:
        identifier: its number, for perf_event_open(2).
        fields: by name.
    """

    identifier: int
    fields: dict[str, Field]


def parse_format(text: str) -> Format:
    """Read the text of a ``format`` file.

    Raises:
        ValueError: the text has no number, or no fields.
    """
    identifier = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    fields = {
        name: Field(int(offset), int(size))
        for name, offset, size in re.findall(r"field:[^;]*?(\w+)(?:\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);", text)
    }
    if identifier is None or not fields:
        raise ValueError("this is not the format file of a tracepoint")
    return Format(int(identifier[1]), fields)


def read_format(category: str, name: str) -> Format:
    """Find and read the description of a tracepoint.

    First a copy that systemd made for this service (``$RUNTIME_DIRECTORY/NAME``, ``$CREDENTIALS_DIRECTORY/NAME``),
    then tracefs where it is mounted, then a tracefs that no other process sees (needs CAP_SYS_ADMIN).

    Raises:
        OSError: EACCES or EPERM, only root may read it; ENOENT, this kernel does not have the tracepoint.
        ValueError: the file is not the description of a tracepoint.
    """
    path = f"events/{category}/{name}/format"
    error: OSError | None = None
    folders = [f"{folder}/{path}" for folder in _TRACEFS]
    copies = (os.environ.get(variable, "") for variable in ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"))
    folders[:0] = [f"{folder}/{name}" for folder in copies if folder]
    for place in folders:
        try:
            with open(place, encoding="ascii") as file:
                text = file.read(_LONGEST)
            if text.startswith("name:"):
                return parse_format(text)
        except OSError as found:
            if error is None or error.errno == errno.ENOENT:
                error = found
    try:
        return parse_format(_read_unmounted(path))
    except OSError as found:
        raise (found if error is None or error.errno == errno.ENOENT else error) from None


def _read_unmounted(path: str) -> str:
    """Read a file of tracefs through a mount that is attached nowhere (fsopen(2))."""
    filesystem = libc().syscall(_FSOPEN, b"tracefs", 1)
    if filesystem < 0:
        raise last_error("fsopen(tracefs)")
    try:
        if libc().syscall(_FSCONFIG, filesystem, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            raise last_error("fsconfig(tracefs)")
        mount = libc().syscall(_FSMOUNT, filesystem, 1, 0)
        if mount < 0:
            raise last_error("fsmount(tracefs)")
    finally:
        os.close(filesystem)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount)
        with open(descriptor, encoding="ascii") as file:
            return file.read(_LONGEST)
    finally:
        os.close(mount)


def attach_program(program: int, identifier: int) -> int:
    """Have a loaded program run at a tracepoint, on every CPU, until the descriptor that this returns is closed.

    Args:
        program: descriptor of the program.
        identifier: number of the tracepoint.

    Raises:
        OSError: EACCES without CAP_PERFMON; EPERM, the kernel is locked down (kernel_lockdown(7)).
    """
    # One event is enough: the kernel keeps programs with the tracepoint, not with the event's CPU.
    event = open_perf_event(PERF_TYPE_TRACEPOINT, identifier, cpu=0)
    try:
        set_program(event, program)
    except BaseException:
        os.close(event)
        raise
    return event
