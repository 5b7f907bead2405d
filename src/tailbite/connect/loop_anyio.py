"""The anyio shell of persistent connections: the same loop on asyncio and on trio."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Unpack

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from tailbite.connect import rehearsal
from tailbite.connect.dial_anyio import GivenBackStream, dial, verify
from tailbite.connect.dial_sync import ends_of
from tailbite.connect.loop import Loop, LoopSettings
from tailbite.connect.persistent import State
from tailbite.connect.steps import Believed, Closed, Drop, Input, Open, Opened, Sleep, Slept, Verify
from tailbite.connect.target import Target

if TYPE_CHECKING:
    from types import TracebackType

    from tailbite.connect.loop import Work

__all__ = ["Connection", "Connections", "connections"]

_CLOSING = 5.0
"""Seconds for which a connection may say goodbye (flush, TLS close_notify) before it is reset."""


def connections(host: Any, port: int | str | None = None, **settings: Unpack[LoopSettings]) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one comes.

    ::

        async for connection in tailbite.anyio.connections("db", 32246):
            async with connection as stream:
                await stream.send(b"PING\r\n")
                await stream.receive()

    When the block is left normally or by a lost connection, the loop reconnects; any other error propagates,
    ``break`` and ``return`` end the loop. Cancellation ends it at once.

    Args:
        host: a name or an address; without a port, the path of a Unix socket.
        port: a port or a service name.
        settings: see :class:`tailbite.connect.loop.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work, at once.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached.
    """
    return Connections(host, port, **settings)


class Connections:
    """An asynchronous iterator of :class:`Connection`, for one task; :meth:`close` is for any task.

    The arguments are those of :func:`connections`.
    """

    def __init__(self, host: Any, port: int | str | None = None, **settings: Unpack[LoopSettings]) -> None:
        self._played = rehearsal.played()
        self._loop = Loop(Target.of(host, port), self._now, **settings)
        self._scope: anyio.CancelScope | None = None
        self._is_closed = False
        self._stream: ByteStream | None = None
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
            await self._drop()  # the one before was not entered, or not left
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
            self._loop.abandon()
            await self._drop()
            raise
        raise StopAsyncIteration

    def close(self) -> None:
        """End the loop at once: also while it waits or connects. From another thread: ``anyio.from_thread.run_sync``.

        The connection the user has is shut down, so what waits to receive from it finds its end.
        """
        self._is_closed = True
        if self._scope is not None:
            self._scope.cancel()
        elif self._stream is not None:
            try:
                self._stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already

    async def _do(self, work: Work) -> Input | None:
        if isinstance(work, Drop):
            await self._drop()
            return None
        try:
            with anyio.CancelScope() as self._scope:
                if self._is_closed:
                    return Closed(self._now())
                return await self._carry_out(work)
        except Exception as error:
            return Closed(self._now()) if self._is_closed else self._loop.failed(error)
        finally:
            self._scope = None
        return Closed(self._now())  # close() cancelled the scope

    async def _carry_out(self, work: Work) -> Input:
        match work:
            case Sleep(seconds):
                if self._played:
                    self._played.sleep(seconds)
                await anyio.sleep(0 if self._played else seconds)
                return Slept(self._now())
            case Open(timeout):
                local, remote = await self._open(timeout)
                return Opened(self._now(), local, remote)
            case Verify(timeout):
                await self._verify(timeout)
                return Believed(self._now())
        raise AssertionError(work)

    def _now(self) -> float:
        # The event loop's own clock: trio's may be a mock one.
        return self._played.now() if self._played else anyio.current_time()

    async def _open(self, timeout: float) -> tuple[str, str]:
        if self._played:
            self._acted, local, remote = self._played.open(self._loop.target, timeout)
            return local, remote
        self._stream = await dial(self._loop.target, self._loop.options, timeout)
        return ends_of(self._stream.extra(SocketAttribute.raw_socket))

    async def _verify(self, timeout: float) -> None:
        assert self._loop.verifier is not None
        if self._played:
            assert self._acted is not None
            self._played.verify(self._acted, self._loop.verifier, self._loop.target, timeout)
            return
        assert self._stream is not None
        unread = await verify(self._stream, self._loop.verifier, self._loop.target, timeout)
        if unread:
            self._stream = GivenBackStream(self._stream, unread)

    async def _deliver(self) -> ByteStream:
        if self._acted is not None:
            self._stream, self._acted = await SocketStream.from_socket(self._acted), None
        assert self._stream is not None
        return self._stream

    async def _drop(self) -> None:
        if self._acted is not None:
            self._acted.close()
            self._acted = None
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)

    async def _left(self, stream: ByteStream, error: BaseException | None) -> bool:
        lost = self._loop.left(error) or (self._is_closed and _is_of_a_stream(error))
        try:
            if error is None or not (lost or isinstance(error, anyio.get_cancelled_exc_class())):
                with anyio.move_on_after(_CLOSING):
                    await stream.aclose()
        except (OSError, anyio.BrokenResourceError):
            pass  # the peer was quicker
        finally:
            await self._drop()
        return lost


def _is_of_a_stream(error: BaseException | None) -> bool:
    return isinstance(error, OSError | anyio.ClosedResourceError)


class Connection:
    """One connection: an asynchronous context manager that gives the stream, and closes it."""

    __slots__ = ("_connections", "_stream")

    def __init__(self, owner: Connections, stream: ByteStream) -> None:
        self._connections = owner
        self._stream = stream

    async def __aenter__(self) -> ByteStream:
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await self._connections._left(self._stream, error)
