"""The network as a loop sees it: a clock, a pause, a way to open a connection, and a way to talk with its peer.

Every shell has a real network of its own (in ``sync.py``, ``aio.py`` and ``anyio.py``), and
:mod:`tailbite.reconnect.fake_network` has one that follows a script under a virtual clock. A loop is given one of
them when it is made, and cannot tell them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from tailbite.connect.target import Target
    from tailbite.dial.options import Options
    from tailbite.verifiers.verification import Verifier

__all__ = ["AsyncNetwork", "Link", "Network", "ScriptedNetwork"]

_S = TypeVar("_S")
_StreamT_co = TypeVar("_StreamT_co", covariant=True)


class Network(Protocol):
    """The network of a blocking loop."""

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def open(self, target: Target, options: Options, timeout: float) -> tuple[socket.socket, str, str]:
        """Return a connected socket, and its two ends as text.

        Raises:
            OSError: there is no connection within ``timeout`` seconds.
        """
        ...

    def verify(self, sock: socket.socket, verifier: Verifier, target: Target, timeout: float) -> None:
        """Have the verifier talk with the peer; the bytes that belong to the user stay in the socket.

        Raises:
            VerifyError: the peer is refused.
        """
        ...


class Link(Protocol[_StreamT_co]):
    """One connection of an asynchronous loop, before and after the user gets it as a stream.

    Attributes:
        local: the local end as text.
        remote: the remote end as text.
    """

    local: str
    remote: str

    @property
    def sock(self) -> socket.socket | None:
        """The socket underneath, None after its end."""
        ...

    async def deliver(self) -> _StreamT_co:
        """Return the stream for the user, which begins with the bytes the verifier did not use."""
        ...

    async def abort(self) -> None:
        """Reset the connection."""
        ...

    def shut_down(self) -> None:
        """End the connection without waiting, so that a task that reads from it finds its end."""
        ...


class AsyncNetwork(Protocol[_S]):
    """The network of an asynchronous loop; ``_S`` is what the user gets."""

    def now(self) -> float:
        """Return the event loop's monotonic time in seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    async def open(self, target: Target, options: Options, timeout: float) -> Link[_S]:
        """Return a connection.

        Raises:
            OSError: there is no connection within ``timeout`` seconds.
        """
        ...

    async def verify(self, link: Link[_S], verifier: Verifier, target: Target, timeout: float) -> None:
        """Have the verifier talk with the peer; the bytes that belong to the user stay with the link.

        Raises:
            VerifyError: the peer is refused.
        """
        ...


class ScriptedNetwork(Network, Protocol):
    """A network that stands in for the real one, in every shell (:func:`tailbite.reconnect.rehearsal.on_network`)."""

    def asynchronous(
        self,
        link_of: Callable[[socket.socket, Target], Awaitable[Link[_S]]],
        checkpoint: Callable[[], Awaitable[object]],
    ) -> AsyncNetwork[_S]:
        """Return this network for an asynchronous shell.

        Args:
            link_of: makes the shell's own link of a connected socket.
            checkpoint: lets the event loop's other tasks run.
        """
        ...
