"""tailbite for asyncio: the names of the synchronous library, to be awaited."""

from tailbite.connect.aio import create_connection, open_connection
from tailbite.readiness.aio import wait
from tailbite.reconnect.aio import connections

__all__ = ["connections", "create_connection", "open_connection", "wait"]
