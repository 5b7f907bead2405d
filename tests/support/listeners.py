"""Listeners: one that closes each connection at once in the event loop of the test, and one whose queue is full.

An asyncio server would leave some of its own to the end of the loop, which a test that counts what is left would see.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["accepting", "wait_for_client"]


@contextlib.contextmanager
def accepting(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on ``host`` and ``port``, and close what connects; call it inside a running loop."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        listener.setblocking(False)

        def close_all() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()

        loop.add_reader(listener, close_all)
        try:
            yield listener
        finally:
            loop.remove_reader(listener)


def wait_for_client(listener: socket.socket) -> None:
    """Wait until a connection is in the queue of a listener: the last segment of the handshake may arrive later."""
    assert select.select([listener], [], [], 60)[0], "no connection came"
