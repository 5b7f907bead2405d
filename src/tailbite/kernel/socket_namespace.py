"""The network namespace of a socket, and whether it is the calling thread's (network_namespaces(7)).

A socket stays in the namespace in which it was made, and the thread that uses it may be in another one. Since Linux
5.14 the socket has a cookie that names its namespace (SO_NETNS_COOKIE). Before that, the ioctl SIOCGSKNS (Linux 4.10)
opens the namespace, for those who have CAP_NET_ADMIN in it.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from tailbite.kernel.sockopt import netns_cookie

if TYPE_CHECKING:
    import socket

__all__ = ["is_namespace_of_thread", "namespace_of"]

_SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h
_MOST_OPAQUE = 64
_opaque: set[bytes] = set()
"""Namespaces in which this process may not even open that of a socket it has just made."""


def namespace_of(sock: socket.socket) -> bytes | None:
    """Return a name for the socket's network namespace; None if it cannot be found out.

    Before Linux 5.14 a process without CAP_NET_ADMIN is given the name of the calling thread's namespace: it made the
    socket itself, unless another process handed it over.

    Args:
        sock: any socket that is open.
    """
    try:
        return netns_cookie(sock)
    except OSError as error:
        return _namespace_without_cookie(sock) if error.errno == errno.ENOPROTOOPT else None


def is_namespace_of_thread(name: bytes | None) -> bool:
    """Tell whether the calling thread is in the namespace that :func:`namespace_of` returned, and reads its files.

    A second socket shows the thread's namespace; without a descriptor left for that, the answer is no.
    """
    if name is None:
        return False
    try:
        with _new_socket() as here:
            return netns_cookie(here) == name
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT and _namespace_of_thread() == name


def _namespace_without_cookie(sock: Any) -> bytes | None:
    try:
        return _opened(sock)
    except OSError as error:
        if error.errno != errno.EPERM:
            return None
    name = _namespace_of_thread()
    if name is not None and name not in _opaque and _is_opaque():
        if len(_opaque) >= _MOST_OPAQUE:
            _opaque.clear()
        _opaque.add(name)
    return name if name in _opaque else None


def _opened(sock: Any) -> bytes:
    try:
        import fcntl
    except ImportError as error:  # its file cannot be opened: no descriptor is left
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error

    descriptor = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    try:
        return _as_name(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _is_opaque() -> bool:
    try:
        with _new_socket() as here:
            _opened(here)
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def _namespace_of_thread() -> bytes | None:
    try:
        return _as_name(os.stat("/proc/thread-self/ns/net"))  # noqa: PTH116 - 5 us cheaper
    except OSError:
        return None


def _as_name(status: os.stat_result) -> bytes:
    return status.st_ino.to_bytes(8, "little")


def _new_socket() -> contextlib.closing[Any]:
    return contextlib.closing(_socket.socket())
