"""tailbite: connect to your server, never to yourself.

A TCP client that keeps reconnecting to a local port where nobody listens can connect to itself: the kernel
draws the destination port as source port, and simultaneous open (RFC 9293 section 3.5) does the rest. These
functions make that impossible::

    import tailbite

    sock = tailbite.create_connection(("127.0.0.1", 32246), timeout=5)
    reader, writer = await tailbite.open_connection("127.0.0.1", 32246)
    tailbite.is_self_connected(sock)            # False, always

Names are loaded when they are first used, so ``import tailbite`` costs next to nothing, and asyncio is
loaded only by those who use it.
"""

from __future__ import annotations

from tailbite._version import __version__

TYPE_CHECKING = False  # type checkers take this name for true; importing typing is half the time of Python's start
if TYPE_CHECKING:
    from tailbite import aio as aio
    from tailbite import events as events
    from tailbite import hooks as hooks
    from tailbite import testing as testing
    from tailbite import verify as verify
    from tailbite.connect.aio import open_connection
    from tailbite.connect.self_check import is_self_connected
    from tailbite.connect.sync import create_connection
    from tailbite.core.address import Endpoint
    from tailbite.core.backoff import Backoff, Policy
    from tailbite.errors import (
        AddressesError,
        GaveUpError,
        NotReadyError,
        SelfConnectError,
        SourcePortError,
        TailbiteError,
        VerifyError,
    )
    from tailbite.guards.python.guard import GuardedConnect, guard
    from tailbite.readiness.status import Readiness, TargetStatus
    from tailbite.readiness.sync import wait
    from tailbite.reconnect.connector import Connector
    from tailbite.reconnect.sync import connections

__all__ = [
    "AddressesError",
    "Backoff",
    "Connector",
    "Endpoint",
    "GaveUpError",
    "GuardedConnect",
    "NotReadyError",
    "Policy",
    "Readiness",
    "SelfConnectError",
    "SourcePortError",
    "TailbiteError",
    "TargetStatus",
    "VerifyError",
    "__version__",
    "connections",
    "create_connection",
    "guard",
    "is_self_connected",
    "open_connection",
    "wait",
]

_HOMES = {
    "AddressesError": "tailbite.errors",
    "Backoff": "tailbite.core.backoff",
    "Connector": "tailbite.reconnect.connector",
    "Endpoint": "tailbite.core.address",
    "GaveUpError": "tailbite.errors",
    "GuardedConnect": "tailbite.guards.python.guard",
    "NotReadyError": "tailbite.errors",
    "Policy": "tailbite.core.backoff",
    "TargetStatus": "tailbite.readiness.status",
    "SelfConnectError": "tailbite.errors",
    "Readiness": "tailbite.readiness.status",
    "SourcePortError": "tailbite.errors",
    "TailbiteError": "tailbite.errors",
    "VerifyError": "tailbite.errors",
    "connections": "tailbite.reconnect.sync",
    "create_connection": "tailbite.connect.sync",
    "guard": "tailbite.guards.python.guard",
    "is_self_connected": "tailbite.connect.self_check",
    "open_connection": "tailbite.connect.aio",
    "wait": "tailbite.readiness.sync",
}

_RENAMED = {"Saw": "TargetStatus", "Sighting": "Readiness"}
"""The names of the first release, which go with the next one."""

_MODULES = ("aio", "anyio", "events", "hooks", "testing", "verify")


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        warnings.warn(f"tailbite.{name} is now called tailbite.{new}", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"tailbite.{name}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
