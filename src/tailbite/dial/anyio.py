"""Opening one connection with anyio, and verifying it. Every socket is an Attempt, so none can connect to itself."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

from tailbite.connect.attempt import Attempt, connect_unix, connected_at_once, named
from tailbite.connect.resolve import AddrInfo, interleaved, numeric
from tailbite.errors import AddressesError, VerifyError
from tailbite.verifiers.verification import Accepted, Send, Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailbite.connect.target import Target
    from tailbite.dial.options import Options
    from tailbite.verifiers.verification import Verifier

__all__ = ["GivenBackStream", "dial", "verify"]


async def dial(target: Target, options: Options, timeout: float) -> ByteStream:
    """Return a connected stream; a ``TLSStream`` if TLS was asked for.

    Raises:
        OSError: the name does not resolve, no address accepts a connection, TLS failed, or the time is over.
    """
    try:
        with anyio.fail_after(timeout) as limit:
            sock = connect_unix(target.host) if target.is_unix else await _race(target, options)
            try:
                options.apply(sock)
                stream = await SocketStream.from_socket(sock)
                options.restore_delay(sock)
            except BaseException:
                sock.close()
                raise
            return stream if options.ssl is None else await _encrypt(stream, target, options)
    except TimeoutError as error:
        if limit.cancelled_caught:
            raise TimeoutError(f"{target} did not answer in time") from error
        raise


async def _encrypt(stream: SocketStream, target: Target, options: Options) -> ByteStream:
    try:
        return await TLSStream.wrap(
            stream, server_side=False, hostname=options.name_to_check(target), ssl_context=options.ssl
        )
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, anyio.BrokenResourceError | anyio.EndOfStream):
            raise ConnectionResetError(f"{target} ended the connection during the TLS handshake") from error
        raise


async def _race(target: Target, options: Options) -> socket.socket:
    """Start the addresses a short while apart, the next at once when one fails; the first socket wins (RFC 8305)."""
    infos = numeric(target.host, target.port)
    if infos is None:
        found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        infos = interleaved([(int(info[0]), int(info[1]), *info[2:]) for info in found])
    winners: list[socket.socket] = []
    errors: list[OSError] = []
    mistakes: list[Exception] = []  # errors that no retry can cure; a task group would wrap them

    async def run(info: AddrInfo, failed: anyio.Event) -> None:
        try:
            winners.append(await _connect(info, options))
        except OSError as error:
            errors.append(error)
            failed.set()
        except Exception as error:
            mistakes.append(error)
            runners.cancel_scope.cancel()
        else:
            runners.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as runners:
            for info in infos:
                failed = anyio.Event()
                runners.start_soon(run, info, failed)
                with anyio.move_on_after(options.happy_eyeballs_delay):
                    await failed.wait()
        winner = winners.pop(0) if winners else None
    finally:
        for sock in winners:  # two in the same moment, or cancelled in the moment of success
            sock.close()
    if winner is not None:
        return winner
    if mistakes:
        raise mistakes[0]
    raise errors[0] if len(errors) == 1 else AddressesError(str(target), tuple(errors))


async def _connect(info: AddrInfo, options: Options) -> socket.socket:
    family, kind, proto, _, destination = info
    source, same = options.source_address, options.allow_same_port
    attempt = Attempt(family, kind, proto, destination, source, allow_same_port=same)
    sock = attempt.sock
    try:
        sock.setblocking(False)
        while True:
            try:
                if not connected_at_once(sock, destination):
                    await _wait_connected(sock, destination)
                break
            except OSError as error:
                attempt.failed(named(error, destination))
    except BaseException:
        attempt.drop()
        raise
    return attempt.finish()


async def _wait_connected(sock: socket.socket, destination: Any) -> None:
    try:
        sock.connect(destination)  # begins it where connected_at_once() does not, else says how far it is
        return
    except BlockingIOError:
        await anyio.wait_writable(sock)
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))


async def verify(stream: ByteStream, verifier: Verifier, target: Target, timeout: float) -> bytes:
    """Have ``verifier`` talk with the peer, and return the bytes that belong to the user.

    Raises:
        VerifyError: the peer is refused, or the time is over; the stream is the caller's to close.
    """
    verification = Verification(verifier, target)
    try:
        with anyio.fail_after(timeout):
            while not isinstance(wants := verification.wants, Accepted):
                if isinstance(wants, Send):
                    await stream.send(wants.data)
                    verification.done()
                else:
                    verification.done(await _receive(stream, wants.most))
            return wants.unread
    except VerifyError:
        raise
    except OSError as error:
        raise verification.failed(error) from error
    except anyio.BrokenResourceError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else ConnectionResetError("it is broken")
        raise verification.failed(cause) from error


async def _receive(stream: ByteStream, most: int) -> bytes:
    try:
        return await stream.receive(most)
    except anyio.EndOfStream:
        return b""


class GivenBackStream(ByteStream):
    """A stream that returns the bytes it was given before those of the stream below it."""

    def __init__(self, stream: ByteStream, unread: bytes) -> None:
        self._stream = stream
        self._unread = unread

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._unread:
            return await self._stream.receive(max_bytes)
        await anyio.lowlevel.checkpoint()
        data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes
