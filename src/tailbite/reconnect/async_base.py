"""What the asynchronous shells of persistent connections share; each of them adds how its library waits and dials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from tailbite.connect.target import Target
from tailbite.dial.sync import ends_of
from tailbite.reconnect import rehearsal
from tailbite.reconnect.driver import Loop, LoopSettings
from tailbite.reconnect.machine import State
from tailbite.reconnect.messages import Believed, Closed, Drop, Input, Open, Opened, Sleep, Slept, Verify

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from tailbite.reconnect.driver import Work
    from tailbite.verifiers.verification import Verifier

__all__ = ["CLOSING", "AsyncConnection", "AsyncConnections"]

CLOSING = 5.0
"""Seconds for which a connection may say goodbye (flush, TLS close_notify) before it is reset."""

_S = TypeVar("_S")


class AsyncConnections(ABC, Generic[_S]):
    """The loop of one task, whose connections are given to the user as ``_S``."""

    def __init__(self, host: Any, port: int | str | None, **settings: Unpack[LoopSettings]) -> None:
        self._played = rehearsal.played()
        self._loop = Loop(Target.of(host, port), self._now, **settings)
        self._is_closed = False
        self._acted: socket.socket | None = None  # a played network's socket, until it is delivered

    @property
    def state(self) -> State:
        """Where the loop is."""
        return self._loop.state

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncConnection[_S]:
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
                return AsyncConnection(self, await self._deliver())
        except BaseException:
            self._loop.abandon()
            await self._drop()
            raise
        raise StopAsyncIteration

    async def _do(self, work: Work) -> Input | None:
        if isinstance(work, Drop):
            await self._drop()
            return None
        try:
            return await self._closable(work)
        except Exception as error:
            return Closed(self._now()) if self._is_closed else self._loop.failed(error)

    async def _carry_out(self, work: Work) -> Input:
        if self._is_closed:
            return Closed(self._now())
        match work:
            case Sleep(seconds):
                if self._played:
                    self._played.sleep(seconds)
                await self._sleep(0 if self._played else seconds)
                return Slept(self._now())
            case Open(timeout):
                if self._played:
                    self._acted, local, remote = self._played.open(self._loop.target, timeout)
                else:
                    local, remote = ends_of(await self._dial(timeout))
                return Opened(self._now(), local, remote)
            case Verify(timeout):
                assert self._loop.verifier is not None
                if self._played:
                    assert self._acted is not None
                    self._played.verify(self._acted, self._loop.verifier, self._loop.target, timeout)
                else:
                    await self._verify(self._loop.verifier, timeout)
                return Believed(self._now())
        raise AssertionError(work)

    def _now(self) -> float:
        return self._played.now() if self._played else self._time()

    async def _drop(self) -> None:
        if self._acted is not None:
            self._acted.close()
            self._acted = None
        await self._abort()

    @abstractmethod
    async def _closable(self, work: Work) -> Input:
        """Carry out the work so that ``close()`` can end it; the answer then is Closed, or any error."""

    @abstractmethod
    def _time(self) -> float:
        """Return the event loop's monotonic time in seconds."""

    @abstractmethod
    async def _sleep(self, seconds: float) -> None: ...

    @abstractmethod
    async def _dial(self, timeout: float) -> socket.socket:
        """Open a connection and keep it; return its socket to look at."""

    @abstractmethod
    async def _verify(self, verifier: Verifier, timeout: float) -> None:
        """Let the verifier talk with the peer of the connection."""

    @abstractmethod
    async def _deliver(self) -> _S:
        """Make what the user gets, of the connection or of the played network's socket."""

    @abstractmethod
    async def _abort(self) -> None:
        """Reset the connection if there is one."""

    @abstractmethod
    async def _left(self, stream: _S, error: BaseException | None) -> bool:
        """Close the connection whose block was left; True if the error means that it was lost."""


class AsyncConnection(Generic[_S]):
    """One connection: an asynchronous context manager that gives the stream, and closes it."""

    __slots__ = ("_connections", "_stream")

    def __init__(self, owner: AsyncConnections[_S], stream: _S) -> None:
        self._connections = owner
        self._stream = stream

    async def __aenter__(self) -> _S:
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await self._connections._left(self._stream, error)
