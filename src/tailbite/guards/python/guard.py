"""``guard()``: no TCP socket of this Python process can connect to itself, in any library's code.

CPython raises the audit event ``socket.connect`` (PEP 578) right before connect(2), with the socket and the
address. That is the moment to keep the destination port P from becoming the source port, in every library that
uses Python's own sockets. ``steering.py`` does that; this module switches it on and off.

An audit hook cannot be removed, so there is at most one, and switched off it returns at once. Python calls it for
*every* audit event of the process (open, import, exec, ...), so it compares the name first, and most events pay for
nothing else.

An earlier audit hook can forbid further ones (it raises on the event ``sys.addaudithook``), and Python then ignores
the new hook silently. So an audit event of our own shows whether the hook is installed.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailbite.connect import facts
from tailbite.core.address import canonical_host
from tailbite.core.uncopyable import Uncopyable
from tailbite.errors import GuardError
from tailbite.guards.python.steering import note_bind, prepare
from tailbite.kernel.libc import libc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tailbite.core.plan import Means
    from tailbite.core.ports import PortRange

__all__ = ["Guard", "GuardedConnect", "guard", "hook_for_good"]

_lock = threading.Lock()
_is_installed = False
_PROBE = "tailbite.guard"
_holds = 0
_listeners: dict[Callable[[GuardedConnect], object], int] = {}
_reporting = threading.local()


@dataclass(frozen=True, slots=True)
class GuardedConnect:
    """One connect to a port of the ephemeral range, and how it was kept from being to itself.

    Attributes:
        host: the destination as the program gave it: an address or a name.
        port: the destination port.
        means: ``STEER``: the source port comes from ``source_ports``; ``RESET`` (no IP_LOCAL_PORT_RANGE here): the
            socket was compared with its peer at once, and reset if it was connected to itself; ``BIND`` (Windows,
            and MPTCP before Linux 6.8): the socket was bound to another port; ``CHECK``: nothing was done, because
            the program itself bound the socket to the destination's port.
        source_ports: the range of the source port when ``means`` is ``STEER``, else None.
    """

    host: str
    port: int
    means: Means
    source_ports: PortRange | None


class Guard(Uncopyable):
    """A hold on the guard of the process, which is on as long as there is one.

    Made by :func:`guard`, which switches it on. As a context manager it is on at ``with`` and off at the end.

    Attributes:
        is_on: True while this one holds the guard. When it is False another may hold it all the same.
    """

    __slots__ = ("_events", "is_on")

    def __init__(self, events: Callable[[GuardedConnect], object] | None) -> None:
        self._events = events
        self.is_on: bool = False

    def on(self) -> None:
        """Switch on; nothing happens if it is on already.

        Raises:
            GuardError: an audit hook of this process forbids further ones, so that no connect would be guarded.
        """
        # The first connect may find the process without a descriptor for what is loaded at its first use.
        if sys.platform.startswith("linux"):
            with contextlib.suppress(ImportError):  # a sub-interpreter of Python 3.12 has no ctypes
                libc()
        canonical_host("192.0.2.1")
        facts.ask_kernel()
        with _lock:
            if not _is_installed:
                sys.addaudithook(_hook)
                sys.audit(_PROBE)
                if not _is_installed:
                    raise GuardError
        self._hold(True)

    def off(self) -> None:
        """Switch off, unless there is another hold on the guard; nothing happens if it is off already."""
        self._hold(False)

    def _hold(self, wanted: bool) -> None:
        global _holds, _listeners
        with _lock:
            if self.is_on is wanted:
                return
            self.is_on = wanted
            step = 1 if wanted else -1
            _holds += step
            if self._events is not None:
                # A new dict: the hook may be walking through the old one in another thread.
                counts = {**_listeners, self._events: _listeners.get(self._events, 0) + step}
                _listeners = {listener: count for listener, count in counts.items() if count}

    def __enter__(self) -> Guard:
        self.on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.off()


def guard(*, events: Callable[[GuardedConnect], object] | None = None) -> Guard:
    """Keep every TCP socket this Python process connects from connecting to itself; on at once.

    Call it once, early; calling it again changes nothing. It reaches everything that uses Python's sockets:
    blocking, with a timeout, non-blocking, ``connect_ex``, TLS, asyncio, trio, gevent, Twisted, in every thread.
    It does not reach what C code connects with sockets of its own (uvloop, libpq, grpc, librdkafka, libzmq), nor
    child processes: ``tailbite run`` does, and ``tailbite run --in-process`` reaches child Pythons.

    As a context manager it is switched off at the end, for the whole process, not for one thread::

        with tailbite.guard():
            requests.get("http://127.0.0.1:32246/")

    A connect to a port outside the ephemeral range is left alone, and so is a socket that the program itself
    bound to the destination's port. A port range the program gave its socket (IP_LOCAL_PORT_RANGE) is narrowed,
    not replaced. Where the system lacks that option (Linux before 6.3), a connect within this host is started early
    and reset if it is a self-connect. When the range has no other port free, connecting raises :class:`OSError` with
    EADDRNOTAVAIL.

    Args:
        events: called in the connecting thread, before the connect, with one :class:`GuardedConnect` for each
            connect within the range. What it raises is printed to stderr and does not reach the program.

    Returns:
        The object that switches it off again. It stays on if that object is not kept.

    Raises:
        GuardError: an audit hook of this process forbids further ones, so that no connect would be guarded.
        TypeError: ``events`` cannot be called.
    """
    if events is not None and not callable(events):
        raise TypeError(f"events must be a function that takes a GuardedConnect, not {events!r}")
    held = Guard(events)
    held.on()
    return held


def hook_for_good() -> Callable[[str, tuple[Any, ...]], None]:
    """Switch on for the life of the process; return the function that an installed audit hook has to call."""
    global _is_installed
    _is_installed = True
    Guard(None).on()
    return _hook


def _hook(event: str, args: tuple[Any, ...]) -> None:
    global _is_installed
    if event == "socket.connect" and _holds:
        done = prepare(args[0], args[1])
        if done is not None and _listeners:
            _report(GuardedConnect(args[1][0], operator.index(args[1][1]), *done))
    elif event == "socket.bind":
        note_bind(args[0], args[1])
    elif event == _PROBE:
        _is_installed = True


def _report(done: GuardedConnect) -> None:
    if getattr(_reporting, "is_busy", False):
        return  # a listener that connects, to send its report somewhere, is guarded but not reported
    _reporting.is_busy = True
    try:
        for listener in _listeners:
            try:
                listener(done)
            except Exception as error:
                import traceback

                traceback.print_exception(error)
    finally:
        _reporting.is_busy = False
