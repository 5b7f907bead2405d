"""The blocking shell of persistent connections."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Unpack

from tailbite.connect.target import Target
from tailbite.core.uncopyable import Uncopyable
from tailbite.dial.ends import ends_of
from tailbite.dial.sync import dial
from tailbite.dial.verify_sync import verify
from tailbite.dial.waiter import Interrupted, Waiter
from tailbite.reconnect import rehearsal
from tailbite.reconnect.arguments import checked_read_timeout
from tailbite.reconnect.driver import UNDER_WAY, Loop
from tailbite.reconnect.machine import State
from tailbite.reconnect.messages import Closed, Input, Open, Opened, PeerVerified, Sleep, Slept, Verify
from tailbite.reconnect.slot import SocketSlot

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from tailbite.dial.options import Options
    from tailbite.reconnect.arguments import Address, LoopSettings
    from tailbite.reconnect.driver import Work
    from tailbite.reconnect.network import Network
    from tailbite.verifiers.verification import Verifier

__all__ = ["Connection", "Connections", "connections"]


def connections(
    address: Address, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]
) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one follows.

    ::

        for connection in tailbite.connections(("db", 32246), timeout=5):
            with connection as sock:
                ...

    When the block ends normally or by a lost connection, the loop reconnects; any other error propagates, ``break``
    and ``return`` end the loop.

    Args:
        address: a pair of host and port (or name of a service), or the path of a Unix socket.
        read_timeout: the timeout of the sockets the user gets, in seconds; None, the default, waits without a limit.
        timeout: seconds for opening one connection: name, socket and TLS together; 10 if not given.
        backoff: the delays between attempts: a :class:`~tailbite.Backoff`, or a function that returns an iterator of
            seconds for one outage. If not given, each is random, below a ceiling that doubles from 0.1 s to 30 s.
        max_attempts: the number of attempts an outage may have; None, the default, sets no limit.
        deadline: seconds an outage may take, counted from the moment a connection is asked for; the last attempt
            begins shortly before the end. None, the default, sets no limit.
        first: a :class:`~tailbite.Policy` with a backoff and limits for the time until the first connection
            succeeds; None, the default, makes it the same as later.
        healthy_after: seconds after which a connection counts as one that works, so that its loss begins a new
            outage with short delays; 5 if not given.
        retry: the errors that are worth another attempt: one exception type or a tuple of them, in addition to the
            default ones, or a function that takes an error and returns True for another attempt.
        verify: a verifier from :mod:`tailbite.verify`, or one of your own, that must accept the peer before the
            connection is delivered; None, the default, accepts every peer.
        hooks: one function, or several, called with every event of :mod:`tailbite.events`.
        ssl: True, or an ``ssl.SSLContext``, for TLS; None, the default, for none.
        server_hostname: the name that the server's certificate must be for; the host if not given.
        source_address: a pair of host and port to bind to first; port 0 leaves the port to the kernel.
        allow_same_port: True accepts a ``source_address`` with the port of the destination, for servers on other
            hosts that want it; a self-connect is then noticed after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way (RFC 8305);
            0.25 if not given.
        keepalive: seconds (2 to 65534) within which a peer that has vanished ends the connection, whether it is idle
            (SO_KEEPALIVE) or data waits for an acknowledgement (TCP_USER_TIMEOUT); None, the default, leaves it to
            the kernel.
        user_timeout: seconds for which data may stay unacknowledged (TCP_USER_TIMEOUT, Linux); if not given, that of
            ``keepalive``, else about 15 minutes. It decides for an idle connection with keepalive, too (tcp(7)).
        nodelay: send small writes at once (TCP_NODELAY); True if not given.
    Raises:
        TypeError, ValueError: arguments that cannot work, at the call.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached, or the backoff ended.
    """
    return Connections(address, read_timeout=read_timeout, **settings)


class Connections(Uncopyable):
    """An iterator of :class:`Connection`, for one thread; :meth:`close` may be called from anywhere.

    A loop that gave up, failed or was interrupted begins a new outage when it is iterated over again.

    The arguments are those of :func:`connections`.
    """

    def __init__(
        self, address: Address, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]
    ) -> None:
        self._waiter = Waiter()
        self._network: Network = rehearsal.network() or RealNetwork(self._waiter)
        self._loop = Loop(Target.of(address), self._network.now, **settings)
        self._read_timeout = checked_read_timeout(read_timeout)
        self._slot = SocketSlot()
        self._busy_in = 0  # the process in which __next__ is under way

    @property
    def state(self) -> State:
        """The state of the loop."""
        return self._loop.state

    @property
    def is_closed(self) -> bool:
        """True after :meth:`close`."""
        return self._waiter.is_interrupted

    def __iter__(self) -> Connections:
        self._renew()
        return self

    def __next__(self) -> Connection:
        """Wait for the next connection.

        Raises:
            StopIteration: the loop was closed.
            GaveUpError: a limit was reached.
            RuntimeError: another call is under way, in another thread, or in this one around a hook.
            BaseException: an error that the classifier calls fatal, unchanged.
        """
        if self._busy_in == os.getpid():
            raise RuntimeError(UNDER_WAY)
        try:
            self._busy_in = os.getpid()
            return self._following()
        finally:
            self._busy_in = 0

    def _following(self) -> Connection:
        if self._loop.state is State.CONNECTED:
            self._block_left(None)  # the one before was not entered, or not left
        try:
            if self._advance():
                sock = self._deliver()
                # After the slot was filled: close() checks the flag and the slot in the other order.
                if not self.is_closed:
                    return Connection(self, sock)
                self._end()
        except BaseException:
            self._end()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the loop at once: also while it waits or connects, and the connection the user has.

        From any thread, from a signal handler, from a hook, and more than once. A ``recv`` that blocks in another
        thread returns, as if the peer had closed. In a forked process this closes the process's copy of the
        descriptor, and leaves the connection to the parent.
        """
        self._waiter.interrupt()
        self._slot.end()

    def _advance(self) -> bool:
        """Work towards the next connection; True if there is one to deliver, False if the loop was closed."""
        with self._waiter.armed():
            steps = self._loop.steps(closed=self.is_closed)
            try:
                work = next(steps)
                while True:
                    work = steps.send(self._carry_out(work))
            except StopIteration as end:
                return bool(end.value)

    def _carry_out(self, work: Work) -> Input | None:
        try:
            match work:
                case Sleep(seconds):
                    self._network.sleep(seconds)
                    return Slept(self._network.now())
                case Open(timeout):
                    return self._open(timeout)
                case Verify(timeout):
                    return self._verify(timeout)
            self._slot.empty()
        except Interrupted:
            return self._closed()
        except Exception as error:
            return self._closed() if self.is_closed else self._loop.failed(error)
        return None

    def _open(self, timeout: float) -> Input:
        sock, local, remote = self._network.open(self._loop.target, self._loop.options, timeout)
        self._slot.fill(sock)
        return self._closed() if self.is_closed else Opened(self._network.now(), local, remote)

    def _verify(self, timeout: float) -> Input:
        assert self._slot.sock is not None
        assert self._loop.verifier is not None
        self._network.verify(self._slot.sock, self._loop.verifier, self._loop.target, timeout)
        return PeerVerified(self._network.now())

    def _closed(self) -> Input:
        self._slot.empty()
        return Closed(self._network.now())

    def _deliver(self) -> socket.socket:
        assert self._slot.sock is not None
        self._slot.sock.settimeout(self._read_timeout)
        return self._slot.sock

    def _end(self) -> None:
        self._slot.empty()
        self._loop.abandon()

    def _block_left(self, error: BaseException | None) -> bool:
        self._slot.empty()
        return self._loop.block_left(error) or (self.is_closed and isinstance(error, OSError))

    def _discard(self, sock: socket.socket) -> None:
        """Close a connection that was not entered, and can no longer be entered."""
        if self._slot.sock is sock:
            self._block_left(None)

    def _renew(self) -> None:
        """Begin again where the loop has given up, unless it was closed."""
        if not self.is_closed:
            self._loop.renew()


class RealNetwork:
    """The network of this host, which a :class:`~tailbite.dial.waiter.Waiter` can interrupt."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter

    def now(self) -> float:
        """Return :func:`time.monotonic`."""
        return monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Interrupted: the loop was closed.
        """
        until = monotonic() + seconds
        while True:
            self._waiter.wait(until)
            if monotonic() >= until:
                return

    def open(self, target: Target, options: Options, timeout: float) -> tuple[socket.socket, str, str]:
        """Connect: see :func:`tailbite.dial.sync.dial`."""
        sock = dial(target, options, timeout, self._waiter)
        try:
            return (sock, *ends_of(sock))
        except BaseException:
            sock.close()
            raise

    def verify(self, sock: socket.socket, verifier: Verifier, target: Target, timeout: float) -> None:
        """Talk with the peer: see :func:`tailbite.dial.verify_sync.verify`."""
        verify(sock, verifier, target, timeout, self._waiter)


class Connection(Uncopyable):
    """One connection: a context manager whose ``with`` gives the socket, and closes it."""

    __slots__ = ("_connections", "_is_entered", "_sock")

    def __init__(self, owner: Connections, sock: socket.socket) -> None:
        self._connections = owner
        self._sock = sock
        self._is_entered = False

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"a connection has no {name!r}: use the socket of `with connection as x:`")

    def __enter__(self) -> socket.socket:
        self._is_entered = True
        return self._sock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._connections._block_left(error)

    def __del__(self) -> None:
        # ``for connection in connections(...): break`` leaves a connection that nobody has.
        if not self._is_entered:
            self._connections._discard(self._sock)
