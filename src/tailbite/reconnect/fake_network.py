"""A network that follows a script under a virtual clock, for tests of programs with persistent connections.

::

    with FakeNetwork() as network:
        network.script("db", 5432, Refuse(), SelfConnect(), Accept(sends=b"hello\\n"))
        for connection in tailbite.connections(("db", 5432)):
            with connection as sock:
                assert sock.recv(100) == b"hello\\n"
            break
    assert network.now() > 0                    # time has passed, and nobody waited

The sockets the user gets are real ones (socketpair(2)), so everything that can be done with a socket can be done
with them; the script answers. TLS is not simulated: with ``ssl=`` the bytes are in the clear.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

from tailbite.connect.target import Target
from tailbite.core.address import Endpoint
from tailbite.errors import SelfConnectError
from tailbite.reconnect.rehearsal import on_network
from tailbite.verifiers.verification import Accepted, Send, Verification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from tailbite.dial.options import Options
    from tailbite.reconnect.network import AsyncNetwork, Link
    from tailbite.verifiers.verification import Verifier

__all__ = ["Accept", "Act", "FakeNetwork", "Refuse", "SelfConnect", "Silence"]

_S = TypeVar("_S")


@dataclass(frozen=True, slots=True)
class Refuse:
    """The attempt is refused, or fails with another errno.

    Attributes:
        after: virtual seconds until the attempt ends.
        number: the errno; ECONNREFUSED if not given.
    """

    after: float = 0.0
    number: int = errno.ECONNREFUSED


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody answers: the attempt takes all its time and fails."""


@dataclass(frozen=True, slots=True)
class SelfConnect:
    """The socket connects to itself, which is noticed, and it is reset."""


@dataclass(frozen=True, slots=True)
class Accept:
    """A server accepts.

    Attributes:
        sends: the bytes the server sends at once.
        answers: the server's answers to the bytes that a verifier sends; it is silent on anything else.
        then: "hold" keeps the connection open after that, "close" closes it.
        after: seconds until the server accepts.
    """

    sends: bytes = b""
    answers: Mapping[bytes, bytes] = field(default_factory=dict)
    then: Literal["hold", "close"] = "hold"
    after: float = 0.0


Act: TypeAlias = "Refuse | Silence | SelfConnect | Accept"
"""The outcome of one attempt in a script."""


class FakeNetwork:
    """A network for every loop that is made inside its ``with`` block; a target without a script refuses.

    Attributes:
        attempts: the virtual time and the target of every attempt.
        peers: the servers' ends of the connections, in order, for a test that wants to speak or to listen itself.
    """

    def __init__(self) -> None:
        self.attempts: list[tuple[float, str]] = []
        self.peers: list[socket.socket] = []
        self._scripts: dict[Target, deque[Act]] = {}
        self._playing: dict[int, tuple[Accept, socket.socket]] = {}
        self._now = 0.0
        self._stack = contextlib.ExitStack()

    def script(self, host: str, port: int | str | None, *acts: Act) -> None:
        """Append the outcomes of the next attempts to connect to a target.

        Args:
            host: the host the program under test connects to, or the path of a Unix socket.
            port: the port or the name of a service; None for a Unix socket.
            acts: one outcome for each attempt.
        """
        self._scripts.setdefault(Target.of(host, port), deque()).extend(acts)

    def __enter__(self) -> FakeNetwork:
        self._stack.enter_context(on_network(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        for peer in self.peers:
            peer.close()

    def now(self) -> float:
        """Return the virtual time in seconds; it begins at 0."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass.

        Args:
            seconds: how much.
        """
        self._now += seconds

    def open(self, target: Target, options: Options, timeout: float) -> tuple[socket.socket, str, str]:
        """Follow the script for one attempt; called by the loops."""
        self.attempts.append((self._now, str(target)))
        script = self._scripts.get(target)
        act = script.popleft() if script else Refuse()
        match act:
            case Silence():
                self._pass(timeout, timeout, target)
            case SelfConnect():
                here = Endpoint("127.0.0.1", target.port if isinstance(target.port, int) else 1)
                raise SelfConnectError(here, here)
            case Refuse(after, number):
                self._pass(after, timeout, target)
                raise OSError(number, f"{os.strerror(number)}: {target}")
        assert isinstance(act, Accept)
        self._pass(act.after, timeout, target)
        return self._accept(act, target)

    def _pass(self, seconds: float, timeout: float, target: Target) -> None:
        self._now += min(seconds, timeout)
        if seconds >= timeout:
            raise TimeoutError(f"{target} did not answer in time")

    def _accept(self, act: Accept, target: Target) -> tuple[socket.socket, str, str]:
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        theirs.sendall(act.sends)
        if act.then == "close" and not act.answers:
            theirs.shutdown(socket.SHUT_WR)
        self._playing = {ours.fileno(): (act, theirs)}
        return ours, "192.0.2.1:40000", str(target)  # TEST-NET-1, RFC 5737

    def verify(self, sock: socket.socket, verifier: Verifier, target: Target, timeout: float) -> None:
        """Hold a verifier's conversation; called by the loops. The user's bytes stay in the socket."""
        act, theirs = self._playing[sock.fileno()]
        verification = Verification(verifier, target)
        sock.setblocking(False)
        seen = 0
        while not isinstance(wants := verification.wants, Accepted):
            if isinstance(wants, Send):
                theirs.sendall(act.answers.get(wants.data, b""))
                verification.done()
                continue
            news = self._peek(sock)[seen : seen + wants.most]
            if not news and act.then == "hold":
                self._now += timeout
                raise verification.failed(TimeoutError())
            seen += len(news)
            verification.done(news)
        left = verification.consumed
        while left:
            left -= len(sock.recv(left))
        if act.then == "close":
            theirs.shutdown(socket.SHUT_WR)

    def asynchronous(
        self,
        link_of: Callable[[socket.socket, Target], Awaitable[Link[_S]]],
        checkpoint: Callable[[], Awaitable[object]],
    ) -> AsyncNetwork[_S]:
        """Return this network for an asynchronous shell; called by the loops."""
        return _AsyncFace(self, link_of, checkpoint)

    def _peek(self, sock: socket.socket) -> bytes:
        try:
            return sock.recv(1 << 20, socket.MSG_PEEK)
        except BlockingIOError:
            return b""


class _ScriptedLink(Generic[_S]):
    """One of the script's connections in an asynchronous loop, which becomes the shell's own kind when delivered."""

    def __init__(
        self,
        ends: tuple[socket.socket, str, str],
        target: Target,
        link_of: Callable[[socket.socket, Target], Awaitable[Link[_S]]],
    ) -> None:
        self.sock: socket.socket | None
        self.sock, self.local, self.remote = ends
        self._target = target
        self._link_of = link_of
        self._link: Link[_S] | None = None

    async def deliver(self) -> _S:
        assert self.sock is not None
        self._link = await self._link_of(self.sock, self._target)
        return await self._link.deliver()

    async def abort(self) -> None:
        if self._link is not None:
            await self._link.abort()
        elif self.sock is not None:
            self.sock.close()

    def shut_down(self) -> None:
        if self._link is not None:
            self._link.shut_down()


class _AsyncFace(Generic[_S]):
    """A fake network in an asynchronous shell. Nothing here waits: virtual time passes."""

    def __init__(
        self,
        network: FakeNetwork,
        link_of: Callable[[socket.socket, Target], Awaitable[Link[_S]]],
        checkpoint: Callable[[], Awaitable[object]],
    ) -> None:
        self.now = network.now
        self._network = network
        self._link_of = link_of
        self._checkpoint = checkpoint

    async def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)
        await self._checkpoint()

    async def open(self, target: Target, options: Options, timeout: float) -> Link[_S]:
        await self._checkpoint()
        return _ScriptedLink(self._network.open(target, options, timeout), target, self._link_of)

    async def verify(self, link: Link[_S], verifier: Verifier, target: Target, timeout: float) -> None:
        assert link.sock is not None
        self._network.verify(link.sock, verifier, target, timeout)
