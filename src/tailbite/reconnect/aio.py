"""The asyncio shell of persistent connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Unpack

from tailbite.dial.aio import Line, Stream, dial, verify, wrap
from tailbite.dial.options import Options
from tailbite.reconnect.async_base import CLOSING, AsyncConnections

if TYPE_CHECKING:
    import socket

    from tailbite.reconnect.driver import LoopSettings, Work
    from tailbite.reconnect.messages import Input
    from tailbite.verifiers.verification import Verifier

__all__ = ["Connections", "connections"]


def connections(
    host: Any, port: int | str | None = None, *, limit: int = 2**16, **settings: Unpack[LoopSettings]
) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one comes.

    ::

        async for connection in tailbite.aio.connections("db", 32246):
            async with connection as stream:
                stream.writer.write(b"PING\\r\\n")
                await stream.reader.readline()

    When the block is left normally or by a lost connection, the loop reconnects; any other error propagates,
    ``break`` and ``return`` end the loop. Cancellation ends it at once.

    Args:
        host: a name or an address; without a port, the path of a Unix socket.
        port: a port or a service name.
        limit: the readers' buffer limit in bytes.
        settings: see :class:`tailbite.reconnect.driver.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work, at once.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached.
    """
    return Connections(host, port, limit=limit, **settings)


class Connections(AsyncConnections[Stream]):
    """An asynchronous iterator of connections, for one task; :meth:`close` is for any task.

    The arguments are those of :func:`connections`.
    """

    def __init__(
        self, host: Any, port: int | str | None = None, *, limit: int = 2**16, **settings: Unpack[LoopSettings]
    ) -> None:
        super().__init__(host, port, **settings)
        self._limit = limit
        self._scope: asyncio.Timeout | None = None
        self._line: Line | None = None
        self._unread = b""

    def close(self) -> None:
        """End the loop at once: also while it waits or connects, and the connection the user has.

        From another thread: ``loop.call_soon_threadsafe(connections.close)``. A read that waits ends, as if the
        peer had closed.
        """
        self._is_closed = True
        if self._scope is not None:
            self._scope.reschedule(self._time())
        elif self._line is not None:
            self._line.transport.abort()

    async def _closable(self, work: Work) -> Input:
        try:
            # A timeout without a time: close() sets one, and so ends whatever is awaited in here.
            async with asyncio.timeout(None) as self._scope:
                return await self._carry_out(work)
        finally:
            self._scope = None

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _dial(self, timeout: float) -> socket.socket:
        self._unread = b""
        self._line = await dial(self._loop.target, self._loop.options, timeout)
        sock: socket.socket = self._line.transport.get_extra_info("socket")
        return sock

    async def _verify(self, verifier: Verifier, timeout: float) -> None:
        assert self._line is not None
        self._unread = await verify(self._line, verifier, self._loop.target, timeout)

    async def _deliver(self) -> Stream:
        if self._acted is not None:
            self._acted.setblocking(False)
            self._line, self._acted = await wrap(self._acted, self._loop.target, Options()), None
        assert self._line is not None
        return self._line.take_over(self._unread, self._limit)

    async def _abort(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.transport.abort()

    async def _left(self, stream: Stream, error: BaseException | None) -> bool:
        lost = self._loop.left(error) or (self._is_closed and isinstance(error, OSError))
        try:
            if error is None or not (lost or isinstance(error, asyncio.CancelledError)):
                await self._say_goodbye(stream.writer)
        finally:
            await self._drop()
        return lost

    async def _say_goodbye(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            async with asyncio.timeout(CLOSING):
                await writer.wait_closed()
        except OSError:
            pass  # the peer was quicker, or does not read what is still to be sent
