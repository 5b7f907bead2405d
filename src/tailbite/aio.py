"""tailbite for asyncio: the names of the synchronous library, to be awaited."""

from tailbite.connect.aio import create_connection, open_connection
from tailbite.connect.loop_aio import connections
from tailbite.connect.waiting_aio import wait

__all__ = ["connections", "create_connection", "open_connection", "wait"]
