"""The part of the asynchronous shells that they share; each of them adds how its library waits and is woken."""

from __future__ import annotations

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from tailbite.connect.target import Target
from tailbite.core.uncopyable import Uncopyable
from tailbite.reconnect import rehearsal
from tailbite.reconnect.driver import UNDER_WAY, Loop
from tailbite.reconnect.machine import State
from tailbite.reconnect.messages import Closed, Drop, Input, Open, Opened, PeerVerified, Sleep, Slept, Verify

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from tailbite.reconnect.arguments import Address, LoopSettings
    from tailbite.reconnect.driver import Work
    from tailbite.reconnect.network import AsyncNetwork, Link

__all__ = ["CLOSING", "AsyncConnection", "AsyncConnections", "start_in_background"]

CLOSING = 5.0
"""Seconds for which a connection may say goodbye (flush, TLS close_notify) before it is reset."""

_S = TypeVar("_S")


class AsyncConnections(ABC, Uncopyable, Generic[_S]):
    """The loop of one task, whose connections are given to the user as ``_S``.

    A loop that gave up, failed or was cancelled begins a new outage when it is iterated over again, in the same event
    loop or in another one.
    """

    def __init__(self, host: Address, port: int | str | None, **settings: Unpack[LoopSettings]) -> None:
        fake = rehearsal.network()
        self._network: AsyncNetwork[_S] = (
            fake.asynchronous(self._link_of, self._checkpoint) if fake is not None else self._real_network()
        )
        self._loop = Loop(Target.of(host, port), self._now, **settings)
        self._is_closed = False
        self._link: Link[_S] | None = None
        self._inode = 0  # of the link's socket
        self._pid = 0
        self._is_busy = False
        self._time = self._time_before = 0.0
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
            self._forget(self._link)
        elif is_first:
            self._soon(self._end)

    def __aiter__(self) -> Self:
        if not self._is_closed:
            self._loop.renew()
        return self

    async def __anext__(self) -> AsyncConnection[_S]:
        """Wait for the next connection.

        Raises:
            StopAsyncIteration: the loop was closed.
            GaveUpError: a limit was reached.
            RuntimeError: another call is under way, in another task, or in this one around a hook.
            BaseException: an error that the classifier calls fatal, unchanged.
        """
        if self._is_busy:
            raise RuntimeError(UNDER_WAY)
        try:
            self._is_busy = True
            self._enter_event_loop()
            return await self._following()
        finally:
            self._is_busy = False

    async def _following(self) -> AsyncConnection[_S]:
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
        except GeneratorExit:
            self._loop.abandon()
            self._drop_without_waiting()
            raise
        except BaseException:
            self._loop.abandon()
            await self._drop()
            raise
        raise StopAsyncIteration

    def _enter_event_loop(self) -> None:
        """Take note of the running event loop, and leave the one before, if it was another one."""
        before, self._pid, self._call_soon = self._call_soon, os.getpid(), self._from_anywhere()
        if before is None or before == self._call_soon:
            return
        # The clock continues from where it stood: trio's begins at a random time in each run.
        self._time_before = self._time
        self._time_before -= self._network.now()
        link, self._link = self._link, None
        if link is not None:
            try:
                before(link.shut_down)
            except RuntimeError:  # that event loop has ended
                self._forget(link)

    def _now(self) -> float:
        """Return the time of the event loops in seconds; it stands still where none is running."""
        with contextlib.suppress(RuntimeError):
            self._time = self._time_before + self._network.now()
        return self._time

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
            return Closed(self._now())
        return happened

    async def _work(self, work: Work) -> Input:
        match work:
            case Sleep(seconds):
                await self._network.sleep(seconds)
                return Slept(self._now())
            case Open(timeout):
                self._link = link = await self._network.open(self._loop.target, self._loop.options, timeout)
                self._inode = _inode_of(link.sock)
                return Opened(self._now(), link.local, link.remote)
            case Verify(timeout):
                assert self._link is not None
                assert self._loop.verifier is not None
                await self._network.verify(self._link, self._loop.verifier, self._loop.target, timeout)
                return PeerVerified(self._now())
        raise AssertionError(work)

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.abort()

    def _drop_without_waiting(self, stream: _S | None = None) -> None:
        """Drop the connection in a coroutine that is being closed, in which nothing can be awaited."""
        link, self._link = self._link, None
        if link is None:
            return

        async def drop() -> None:
            try:
                if stream is not None:
                    await self._say_goodbye(stream)
            finally:
                await link.abort()

        try:
            self._in_background(drop)
        except RuntimeError:  # the event loop has ended
            self._forget(link)

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

    def _forget(self, link: Link[_S] | None) -> None:
        """Close this process's copy of the descriptor, and nothing else.

        The transport must not hear of it: its event loop's epoll instance is the parent's as well, and would forget
        the parent's descriptor (epoll(7)). So another open file takes the descriptor's place (dup(2)).
        """
        sock = link.sock if link is not None else None
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
    def _current_task(self) -> int | None:
        """Return the identity of the task that runs, None if no event loop does."""

    @abstractmethod
    async def _say_goodbye(self, stream: _S) -> None:
        """Close the connection so that the peer gets everything, within :data:`CLOSING` seconds."""

    def _left_by_close(self, stream: _S, error: BaseException, task: int | None) -> bool:
        """Take note of a block that GeneratorExit ends; True if nothing can be awaited there.

        ``aclose()`` of an asynchronous generator runs in a task, usually in the one that entered the block, and may
        wait. ``close()`` of a coroutine may not: then the connection is closed in a task of its own.
        """
        if task is not None and task == self._current_task():
            return False
        self._loop.block_left(error)
        self._drop_without_waiting(stream)
        return True

    @abstractmethod
    async def _block_left(self, stream: _S, error: BaseException | None) -> bool:
        """Close the connection whose block was left; True if the error means that it was lost."""


def start_in_background(event_loop: Any, work: Callable[[], Coroutine[Any, Any, None]], tasks: set[Any]) -> None:
    """Start an asynchronous function in a task of an asyncio event loop, kept in ``tasks`` until its end.

    Raises:
        RuntimeError: the event loop has ended.
    """
    coroutine = work()
    try:
        task = event_loop.create_task(coroutine)
    except RuntimeError:
        coroutine.close()
        raise
    tasks.add(task)  # the event loop itself keeps no task alive
    task.add_done_callback(tasks.discard)


def _inode_of(sock: socket.socket | None) -> int:
    """Return a number that no other open socket of this host has; 0 for a closed socket."""
    try:
        status = os.fstat(sock.fileno()) if sock is not None else None
    except (OSError, ValueError):
        return 0
    return status.st_ino if status is not None and stat.S_ISSOCK(status.st_mode) else 0


class AsyncConnection(Uncopyable, Generic[_S]):
    """One connection: an asynchronous context manager that gives the stream, and closes it."""

    __slots__ = ("_connections", "_is_entered", "_link", "_stream", "_task")

    def __init__(self, owner: AsyncConnections[_S], link: Link[_S], stream: _S) -> None:
        self._connections = owner
        self._link = link
        self._stream = stream
        self._is_entered = False
        self._task: int | None = None

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"a connection has no {name!r}: use the stream of `async with connection as x:`")

    async def __aenter__(self) -> _S:
        self._is_entered = True
        self._task = self._connections._current_task()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, GeneratorExit) and self._connections._left_by_close(self._stream, error, self._task):
            return False
        return await self._connections._block_left(self._stream, error)

    def __del__(self) -> None:
        # ``async for connection in connections(...): break`` leaves a connection that nobody has.
        if not self._is_entered:
            self._connections._discard(self._link, self._stream)
