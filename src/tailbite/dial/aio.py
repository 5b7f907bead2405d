"""Opening one asyncio connection, verifying it, and only then making streams of it.

Until the peer is accepted, the transport belongs to a :class:`Line`, which collects its bytes. The streams take the
transport over in one step (``transport.set_protocol``), and are fed first with what belongs to them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from tailbite.connect.aio import connect_socket
from tailbite.connect.attempt import connect_unix
from tailbite.errors import AddressesError, VerifyError
from tailbite.verifiers.verification import Accepted, Send, Verification

if TYPE_CHECKING:
    import socket

    from tailbite.connect.target import Target
    from tailbite.dial.options import Options
    from tailbite.verifiers.verification import Verifier

__all__ = ["Line", "Stream", "dial", "verify", "wrap"]


class Stream(NamedTuple):
    """Both directions of a connection; ``async with connection as (reader, writer)`` takes it apart."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def dial(target: Target, options: Options, timeout: float) -> Line:
    """Return a connection from which nothing was read yet.

    Raises:
        OSError: the name does not resolve, no address accepts a connection, TLS failed, or the time is over.
    """
    try:
        async with asyncio.timeout(timeout) as limit:
            sock = connect_unix(target.host) if target.is_unix else await _connect(target, options)
            return await wrap(sock, target, options)
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"{target} did not answer in time") from error
        raise


async def _connect(target: Target, options: Options) -> socket.socket:
    try:
        return await connect_socket(
            target.host,
            target.port,
            local_addr=options.source_address,
            allow_same_port=options.allow_same_port,
            happy_eyeballs_delay=options.happy_eyeballs_delay,
            all_errors=True,
        )
    except ExceptionGroup as group:
        errors = [error for error in group.exceptions if isinstance(error, OSError)]
    raise errors[0] if len(errors) == 1 else AddressesError(str(target), tuple(errors))


async def wrap(sock: socket.socket, target: Target, options: Options) -> Line:
    """Make a line of a connected, non-blocking socket, with TLS if the options say so.

    Raises:
        OSError: the TLS handshake failed; the socket is closed.
    """
    try:
        options.apply(sock)
        secure: dict[str, Any] = {}
        if options.ssl is not None:
            secure = {"ssl": options.ssl, "server_hostname": options.name_to_check(target)}
        _, line = await asyncio.get_running_loop().create_connection(Line, sock=sock, **secure)
        options.restore_delay(sock)
        return line
    except BaseException:
        sock.close()
        raise


class Line(asyncio.Protocol):
    """A transport whose bytes are collected until they are received, or the transport is taken over."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._arrived = bytearray()
        self._is_over = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        self._news.set()

    def eof_received(self) -> bool:
        self._is_over = True
        self._news.set()
        # As asyncio's own streams: half-closed stays open, except under TLS, which knows no half.
        return self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over, self._error = True, error
        self._news.set()

    async def receive(self, most: int) -> bytes:
        """Return 1 to ``most`` bytes, or ``b""`` at the end of the stream.

        Raises:
            OSError: the connection broke.
        """
        while not self._arrived and not self._is_over:
            self._news.clear()
            await self._news.wait()
        if not self._arrived and self._error is not None:
            raise self._error
        data = bytes(self._arrived[:most])
        del self._arrived[:most]
        return data

    def take_over(self, unread: bytes, limit: int) -> Stream:
        """Make streams of the transport; the reader begins with ``unread``."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if first := unread + bytes(self._arrived):
            reader.feed_data(first)
        if self._error is not None:
            reader.set_exception(self._error)
        elif self._is_over:
            reader.feed_eof()
        return Stream(reader, asyncio.StreamWriter(self.transport, protocol, reader, loop))


async def verify(line: Line, verifier: Verifier, target: Target, timeout: float) -> bytes:
    """Have ``verifier`` talk with the peer, and return the bytes that belong to the user.

    Raises:
        VerifyError: the peer is refused, or the time is over; the line is the caller's to close.
    """
    verification = Verification(verifier, target)
    try:
        async with asyncio.timeout(timeout):
            while not isinstance(wants := verification.wants, Accepted):
                if isinstance(wants, Send):
                    line.transport.write(wants.data)
                    verification.done()
                else:
                    verification.done(await line.receive(wants.most))
            return wants.unread
    except VerifyError:
        raise
    except OSError as error:
        raise verification.failed(error) from error
