"""The part of the asynchronous shells that they share; each of them adds how its library waits and is woken."""

from __future__ import annotations

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from tailbite.connect.target import Target
from tailbite.reconnect import rehearsal
from tailbite.reconnect.driver import Loop
from tailbite.reconnect.machine import State
from tailbite.reconnect.messages import Closed, Drop, Input, Open, Opened, PeerVerified, Sleep, Slept, Verify

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from tailbite.reconnect.arguments import Address, LoopSettings
    from tailbite.reconnect.driver import Work
    from tailbite.reconnect.network import AsyncNetwork, Link

__all__ = ["CLOSING", "AsyncConnection", "AsyncConnections"]

CLOSING = 5.0
"""Seconds for which a connection may say goodbye (flush, TLS close_notify) before it is reset."""

_S = TypeVar("_S")


class AsyncConnections(ABC, Generic[_S]):
    """The loop of one task, whose connections are given to the user as ``_S``."""

    def __init__(self, host: Address, port: int | str | None, **settings: Unpack[LoopSettings]) -> None:
        fake = rehearsal.network()
        self._network: AsyncNetwork[_S] = (
            fake.asynchronous(self._link_of, self._checkpoint) if fake is not None else self._real_network()
        )
        self._loop = Loop(Target.of(host, port), self._network.now, **settings)
        self._is_closed = False
        self._link: Link[_S] | None = None
        self._inode = 0  # of the link's socket
        self._pid = 0
        self._call_soon: Callable[[Callable[[], object]], object] | None = None

    @property
    def state(self) -> State:
        """The state of the loop."""
        return self._loop.state

    @property
    def is_closed(self) -> bool:
        """True after :meth:`close`."""
        return self._is_closed

    def close(self) -> None:
        """End the loop at once: also while it waits or connects, and the connection the user has.

        From any task, from any thread, from a signal handler, from a hook, and more than once. A read that waits
        ends, as if the peer had closed. In a forked process this closes the process's copy of the descriptor, and
        leaves the connection and the event loop to the parent.
        """
        is_first, self._is_closed = not self._is_closed, True
        if self._pid not in (0, os.getpid()):
            self._forget()
        elif is_first:
            self._soon(self._end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncConnection[_S]:
        """Wait for the next connection.

        Raises:
            StopAsyncIteration: the loop was closed.
            GaveUpError: a limit was reached.
            BaseException: an error that the classifier calls fatal, unchanged.
        """
        self._pid, self._call_soon = os.getpid(), self._from_anywhere()
        if self._loop.state is State.CONNECTED:
            await self._left_alone()
        try:
            if await self._advance():
                assert self._link is not None
                stream = await self._link.deliver()
                if not self._is_closed:
                    return AsyncConnection(self, self._link, stream)
                self._loop.abandon()
                await self._drop()
        except BaseException:
            self._loop.abandon()
            await self._drop()
            raise
        raise StopAsyncIteration

    async def _advance(self) -> bool:
        """Work towards the next connection; True if there is one to deliver, False if the loop was closed."""
        steps = self._loop.steps(closed=self._is_closed)
        try:
            work = next(steps)
            while True:
                work = steps.send(await self._carry_out(work))
        except StopIteration as end:
            return bool(end.value)

    async def _carry_out(self, work: Work) -> Input | None:
        if isinstance(work, Drop):
            await self._drop()
            return None
        happened: Input | None = None
        try:
            if not self._is_closed:
                happened = await self._closable(work)
        except Exception as error:
            if not self._is_closed:
                return self._loop.failed(error)
        if self._is_closed or happened is None:
            await self._drop()
            return Closed(self._network.now())
        return happened

    async def _work(self, work: Work) -> Input:
        match work:
            case Sleep(seconds):
                await self._network.sleep(seconds)
                return Slept(self._network.now())
            case Open(timeout):
                self._link = link = await self._network.open(self._loop.target, self._loop.options, timeout)
                self._inode = _inode_of(link.sock)
                return Opened(self._network.now(), link.local, link.remote)
            case Verify(timeout):
                assert self._link is not None
                assert self._loop.verifier is not None
                await self._network.verify(self._link, self._loop.verifier, self._loop.target, timeout)
                return PeerVerified(self._network.now())
        raise AssertionError(work)

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.abort()

    async def _left_alone(self) -> None:
        """Drop a connection that was not entered, or not left."""
        await self._drop()
        self._loop.block_left(None)

    def _discard(self, link: Link[_S], stream: _S) -> None:
        """Drop a connection that was not entered, and can no longer be entered; from any thread."""

        def drop(_: _S = stream) -> None:  # an asyncio.StreamWriter must not go before its transport is closed
            if self._link is link and self._loop.state is State.CONNECTED:
                link.shut_down()
                self._in_background(self._left_alone)

        if self._pid == os.getpid():
            self._soon(drop)

    def _soon(self, call: Callable[[], object]) -> None:
        """Have the event loop call something, which is not in a place where it may be called here."""
        if self._call_soon is not None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._call_soon(call)

    def _end(self) -> None:
        """Take note of :meth:`close` in the event loop."""
        if not self._cancel() and self._link is not None:
            self._link.shut_down()

    def _forget(self) -> None:
        """Close this process's copy of the descriptor, and nothing else.

        The transport must not hear of it: its event loop's epoll instance is the parent's as well, and would forget
        the parent's descriptor (epoll(7)). So another open file takes the descriptor's place (dup(2)).
        """
        sock = self._link.sock if self._link is not None else None
        if sock is not None and _inode_of(sock) == self._inode:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, sock.fileno(), inheritable=False)
            os.close(nothing)

    @abstractmethod
    def _real_network(self) -> AsyncNetwork[_S]:
        """Return the network of this host."""

    @abstractmethod
    async def _link_of(self, sock: socket.socket, target: Target) -> Link[_S]:
        """Return the link of a connected socket."""

    @abstractmethod
    async def _checkpoint(self) -> None:
        """Let the event loop's other tasks run."""

    @abstractmethod
    async def _closable(self, work: Work) -> Input | None:
        """Do the work so that :meth:`_cancel` can end it; the answer then is None, or any error."""

    @abstractmethod
    def _cancel(self) -> bool:
        """End the work that is under way; False if no work is."""

    @abstractmethod
    def _from_anywhere(self) -> Callable[[Callable[[], object]], object]:
        """Return the function of the running event loop that may be called from any thread and signal handler."""

    @abstractmethod
    def _in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start an asynchronous function in a task of its own."""

    @abstractmethod
    async def _block_left(self, stream: _S, error: BaseException | None) -> bool:
        """Close the connection whose block was left; True if the error means that it was lost."""


def _inode_of(sock: socket.socket | None) -> int:
    """Return a number that no other open socket of this host has; 0 for a closed socket."""
    try:
        status = os.fstat(sock.fileno()) if sock is not None else None
    except (OSError, ValueError):
        return 0
    return status.st_ino if status is not None and stat.S_ISSOCK(status.st_mode) else 0


class AsyncConnection(Generic[_S]):
    """One connection: an asynchronous context manager that gives the stream, and closes it."""

    __slots__ = ("_connections", "_is_entered", "_link", "_stream")

    def __init__(self, owner: AsyncConnections[_S], link: Link[_S], stream: _S) -> None:
        self._connections = owner
        self._link = link
        self._stream = stream
        self._is_entered = False

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"a connection has no {name!r}: use the stream of `async with connection as x:`")

    async def __aenter__(self) -> _S:
        self._is_entered = True
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await self._connections._block_left(self._stream, error)

    def __del__(self) -> None:
        # ``async for connection in connections(...): break`` leaves a connection that nobody has.
        if not self._is_entered:
            self._connections._discard(self._link, self._stream)
