"""tailbite for anyio, and so for trio: needs the extra ``tailbite[anyio]``."""

from tailbite.reconnect.anyio import Connections, connections
from tailbite.reconnect.async_base import AsyncConnection

__all__ = ["AsyncConnection", "Connections", "connections"]
