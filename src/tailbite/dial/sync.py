"""Opening one connection in the blocking shell: name, happy eyeballs, guarded sockets, TLS; within a time.

Happy eyeballs (RFC 8305): the families take turns, the next address starts when the one under way fails or after a
short while, the first to be connected wins. Every socket is an :class:`~tailbite.connect.attempt.Attempt`, so none of
them can connect to itself.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from tailbite.connect.attempt import Attempt, connect_unix, connected_at_once, named
from tailbite.connect.resolve import AddrInfo, interleaved, numeric
from tailbite.dial.waiter import READ, WRITE
from tailbite.errors import AddressesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.connect.target import Target
    from tailbite.dial.options import Options
    from tailbite.dial.waiter import Waiter

__all__ = ["dial"]

_LINUX = sys.platform.startswith("linux")


def dial(target: Target, options: Options, timeout: float, waiter: Waiter) -> socket.socket:
    """Return a connected socket without a timeout; an ``ssl.SSLSocket`` if TLS was asked for.

    Raises:
        OSError: the name does not resolve, no address accepts a connection, TLS failed, or the time is over.
        Interrupted: the waiter was interrupted.
    """
    until = monotonic() + timeout
    if target.is_unix:
        sock = connect_unix(target.host)
    else:
        sock = _race(target, _addresses(target, until, waiter), options, until, waiter)
    try:
        options.apply(sock)
        if options.ssl is not None:
            sock = _encrypt(sock, target, options, until, waiter)
    except BaseException:
        sock.close()
        raise
    return sock


def _addresses(target: Target, until: float, waiter: Waiter) -> list[AddrInfo]:
    return numeric(target.host, target.port) or _look_up(target, until, waiter)


def _look_up(target: Target, until: float, waiter: Waiter) -> list[AddrInfo]:
    """Ask getaddrinfo(3) in a thread: it knows no timeout, and not even Ctrl-C ends it."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(target.host, target.port, 0, socket.SOCK_STREAM))
        except Exception as error:
            answer.append(error)
        waiter.ring()

    try:
        threading.Thread(target=ask, name=f"tailbite resolves {target.host}", daemon=True).start()
    except RuntimeError:  # no thread can be started: a limit is reached, or the interpreter is about to end
        ask()
    while not answer:
        if monotonic() >= until:
            raise socket.gaierror(socket.EAI_AGAIN, f"the name {target.host} was not resolved in time")
        waiter.wait(until)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return interleaved(answer[0])


def _race(target: Target, infos: Sequence[AddrInfo], options: Options, until: float, waiter: Waiter) -> socket.socket:
    runners: dict[socket.socket, tuple[Attempt, Any]] = {}
    queue, next_start = list(infos), monotonic()
    errors: list[OSError] = []
    try:
        while queue or runners:
            now = monotonic()
            if now >= until:
                errors.append(TimeoutError(f"{target} did not answer in time"))
                break
            try:
                if queue and (not runners or now >= next_start):
                    next_start = now + options.happy_eyeballs_delay
                    if (winner := _start(queue.pop(0), options, runners)) is not None:
                        return winner
                    continue
                for sock in waiter.wait(min(next_start, until) if queue else until, dict.fromkeys(runners, WRITE)):
                    attempt, destination = runners.pop(sock)
                    return _finish(attempt, destination)
            except OSError as error:
                errors.append(error)
                next_start = now  # a failure does not make the next address wait
    finally:
        for attempt, _ in runners.values():
            attempt.drop()
    try:
        raise errors[0] if len(errors) == 1 else AddressesError(str(target), tuple(errors))
    finally:
        errors.clear()  # an error's traceback refers to this frame: do not leave a cycle behind


def _start(
    info: AddrInfo, options: Options, runners: dict[socket.socket, tuple[Attempt, Any]]
) -> socket.socket | None:
    family, kind, proto, _, destination = info
    source, same = options.source_address, options.allow_same_port
    attempt = Attempt(family, kind, proto, destination, source, allow_same_port=same)
    sock = attempt.sock
    try:
        sock.setblocking(False)
        while True:
            try:
                is_connected = connected_at_once(sock, destination) or (not _LINUX and _begin(sock, destination))
                break
            except OSError as error:
                attempt.failed(named(error, destination))
    except BaseException:
        attempt.drop()
        raise
    if is_connected:
        return attempt.finish()
    runners[sock] = attempt, destination
    return None


def _begin(sock: socket.socket, destination: Any) -> bool:
    try:
        sock.connect(destination)
    except BlockingIOError:
        return False
    return True


def _finish(attempt: Attempt, destination: Any) -> socket.socket:
    if number := attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        attempt.drop()
        raise named(OSError(number, os.strerror(number)), destination)
    return attempt.finish()


def _encrypt(sock: socket.socket, target: Target, options: Options, until: float, waiter: Waiter) -> socket.socket:
    import ssl

    assert options.ssl is not None
    secure = options.ssl.wrap_socket(
        sock, server_hostname=options.name_to_check(target), do_handshake_on_connect=False
    )
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                wanted = READ
            except ssl.SSLWantWriteError:
                wanted = WRITE
            if not waiter.wait(until, {secure: wanted}) and monotonic() >= until:
                raise TimeoutError(f"the TLS handshake with {target} did not end in time")
    except BaseException:
        secure.close()
        raise
