"""The asyncio shell of persistent connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Unpack

from tailbite.connect import rehearsal
from tailbite.connect.dial_aio import Line, Stream, dial, verify, wrap
from tailbite.connect.dial_sync import ends_of
from tailbite.connect.loop import Loop, LoopSettings
from tailbite.connect.options import Options
from tailbite.connect.persistent import State
from tailbite.connect.steps import Believed, Closed, Drop, Input, Open, Opened, Sleep, Slept, Verify
from tailbite.connect.target import Target

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from tailbite.connect.loop import Work

__all__ = ["Connection", "Connections", "connections"]

_CLOSING = 5.0
"""Seconds for which a connection may say goodbye (flush, TLS close_notify) before it is reset."""


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
        settings: see :class:`tailbite.connect.loop.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work, at once.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached.
    """
    return Connections(host, port, limit=limit, **settings)


class Connections:
    """An asynchronous iterator of :class:`Connection`, for one task; :meth:`close` is for any task.

    The arguments are those of :func:`connections`.
    """

    def __init__(
        self, host: Any, port: int | str | None = None, *, limit: int = 2**16, **settings: Unpack[LoopSettings]
    ) -> None:
        self._played = rehearsal.played()
        self._loop = Loop(Target.of(host, port), self._now, **settings)
        self._limit = limit
        self._scope: asyncio.Timeout | None = None
        self._is_closed = False
        self._line: Line | None = None
        self._unread = b""
        self._acted: socket.socket | None = None  # a played network's socket, until it is delivered

    @property
    def state(self) -> State:
        """Where the loop is."""
        return self._loop.state

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> Connection:
        """Wait for the next connection.

        Raises:
            StopAsyncIteration: the loop was closed.
            GaveUpError: a limit was reached.
            BaseException: what the classifier calls fatal, as it was.
        """
        if self._loop.state is State.CONNECTED:
            self._drop()  # the one before was not entered, or not left
            self._loop.left(None)
        steps = self._loop.steps(closed=self._is_closed)
        try:
            work = next(steps)
            while True:
                work = steps.send(await self._do(work))
        except StopIteration as end:
            if end.value:
                return Connection(self, await self._deliver())
        except BaseException:
            self._drop()
            self._loop.abandon()
            raise
        raise StopAsyncIteration

    def close(self) -> None:
        """End the loop at once: also while it waits or connects, and the connection the user has.

        From another thread: ``loop.call_soon_threadsafe(connections.close)``. A read that waits ends, as if the
        peer had closed.
        """
        self._is_closed = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
        elif self._line is not None:
            self._line.transport.abort()

    async def _do(self, work: Work) -> Input | None:
        if isinstance(work, Drop):
            self._drop()
            return None
        try:
            # A timeout without a time: close() sets one, and so ends whatever is awaited in here.
            async with asyncio.timeout(None) as self._scope:
                if self._is_closed:
                    return Closed(self._now())
                return await self._carry_out(work)
        except Exception as error:
            return Closed(self._now()) if self._is_closed else self._loop.failed(error)
        finally:
            self._scope = None

    async def _carry_out(self, work: Work) -> Input:
        match work:
            case Sleep(seconds):
                if self._played:
                    self._played.sleep(seconds)
                await asyncio.sleep(0 if self._played else seconds)
                return Slept(self._now())
            case Open(timeout):
                local, remote = await self._open(timeout)
                return Opened(self._now(), local, remote)
            case Verify(timeout):
                await self._verify(timeout)
                return Believed(self._now())
        raise AssertionError(work)

    def _now(self) -> float:
        return self._played.now() if self._played else asyncio.get_running_loop().time()

    async def _open(self, timeout: float) -> tuple[str, str]:
        self._unread = b""
        if self._played:
            self._acted, local, remote = self._played.open(self._loop.target, timeout)
            return local, remote
        self._line = await dial(self._loop.target, self._loop.options, timeout)
        return ends_of(self._line.transport.get_extra_info("socket"))

    async def _verify(self, timeout: float) -> None:
        assert self._loop.verifier is not None
        if self._played:
            assert self._acted is not None
            self._played.verify(self._acted, self._loop.verifier, self._loop.target, timeout)
            return
        assert self._line is not None
        self._unread = await verify(self._line, self._loop.verifier, self._loop.target, timeout)

    async def _deliver(self) -> Stream:
        if self._acted is not None:
            self._acted.setblocking(False)
            self._line, self._acted = await wrap(self._acted, self._loop.target, Options()), None
        assert self._line is not None
        return self._line.take_over(self._unread, self._limit)

    def _drop(self) -> None:
        if self._acted is not None:
            self._acted.close()
            self._acted = None
        line, self._line = self._line, None
        if line is not None:
            line.transport.abort()

    async def _left(self, stream: Stream, error: BaseException | None) -> bool:
        lost = self._loop.left(error) or (self._is_closed and isinstance(error, OSError))
        try:
            if error is None or not (lost or isinstance(error, asyncio.CancelledError)):
                await self._say_goodbye(stream.writer)
        finally:
            self._drop()
        return lost

    async def _say_goodbye(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            async with asyncio.timeout(_CLOSING):
                await writer.wait_closed()
        except OSError:
            pass  # the peer was quicker, or does not read what is still to be sent


class Connection:
    """One connection: an asynchronous context manager that gives the streams, and closes them."""

    __slots__ = ("_connections", "_stream")

    def __init__(self, owner: Connections, stream: Stream) -> None:
        self._connections = owner
        self._stream = stream

    async def __aenter__(self) -> Stream:
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await self._connections._left(self._stream, error)
