"""tailbite for anyio, and so for trio: needs the extra ``tailbite[anyio]``."""

from tailbite.reconnect.anyio import connections

__all__ = ["connections"]
