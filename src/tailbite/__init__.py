"""tailbite: connect to your server, never to yourself.

A TCP client that keeps reconnecting to a local port where nobody listens can connect to itself: the kernel chooses
the destination port as source port, and simultaneous open (RFC 9293 section 3.5) does the rest. These functions
make that impossible::

    import tailbite

    sock = tailbite.create_connection(("127.0.0.1", 32246), timeout=5)
    reader, writer = await tailbite.open_connection("127.0.0.1", 32246)
    tailbite.is_self_connected(sock)            # False, always

The public modules are ``tailbite`` and ``tailbite.aio``, ``anyio``, ``audit``, ``errors``, ``events``, ``hooks``,
``testing`` and ``verify``; every other module is internal.

Names are loaded when they are first used, so ``import tailbite`` costs next to nothing, and asyncio is
loaded only by those who use it.
"""

from __future__ import annotations

from tailbite._version import __version__ as __version__

TYPE_CHECKING = False  # type checkers take this name for true; importing typing is half the time of Python's start
if TYPE_CHECKING:
    from tailbite import aio as aio
    from tailbite import anyio as anyio
    from tailbite import audit as audit
    from tailbite import errors as errors
    from tailbite import events as events
    from tailbite import hooks as hooks
    from tailbite import testing as testing
    from tailbite import verify as verify
    from tailbite.connect.aio import open_connection as open_connection
    from tailbite.connect.self_check import is_self_connected as is_self_connected
    from tailbite.connect.sync import create_connection as create_connection
    from tailbite.connect.target import Target as Target
    from tailbite.core.address import Endpoint as Endpoint
    from tailbite.core.backoff import Backoff as Backoff
    from tailbite.core.backoff import Delays as Delays
    from tailbite.core.backoff import Policy as Policy
    from tailbite.core.plan import Means as Means
    from tailbite.core.ports import PortRange as PortRange
    from tailbite.errors import AddressesError as AddressesError
    from tailbite.errors import GaveUpError as GaveUpError
    from tailbite.errors import GuardError as GuardError
    from tailbite.errors import NotReadyError as NotReadyError
    from tailbite.errors import SelfConnectError as SelfConnectError
    from tailbite.errors import SourcePortError as SourcePortError
    from tailbite.errors import TailbiteError as TailbiteError
    from tailbite.errors import VerifyError as VerifyError
    from tailbite.errors import VerifyReason as VerifyReason
    from tailbite.guards.python.guard import Guard as Guard
    from tailbite.guards.python.guard import GuardedConnect as GuardedConnect
    from tailbite.guards.python.guard import guard as guard
    from tailbite.readiness.status import Readiness as Readiness
    from tailbite.readiness.status import TargetStatus as TargetStatus
    from tailbite.readiness.sync import wait as wait
    from tailbite.reconnect.arguments import Address as Address
    from tailbite.reconnect.arguments import Hook as Hook
    from tailbite.reconnect.arguments import LoopSettings as LoopSettings
    from tailbite.reconnect.classify import Retry as Retry
    from tailbite.reconnect.connector import Connector as Connector
    from tailbite.reconnect.machine import State as State
    from tailbite.reconnect.sync import Connection as Connection
    from tailbite.reconnect.sync import Connections as Connections
    from tailbite.reconnect.sync import connections as connections

_HOMES = {
    "Address": "tailbite.reconnect.arguments",
    "AddressesError": "tailbite.errors",
    "Backoff": "tailbite.core.backoff",
    "Connection": "tailbite.reconnect.sync",
    "Connections": "tailbite.reconnect.sync",
    "Connector": "tailbite.reconnect.connector",
    "Delays": "tailbite.core.backoff",
    "Endpoint": "tailbite.core.address",
    "GaveUpError": "tailbite.errors",
    "Guard": "tailbite.guards.python.guard",
    "GuardError": "tailbite.errors",
    "GuardedConnect": "tailbite.guards.python.guard",
    "Hook": "tailbite.reconnect.arguments",
    "LoopSettings": "tailbite.reconnect.arguments",
    "Means": "tailbite.core.plan",
    "NotReadyError": "tailbite.errors",
    "Policy": "tailbite.core.backoff",
    "PortRange": "tailbite.core.ports",
    "Readiness": "tailbite.readiness.status",
    "Retry": "tailbite.reconnect.classify",
    "SelfConnectError": "tailbite.errors",
    "SourcePortError": "tailbite.errors",
    "State": "tailbite.reconnect.machine",
    "TailbiteError": "tailbite.errors",
    "Target": "tailbite.connect.target",
    "TargetStatus": "tailbite.readiness.status",
    "VerifyError": "tailbite.errors",
    "VerifyReason": "tailbite.errors",
    "connections": "tailbite.reconnect.sync",
    "create_connection": "tailbite.connect.sync",
    "guard": "tailbite.guards.python.guard",
    "is_self_connected": "tailbite.connect.self_check",
    "open_connection": "tailbite.connect.aio",
    "wait": "tailbite.readiness.sync",
}
"""The module of every public name. The imports above say the same to type checkers; a test compares the two."""

_MODULES = ("aio", "anyio", "audit", "errors", "events", "hooks", "testing", "verify")

_RENAMED = {"Saw": "TargetStatus", "Sighting": "Readiness"}
"""The names of the first release, which go with the next one."""

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 - the keys are text


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
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *_MODULES})
