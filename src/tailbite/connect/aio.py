"""The asyncio shell: ``create_connection`` and ``open_connection`` as in asyncio, but without self-connects.

asyncio gives no access to a socket before it is connected. So names are resolved and sockets are connected here, with
the loop's own ``sock_connect``, and the loop gets a connected socket. Transports, protocols and TLS are asyncio's (or
uvloop's) own from there on.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tailbite.connect.attempt import Attempt, abort_if_self_connected, connect_call
from tailbite.connect.resolve import AddrInfo, interleaved, numeric_for_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

__all__ = ["connect_socket", "create_connection", "open_connection"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = 2**16, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a TCP server and return a reader and a writer; never a stream that is connected to itself.

    The drop-in for :func:`asyncio.open_connection`: it takes every keyword of :func:`create_connection`.

    Args:
        host: a name or an address.
        port: a port or a service name.
        limit: the reader's buffer limit in bytes.
        options: see :func:`create_connection`.

    Raises:
        OSError: see :func:`create_connection`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def create_connection(
    protocol_factory: Callable[[], _Protocol],
    host: str | None = None,
    port: int | str | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int] | None = None,
    ssl: Any = None,
    server_hostname: str | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    allow_same_port: bool = False,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connect to a TCP server as ``loop.create_connection`` does; never a transport that is connected to itself.

    Args:
        protocol_factory: makes the protocol.
        host: a name or an address.
        port: a port or a service name.
        family: AF_INET, AF_INET6, or 0 for both.
        proto: passed to getaddrinfo(3).
        flags: passed to getaddrinfo(3).
        sock: a connected socket to use instead of host and port. It is reset if it is connected to itself; else it
            stays open when an argument is wrong, as with asyncio.
        local_addr: host and port to bind to first.
        ssl: True or an ssl.SSLContext for TLS.
        server_hostname: the name the certificate must be for; ``host`` if not given.
        happy_eyeballs_delay: seconds after which the next address is tried beside the one under way (RFC 8305
            recommends 0.25); None tries one after the other.
        interleave: how many addresses of the first family come before the other family's first.
        all_errors: raise an ExceptionGroup of all errors.
        ssl_handshake_timeout: seconds to wait for the TLS handshake; None is asyncio's default of 60.
        ssl_shutdown_timeout: seconds to wait for the TLS shutdown; None is asyncio's default of 30.
        allow_same_port: accept a ``local_addr`` with the destination's port; a self-connect is then found after
            the connect, and reset.

    Raises:
        OSError: no address accepts a connection; :class:`~tailbite.SelfConnectError`, a ConnectionRefusedError,
            if a connect made a self-connect, which has been reset.
        ExceptionGroup: the same with ``all_errors``.
        SourcePortError: ``local_addr`` would make it a self-connect; nothing was connected.
        ValueError: arguments that contradict each other.
        OverflowError: ``port`` is a number that is not a port.
    """
    timeouts = _given(ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)
    server_hostname = _name_for_tls(ssl, server_hostname, host, timeouts)
    is_ours = sock is None
    if sock is None:
        if host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        sock = await connect_socket(
            host,
            port,
            family=family,
            proto=proto,
            flags=flags,
            local_addr=local_addr,
            happy_eyeballs_delay=happy_eyeballs_delay,
            interleave=interleave,
            all_errors=all_errors,
            allow_same_port=allow_same_port,
        )
        host = port = None
    elif host is None and port is None:
        abort_if_self_connected(sock)
    loop: Any = asyncio.get_running_loop()
    try:
        # With a socket of the caller, host and port are too much: then the event loop says what is wrong.
        return await loop.create_connection(  # type: ignore[no-any-return]
            protocol_factory, host, port, sock=sock, ssl=ssl, server_hostname=server_hostname, **timeouts
        )
    except BaseException:
        if is_ours:
            sock.close()
        raise


def _given(**arguments: float | None) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _name_for_tls(ssl: Any, server_hostname: str | None, host: str | None, timeouts: dict[str, Any]) -> str | None:
    if ssl and server_hostname is None:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        return host
    if not ssl and server_hostname is not None:
        raise ValueError("server_hostname is only meaningful with ssl")
    if not ssl and timeouts:
        raise ValueError(f"{next(iter(timeouts))} is only meaningful with ssl")
    return server_hostname


async def connect_socket(
    host: str | None,
    port: int | str | None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
    allow_same_port: bool = False,
) -> socket.socket:
    """Return a connected, non-blocking socket; the arguments and errors are those of :func:`create_connection`."""
    infos = await _resolve((host, port), family, proto, flags)
    sources = None if local_addr is None else await _resolve(local_addr, family, proto, flags)
    _check_delay(happy_eyeballs_delay)
    if happy_eyeballs_delay is not None and interleave is None:
        interleave = 1
    if interleave:
        infos = interleaved(infos, interleave)

    errors: list[list[OSError]] = [[] for _ in infos]
    sock = None
    if happy_eyeballs_delay is None:
        for info, failures in zip(infos, errors, strict=True):
            sock = await _try_connect(info, sources, failures, allow_same_port)
            if sock is not None:
                break
    else:
        sock = await _race(
            [
                partial(_try_connect, info, sources, failures, allow_same_port)
                for info, failures in zip(infos, errors, strict=True)
            ],
            happy_eyeballs_delay,
        )
    try:
        if sock is None:
            _raise([error for failures in errors for error in failures], all_errors)
            raise OSError("getaddrinfo() returned empty list")
        return sock
    finally:
        errors.clear()  # an error's traceback refers to this frame: do not leave a cycle behind


def _check_delay(seconds: float | None) -> None:
    """Compare a delay, so that one that is not a number is a TypeError for a host with one address as well."""
    if seconds is not None:
        _ = seconds <= 0, 0.0 + seconds


async def _resolve(address: Any, family: int, proto: int, flags: int) -> list[AddrInfo]:
    """Resolve as asyncio does: numeric addresses at once, names in the loop's executor.

    The address is a pair of host and port, perhaps with the flow information and the scope of IPv6 (ipv6(7)).
    """
    host, port = address[:2]
    if (known := numeric_for_asyncio(host, port, family, proto, *address[2:])) is not None:
        return known
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags)
    if not found:
        raise OSError("getaddrinfo() returned empty list")
    return list(found)


async def _try_connect(
    info: AddrInfo, sources: Sequence[AddrInfo] | None, failures: list[OSError], allow_same_port: bool
) -> socket.socket | None:
    family, kind, proto, _, destination = info
    try:
        attempt = _make(family, kind, proto, destination, sources, failures, allow_same_port)
        sock = attempt.sock
        try:
            sock.setblocking(False)
            while True:
                try:
                    if not connect_call(sock, destination) and not _is_answered(sock, destination):
                        await asyncio.get_running_loop().sock_connect(sock, destination)
                    break
                except OSError as error:
                    attempt.failed(error)
        except BaseException:
            attempt.drop()
            raise
        return attempt.finish()
    except OSError as error:
        failures.append(error)
        # A refusal may have come without waiting. A loop that reconnects must not keep other tasks from running.
        await asyncio.sleep(0)
        return None


def _is_answered(sock: socket.socket, destination: Any) -> bool:
    """Ask how the connect under way went; see :func:`~tailbite.connect.attempt.connected_at_once`."""
    try:
        return connect_call(sock, destination)
    except OSError as error:
        raise OSError(error.errno, f"Connect call failed {destination}") from None  # asyncio's words for an answer


def _make(
    family: int,
    kind: int,
    proto: int,
    destination: Any,
    sources: Sequence[AddrInfo] | None,
    failures: list[OSError],
    allow_same_port: bool,
) -> Attempt:
    if sources is None:
        return Attempt(family, kind, proto, destination)
    last: OSError | None = None
    for source_family, _, _, _, source in sources:
        if source_family != family:
            continue
        try:
            return Attempt(family, kind, proto, destination, source, allow_same_port=allow_same_port)
        except OSError as error:
            if last is not None:
                failures.append(last)
            reason = (error.strerror or str(error)).lower()
            last = OSError(error.errno, f"error while attempting to bind on address {source!r}: {reason}")
    raise last or OSError(f"no matching local address with {family=} found")


async def _race(
    attempts: Iterable[Callable[[], Coroutine[Any, Any, socket.socket | None]]], delay: float
) -> socket.socket | None:
    """Start the attempts ``delay`` seconds apart, the next at once when one fails; the first socket wins."""
    waiting = list(reversed(list(attempts)))
    running: set[asyncio.Task[socket.socket | None]] = set()
    winner: socket.socket | None = None
    try:
        try:
            while winner is None and (waiting or running):
                if waiting:
                    running.add(asyncio.create_task(waiting.pop()()))
                done, _ = await asyncio.wait(
                    running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    winner = _first(winner, task.result())
                    running.discard(task)
        finally:
            await _stop(running)
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    return winner


def _first(winner: socket.socket | None, sock: socket.socket | None) -> socket.socket | None:
    if winner is None or sock is None:
        return winner or sock
    sock.close()
    return winner


async def _stop(tasks: set[asyncio.Task[socket.socket | None]]) -> None:
    """End the losers. A cancellation while this waits loses no socket: each is closed by its own task's callback."""
    for task in tasks:
        task.add_done_callback(_close_result)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _close_result(task: asyncio.Task[socket.socket | None]) -> None:
    # A loser may have been connected at the same moment in which it was cancelled.
    if not task.cancelled() and task.exception() is None and (sock := task.result()) is not None:
        sock.close()


def _raise(errors: list[OSError], all_errors: bool) -> None:
    """Raise what asyncio would: the one error, one of several alike, or one that quotes them all."""
    if not errors:
        return
    if all_errors:
        raise ExceptionGroup("create_connection failed", errors)
    if len({str(error) for error in errors}) == 1:
        raise errors[0]
    raise OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")
