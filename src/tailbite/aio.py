"""tailbite for asyncio: the names of the synchronous library, to be awaited."""

from tailbite.connect.aio import create_connection, open_connection

__all__ = ["create_connection", "open_connection"]
