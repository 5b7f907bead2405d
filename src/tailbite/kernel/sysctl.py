"""The sysctls of a network namespace that decide about source ports.

``/proc/sys/net`` shows the namespace of the *thread* that opens the file, so these functions read and write the
caller's own namespace. (No pathlib here: it would double the import time of the library.)
"""
# ruff: noqa: PTH123

from __future__ import annotations

import os

from tailbite.core.ports import PortRange, PortSet

__all__ = [
    "has_random_steps",
    "open_ephemeral_range",
    "read_ephemeral_range",
    "read_reserved_ports",
    "read_sysctl",
    "write_ephemeral_range",
    "write_reserved_ports",
    "write_sysctl",
]

_LONGEST_LIST = 1 << 18
_IPV4 = "/proc/sys/net/ipv4"
_RANGE = f"{_IPV4}/ip_local_port_range"


def read_ephemeral_range(file: int | None = None) -> PortRange:
    """Return ``ip_local_port_range``; IPv6 uses it as well (Documentation/networking/ip-sysctl.rst).

    Args:
        file: what :func:`open_ephemeral_range` returned, to read the range of the namespace where that was called.

    Raises:
        OSError: the file cannot be read (no /proc, another system; the namespace of ``file`` no longer exists).
        ValueError: the file holds something else than two ports.
    """
    if file is not None:
        return PortRange.parse(os.pread(file, 64, 0).decode("ascii"))
    # Three system calls instead of open()'s seven: a connect call waits for this (6 us instead of 20).
    descriptor = open_ephemeral_range()
    try:
        return PortRange.parse(os.read(descriptor, 64).decode("ascii"))
    finally:
        os.close(descriptor)


def open_ephemeral_range() -> int:
    """Return a descriptor of ``ip_local_port_range`` that shows the caller's namespace to every thread that reads it.

    It does not keep the namespace alive: once that is gone, reading fails with ENOENT.

    Raises:
        OSError: the file cannot be opened.
    """
    return os.open(_RANGE, os.O_RDONLY | os.O_CLOEXEC)


def write_ephemeral_range(ports: PortRange) -> None:
    """Set ``ip_local_port_range``.

    Raises:
        OSError: not permitted in this namespace.
    """
    write_sysctl("ip_local_port_range", f"{ports.low} {ports.high}")


def read_reserved_ports() -> PortSet:
    """Return ``ip_local_reserved_ports``: ports that the kernel never chooses, and that servers may bind.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds something else than a list of ports.
    """
    # One read(2) with a buffer for the longest possible list (32 768 lone ports). proc_do_large_bitmap answers a
    # read at any offset but 0 with "end of file", so reading in pieces cuts the list off, in the middle of a number.
    descriptor = os.open(f"{_IPV4}/ip_local_reserved_ports", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return PortSet.parse(os.read(descriptor, _LONGEST_LIST).decode("ascii"))
    finally:
        os.close(descriptor)


def write_reserved_ports(ports: PortSet) -> None:
    """Replace ``ip_local_reserved_ports``; ports that are to stay reserved must be in ``ports``.

    A list longer than a page takes several writes, and the first of them replaces the list: for some microseconds
    the kernel has its beginning only.

    Raises:
        OSError: not permitted in this namespace.
    """
    # write(2) of no bytes changes nothing; the kernel empties the list on a bare newline.
    write_sysctl("ip_local_reserved_ports", f"{ports}\n")


def read_sysctl(name: str) -> str | None:
    """Return one file below ``/proc/sys/net/ipv4`` without its newline; None where it is missing or not readable."""
    try:
        with open(f"{_IPV4}/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def has_random_steps() -> bool:
    """Tell whether ``ip_local_port_step_width`` is set (Linux 7.0 at the latest; seen on 7.2).

    If a search for a source port meets a port that is in use or reserved, it then continues at a random distance up
    to that width instead of at the next port. Searches that meet none are not changed by it.
    """
    return (read_sysctl("ip_local_port_step_width") or "0") not in ("0", "1")


def write_sysctl(name: str, value: str) -> None:
    """Write one file below ``/proc/sys/net/ipv4`` in the calling thread's network namespace.

    Raises:
        OSError: no such sysctl here, or not permitted.
    """
    descriptor = os.open(f"{_IPV4}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        rest = value.encode("ascii")
        while rest:
            # The kernel reads at most a page, up to a comma, and returns that length; a write at an offset adds.
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
