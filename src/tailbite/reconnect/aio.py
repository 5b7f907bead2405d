"""The asyncio shell of persistent connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Unpack

from tailbite.dial.aio import Line, Stream, dial, verify, wrap
from tailbite.dial.ends import ends_of
from tailbite.dial.options import Options
from tailbite.reconnect.arguments import checked_limit
from tailbite.reconnect.async_base import CLOSING, AsyncConnections, start_in_background

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from tailbite.connect.target import Target
    from tailbite.reconnect.arguments import Address, LoopSettings
    from tailbite.reconnect.driver import Work
    from tailbite.reconnect.messages import Input
    from tailbite.reconnect.network import Link
    from tailbite.verifiers.verification import Verifier

__all__ = ["Connections", "connections"]


def connections(
    host: Address, port: int | str | None = None, *, limit: int = 2**16, **settings: Unpack[LoopSettings]
) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one follows.

    ::

        async for connection in tailbite.aio.connections("db", 32246):
            async with connection as (reader, writer): ...

    When the block ends normally or by a lost connection, the loop reconnects; any other error propagates, ``break``
    and ``return`` end the loop. Cancellation ends it at once.

    Args:
        host: a name or an address, or, without a port, the path of a Unix socket.
        port: a port or the name of a service.
        limit: the buffer limit of the stream readers, in bytes; 65536 if not given.
        timeout: seconds for opening one connection: name, socket and TLS together; 10 if not given.
        backoff: the delays between attempts: a :class:`~tailbite.Backoff`, or a function that returns an iterator of
            seconds for one outage. If not given, each is random, below a ceiling that doubles from 0.1 s to 30 s.
        max_attempts: the number of attempts an outage may have; None, the default, sets no limit.
        deadline: seconds an outage may take, counted from the moment a connection is asked for; the last attempt
            begins shortly before the end. None, the default, sets no limit.
        first: a :class:`~tailbite.Policy` with a backoff and limits for the time until the first connection
            succeeds; None, the default, makes it the same as later.
        healthy_after: seconds after which a connection counts as one that works, so that its loss begins a new
            outage with short delays; 5 if not given.
        retry: the errors that are worth another attempt: one exception type or a tuple of them, in addition to the
            default ones, or a function that takes an error and returns True for another attempt.
        verify: a verifier from :mod:`tailbite.verify`, or one of your own, that must accept the peer before the
            connection is delivered; None, the default, accepts every peer.
        hooks: one function, or several, called with every event of :mod:`tailbite.events`.
        ssl: True, or an ``ssl.SSLContext``, for TLS; None, the default, for none.
        server_hostname: the name that the server's certificate must be for; the host if not given.
        source_address: a pair of host and port to bind to first; port 0 leaves the port to the kernel.
        allow_same_port: True accepts a ``source_address`` with the port of the destination, for servers on other
            hosts that want it; a self-connect is then noticed after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way (RFC 8305);
            0.25 if not given.
        keepalive: seconds (2 to 65534) within which a peer that has vanished ends the connection, whether it is idle
            (SO_KEEPALIVE) or data waits for an acknowledgement (TCP_USER_TIMEOUT); None, the default, leaves it to
            the kernel.
        user_timeout: seconds for which data may stay unacknowledged (TCP_USER_TIMEOUT, Linux); if not given, that of
            ``keepalive``, else about 15 minutes. It decides for an idle connection with keepalive, too (tcp(7)).
        nodelay: send small writes at once (TCP_NODELAY); True if not given.
    Raises:
        TypeError, ValueError: arguments that cannot work, at the call.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached, or the backoff ended.
    """
    return Connections(host, port, limit=limit, **settings)


class Connections(AsyncConnections[Stream]):
    """An asynchronous iterator of connections, for one task; :meth:`close` may be called from anywhere.

    The arguments are those of :func:`connections`.
    """

    def __init__(
        self, host: Address, port: int | str | None = None, *, limit: int = 2**16, **settings: Unpack[LoopSettings]
    ) -> None:
        self._limit = checked_limit(limit)
        super().__init__(host, port, **settings)
        self._scope: asyncio.Timeout | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._background: set[asyncio.Task[None]] = set()

    def _real_network(self) -> RealNetwork:
        return RealNetwork(self._limit)

    async def _link_of(self, sock: socket.socket, target: Target) -> LineLink:
        sock.setblocking(False)
        return LineLink(await wrap(sock, target, Options()), self._limit)

    async def _checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def _closable(self, work: Work) -> Input | None:
        try:
            # A timeout without a time: _cancel() sets one, and so ends whatever is awaited in here.
            async with asyncio.timeout(None) as self._scope:
                return await self._work(work)
        finally:
            self._scope = None

    def _cancel(self) -> bool:
        if self._scope is None:
            return False
        self._scope.reschedule(asyncio.get_running_loop().time())
        return True

    def _from_anywhere(self) -> Callable[[Callable[[], object]], object]:
        self._event_loop = asyncio.get_running_loop()
        return self._event_loop.call_soon_threadsafe

    def _in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._event_loop is not None
        start_in_background(self._event_loop, work, self._background)

    def _current_task(self) -> int | None:
        try:
            return id(asyncio.current_task())
        except RuntimeError:
            return None

    async def _block_left(self, stream: Stream, error: BaseException | None) -> bool:
        lost = self._loop.block_left(error) or (self._is_closed and isinstance(error, OSError))
        try:
            if error is None or not (lost or isinstance(error, asyncio.CancelledError)):
                await self._say_goodbye(stream)
        finally:
            await self._drop()
        return lost

    async def _say_goodbye(self, stream: Stream) -> None:
        stream.writer.close()
        try:
            async with asyncio.timeout(CLOSING):
                await stream.writer.wait_closed()
        except OSError:
            pass  # the peer was quicker, or does not read what is still to be sent


class RealNetwork:
    """The network of this host, on asyncio."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def now(self) -> float:
        """Return the event loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def open(self, target: Target, options: Options, timeout: float) -> LineLink:
        """Connect: see :func:`tailbite.dial.aio.dial`."""
        line = await dial(target, options, timeout)
        try:
            return LineLink(line, self._limit)
        except BaseException:
            line.transport.abort()
            raise

    async def verify(self, link: Link[Stream], verifier: Verifier, target: Target, timeout: float) -> None:
        """Talk with the peer: see :func:`tailbite.dial.aio.verify`."""
        assert isinstance(link, LineLink)
        link.unread = await verify(link.line, verifier, target, timeout)


class LineLink:
    """A :class:`~tailbite.dial.aio.Line` as a link.

    Attributes:
        line: the line.
        unread: the bytes that the verifier has read, and that belong to the user.
    """

    def __init__(self, line: Line, limit: int) -> None:
        self.line = line
        self.unread = b""
        self.local, self.remote = ends_of(line.transport.get_extra_info("socket"))
        self._limit = limit

    @property
    def sock(self) -> socket.socket | None:
        """The socket; asyncio's and uvloop's stand-ins have the methods that are needed."""
        sock: socket.socket | None = self.line.transport.get_extra_info("socket")
        return sock

    async def deliver(self) -> Stream:
        """Make streams of the line."""
        return self.line.take_over(self.unread, self._limit)

    async def abort(self) -> None:
        """Reset the connection."""
        self.line.transport.abort()

    def shut_down(self) -> None:
        """Reset the connection: asyncio then feeds the end of the stream to the reader."""
        self.line.transport.abort()
