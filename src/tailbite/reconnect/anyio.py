"""The anyio shell of persistent connections: the same loop on asyncio and on trio."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Unpack

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from tailbite.dial.anyio import GivenBackStream, dial, verify
from tailbite.reconnect.async_base import CLOSING, AsyncConnections
from tailbite.reconnect.messages import Closed

if TYPE_CHECKING:
    from tailbite.reconnect.driver import LoopSettings, Work
    from tailbite.reconnect.messages import Input
    from tailbite.verifiers.verification import Verifier

__all__ = ["Connections", "connections"]


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
        settings: see :class:`tailbite.reconnect.driver.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work, at once.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached.
    """
    return Connections(host, port, **settings)


class Connections(AsyncConnections[ByteStream]):
    """An asynchronous iterator of connections, for one task; :meth:`close` is for any task.

    The arguments are those of :func:`connections`.
    """

    def __init__(self, host: Any, port: int | str | None = None, **settings: Unpack[LoopSettings]) -> None:
        super().__init__(host, port, **settings)
        self._scope: anyio.CancelScope | None = None
        self._stream: ByteStream | None = None

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

    async def _closable(self, work: Work) -> Input:
        try:
            with anyio.CancelScope() as self._scope:
                return await self._carry_out(work)
        finally:
            self._scope = None
        return Closed(self._now())  # close() cancelled the scope

    def _time(self) -> float:
        # The event loop's own clock: trio's may be a mock one.
        return anyio.current_time()

    async def _sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _dial(self, timeout: float) -> socket.socket:
        self._stream = await dial(self._loop.target, self._loop.options, timeout)
        return self._stream.extra(SocketAttribute.raw_socket)

    async def _verify(self, verifier: Verifier, timeout: float) -> None:
        assert self._stream is not None
        unread = await verify(self._stream, verifier, self._loop.target, timeout)
        if unread:
            self._stream = GivenBackStream(self._stream, unread)

    async def _deliver(self) -> ByteStream:
        if self._acted is not None:
            self._stream, self._acted = await SocketStream.from_socket(self._acted), None
        assert self._stream is not None
        return self._stream

    async def _abort(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)

    async def _left(self, stream: ByteStream, error: BaseException | None) -> bool:
        lost = self._loop.left(error) or (self._is_closed and _is_of_a_stream(error))
        try:
            if error is None or not (lost or isinstance(error, anyio.get_cancelled_exc_class())):
                with anyio.move_on_after(CLOSING):
                    await stream.aclose()
        except (OSError, anyio.BrokenResourceError):
            pass  # the peer was quicker
        finally:
            await self._drop()
        return lost


def _is_of_a_stream(error: BaseException | None) -> bool:
    return isinstance(error, OSError | anyio.ClosedResourceError)
