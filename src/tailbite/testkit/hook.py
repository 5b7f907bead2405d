"""The audit hook of the trap and the watch, which calls listeners before each connect.

An audit hook cannot be removed again (PEP 578), so there is one for the process, added when it is first needed, and
a list of listeners that it calls.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["listen", "unlisten"]

_listeners: list[Callable[[socket.socket, Any], None]] = []
_added = False


def listen(listener: Callable[[socket.socket, Any], None]) -> None:
    """Call ``listener(sock, address)`` before each connect of Python's socket module."""
    global _added
    _listeners.append(listener)
    if not _added:
        _added = True
        sys.addaudithook(_hook)


def unlisten(listener: Callable[[socket.socket, Any], None]) -> None:
    """Stop calling a listener."""
    _listeners.remove(listener)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _listeners:
        for listener in tuple(_listeners):
            listener(*arguments)
