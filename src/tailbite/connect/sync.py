"""The blocking shell: ``create_connection`` as in the socket module, but without self-connects."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from tailbite.connect.attempt import DEFAULT_TIMEOUT, Attempt
from tailbite.connect.resolve import numeric

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["create_connection"]


def create_connection(
    address: tuple[str | None, int | str | None],
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
    allow_same_port: bool = False,
) -> socket.socket:
    """Connect to a TCP server and return the socket; never a socket that is connected to itself.

    The drop-in for :func:`socket.create_connection`: same arguments, same order of addresses, same errors.

    Args:
        address: host and port; the host may be a name, the port a service name.
        timeout: seconds for each address; None waits forever. If left out, the default timeout applies
            (:func:`socket.setdefaulttimeout`).
        source_address: host and port to bind to first; "" or 0 leave that half to the kernel.
        all_errors: raise an ExceptionGroup of all errors instead of the last one.
        allow_same_port: accept a ``source_address`` with the destination's port, for servers on other hosts
            that want it; a self-connect is then found after the connect, and reset.

    Raises:
        OSError: no address accepts a connection; :class:`~tailbite.SelfConnectError`, a ConnectionRefusedError,
            if a connect made a self-connect, which has been reset.
        ExceptionGroup: the same with ``all_errors``.
        SourcePortError: ``source_address`` would make it a self-connect; nothing was connected.
    """
    host, port = address
    errors: list[OSError] = []
    for family, kind, proto, _, destination in numeric(host, port) or socket.getaddrinfo(
        host, port, 0, socket.SOCK_STREAM
    ):
        try:
            attempt = Attempt(
                family,
                kind,
                proto,
                destination,
                source_address or None,
                allow_same_port=allow_same_port,
                timeout=timeout,
            )
            return _connect(attempt, destination)
        except OSError as error:
            if not all_errors:
                errors.clear()
            errors.append(error)
    try:
        _raise(errors, all_errors)
    finally:
        errors.clear()  # an error's traceback refers to this frame: do not leave a cycle behind
    raise OSError("getaddrinfo returns an empty list")


def _connect(attempt: Attempt, destination: Any) -> socket.socket:
    sock = attempt.sock
    try:
        while True:
            try:
                sock.connect(destination)
                break
            except OSError as error:
                attempt.failed(error)
    except BaseException:
        attempt.drop()
        raise
    return attempt.finish()


def _raise(errors: Sequence[OSError], all_errors: bool) -> None:
    if errors and all_errors:
        raise ExceptionGroup("create_connection failed", errors)
    if errors:
        raise errors[0]
