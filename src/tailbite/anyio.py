"""tailbite for anyio, and so for trio: needs the extra ``tailbite[anyio]``."""

from tailbite._extras import needed
from tailbite.reconnect.async_base import AsyncConnection

with needed("tailbite.anyio", extra="anyio"):
    from tailbite.reconnect.anyio import Connections, connections

__all__ = ["AsyncConnection", "Connections", "connections"]
