"""The anyio shell of persistent connections: the same loop on asyncio and on trio."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Unpack

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from tailbite.dial.anyio import GivenBackStream, dial, verify
from tailbite.dial.ends import ends_of
from tailbite.reconnect.async_base import CLOSING, AsyncConnections, start_in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tailbite.connect.target import Target
    from tailbite.dial.options import Options
    from tailbite.reconnect.arguments import Address, LoopSettings
    from tailbite.reconnect.driver import Work
    from tailbite.reconnect.messages import Input
    from tailbite.reconnect.network import Link
    from tailbite.verifiers.verification import Verifier

__all__ = ["Connections", "connections"]


def connections(host: Address, port: int | str | None = None, **settings: Unpack[LoopSettings]) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one follows.

    ::

        async for connection in tailbite.anyio.connections("db", 32246):
            async with connection as stream:
                print(await stream.receive())

    When the block ends normally or by a lost connection, the loop reconnects; any other error propagates, ``break``
    and ``return`` end the loop. Cancellation ends it at once.

    Args:
        host: a name or an address, or, without a port, the path of a Unix socket.
        port: a port or the name of a service.
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
    return Connections(host, port, **settings)


class Connections(AsyncConnections[ByteStream]):
    """An asynchronous iterator of connections, for one task; :meth:`close` may be called from anywhere.

    The arguments are those of :func:`connections`.
    """

    def __init__(self, host: Address, port: int | str | None = None, **settings: Unpack[LoopSettings]) -> None:
        super().__init__(host, port, **settings)
        self._scope: anyio.CancelScope | None = None
        self._native: Any = None
        self._background: set[Any] = set()

    def _real_network(self) -> RealNetwork:
        return RealNetwork()

    async def _link_of(self, sock: socket.socket, target: Target) -> StreamLink:
        return StreamLink(await SocketStream.from_socket(sock))

    async def _checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def _closable(self, work: Work) -> Input | None:
        try:
            with anyio.CancelScope() as self._scope:
                return await self._work(work)
        finally:
            self._scope = None
        return None  # _cancel() cancelled the scope

    def _cancel(self) -> bool:
        if self._scope is None:
            return False
        self._scope.cancel()
        return True

    def _from_anywhere(self) -> Callable[[Callable[[], object]], object]:
        # asyncio's event loop, or trio's token; both have a function that threads and signal handlers may call.
        native: Any = anyio.lowlevel.current_token().native_token
        self._native = native
        return native.run_sync_soon if hasattr(native, "run_sync_soon") else native.call_soon_threadsafe  # type: ignore[no-any-return]

    def _in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if hasattr(self._native, "create_task"):
            start_in_background(self._native, work, self._background)
        else:
            from trio.lowlevel import spawn_system_task

            spawn_system_task(work)

    def _current_task(self) -> int | None:
        try:
            return anyio.get_current_task().id
        except RuntimeError:
            return None

    async def _say_goodbye(self, stream: ByteStream) -> None:
        try:
            with anyio.move_on_after(CLOSING):
                await stream.aclose()
        except (OSError, anyio.BrokenResourceError):
            pass  # the peer was quicker

    async def _block_left(self, stream: ByteStream, error: BaseException | None) -> bool:
        lost = self._loop.block_left(error) or (self._is_closed and _is_of_a_stream(error))
        try:
            if error is None or not (lost or isinstance(error, anyio.get_cancelled_exc_class())):
                await self._say_goodbye(stream)
        finally:
            await self._drop()
        return lost


def _is_of_a_stream(error: BaseException | None) -> bool:
    return isinstance(error, OSError | anyio.ClosedResourceError)


class RealNetwork:
    """The network of this host, on anyio."""

    def now(self) -> float:
        """Return the event loop's time; trio's may be a mock clock's."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def open(self, target: Target, options: Options, timeout: float) -> StreamLink:
        """Connect: see :func:`tailbite.dial.anyio.dial`."""
        stream = await dial(target, options, timeout)
        try:
            return StreamLink(stream)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def verify(self, link: Link[ByteStream], verifier: Verifier, target: Target, timeout: float) -> None:
        """Talk with the peer: see :func:`tailbite.dial.anyio.verify`."""
        assert isinstance(link, StreamLink)
        unread = await verify(link.stream, verifier, target, timeout)
        if unread:
            link.stream = GivenBackStream(link.stream, unread)


class StreamLink:
    """A stream as a link.

    Attributes:
        stream: what the user gets.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.local, self.remote = ends_of(stream.extra(SocketAttribute.raw_socket))

    @property
    def sock(self) -> socket.socket | None:
        """The socket."""
        return self.stream.extra(SocketAttribute.raw_socket, None)

    async def deliver(self) -> ByteStream:
        """Return the stream."""
        return self.stream

    async def abort(self) -> None:
        """Reset the connection."""
        await anyio.aclose_forcefully(self.stream)

    def shut_down(self) -> None:
        """Shut the socket down: what waits to receive from it finds its end."""
        try:
            # Over a copy of the descriptor: uvloop's stand-in for the socket has no shutdown().
            with socket.socket(fileno=os.dup(self.stream.extra(SocketAttribute.raw_socket).fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is gone already
