"""tailbite for anyio, and so for trio: needs the extra ``tailbite[anyio]``."""

from tailbite.connect.loop_anyio import connections

__all__ = ["connections"]
