"""tailbite for asyncio: the names of the synchronous library, to be awaited."""

from tailbite.connect.aio import create_connection, open_connection
from tailbite.dial.aio import Stream
from tailbite.readiness.aio import wait
from tailbite.reconnect.aio import Connections, connections
from tailbite.reconnect.async_base import AsyncConnection

__all__ = [
    "AsyncConnection",
    "Connections",
    "Stream",
    "connections",
    "create_connection",
    "open_connection",
    "wait",
]
