"""The three shells behind one face, so that a claim about persistent connections is tested in each of them.

A scenario is an ``async`` function over a :class:`Shell`. In the blocking shell nothing it awaits ever suspends, so
it is run by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import pytest

import tailbite
import tailbite.aio
import tailbite.anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["ALL", "ASYNCHRONOUS", "Blocking", "Shell", "Stream", "name_of"]


class Stream(Protocol):
    """The calls of a scenario on a connection."""

    raw: Any

    async def send(self, data: bytes) -> None: ...
    async def receive(self, most: int = 65536) -> bytes: ...


class _Each:
    """The result of ``following``, entered by ``enter``; not a generator, because trio complains about its end."""

    def __init__(
        self,
        following: Callable[[], Awaitable[Any]],
        enter: Callable[[Any], Any],
    ) -> None:
        self._following = following
        self._enter = enter

    def __aiter__(self) -> _Each:
        return self

    async def __anext__(self) -> Any:
        return self._enter(await self._following())


class Shell:
    """One of the shells."""

    name = ""

    def make(self, target: Any, **settings: Any) -> Any:
        """Return the shell's own Connections."""
        host, port = target if isinstance(target, tuple) else (target, None)
        return self._make(host, port, **settings)

    def _make(self, host: Any, port: Any, **settings: Any) -> Any:
        raise NotImplementedError

    def loop(self, made: Any) -> _Each:
        """Return its connections."""
        raise NotImplementedError

    def connections(self, target: Any, **settings: Any) -> _Each:
        return self.loop(self.make(target, **settings))

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        raise NotImplementedError


class Blocking(Shell):
    name = "sync"

    class Stream:
        def __init__(self, sock: Any) -> None:
            self.raw = sock

        async def send(self, data: bytes) -> None:
            self.raw.sendall(data)

        async def receive(self, most: int = 65536) -> bytes:
            return bytes(self.raw.recv(most))

    def _make(self, host: Any, port: Any, **settings: Any) -> Any:
        return tailbite.connections(host if port is None else (host, port), **settings)

    def loop(self, made: Any) -> _Each:
        async def following() -> Any:
            try:
                return next(made)
            except StopIteration:
                raise StopAsyncIteration from None

        return _Each(following, self._enter)

    @contextlib.asynccontextmanager
    async def _enter(self, connection: Any) -> AsyncIterator[Stream]:
        with connection as sock:
            yield self.Stream(sock)

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        coroutine: Any = scenario()
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("the blocking shell suspended")


class Asyncio(Shell):
    name = "asyncio"
    makes_loop: Any = None  # asyncio's own

    class Stream:
        def __init__(self, stream: Any) -> None:
            self.raw = stream

        async def send(self, data: bytes) -> None:
            self.raw.writer.write(data)
            await self.raw.writer.drain()

        async def receive(self, most: int = 65536) -> bytes:
            return bytes(await self.raw.reader.read(most))

    def _make(self, host: Any, port: Any, **settings: Any) -> Any:
        return tailbite.aio.connections(host, port, **settings)

    def loop(self, made: Any) -> _Each:
        return _Each(made.__anext__, self._enter)

    @contextlib.asynccontextmanager
    async def _enter(self, connection: Any) -> AsyncIterator[Stream]:
        async with connection as stream:
            yield self.Stream(stream)

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        with asyncio.Runner(loop_factory=self.makes_loop) as runner:
            return runner.run(scenario())  # type: ignore[arg-type]


class Uvloop(Asyncio):
    name = "uvloop"

    def _make(self, host: Any, port: Any, **settings: Any) -> Any:
        self.makes_loop = pytest.importorskip("uvloop").new_event_loop  # before a test has started anything
        return super()._make(host, port, **settings)


class Anyio(Asyncio):
    class Stream:
        def __init__(self, stream: Any) -> None:
            self.raw = stream

        async def send(self, data: bytes) -> None:
            await self.raw.send(data)

        async def receive(self, most: int = 65536) -> bytes:
            try:
                return bytes(await self.raw.receive(most))
            except anyio.EndOfStream:
                return b""

    def __init__(self, backend: str) -> None:
        self.backend = "asyncio" if backend == "uvloop" else backend
        self.options = {"use_uvloop": True} if backend == "uvloop" else {}
        self.name = f"anyio on {backend}"

    def _make(self, host: Any, port: Any, **settings: Any) -> Any:
        if self.options:
            pytest.importorskip("uvloop")  # before a test has started anything
        return tailbite.anyio.connections(host, port, **settings)

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        return anyio.run(scenario, backend=self.backend, backend_options=self.options)


ALL: tuple[Shell, ...] = (Blocking(), Asyncio(), Anyio("asyncio"), Anyio("trio"))
ASYNCHRONOUS: tuple[Shell, ...] = (*ALL[1:], Uvloop(), Anyio("uvloop"))
"""The asynchronous shells on every event loop."""


def name_of(shell: Shell) -> str:
    """For pytest's ids."""
    return shell.name
