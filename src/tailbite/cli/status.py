"""The exit statuses of every command; ``docs/architecture.md`` lists them for users."""

from __future__ import annotations

from typing import Final

__all__ = ["FINE", "FOUND", "INTERRUPTED", "OUTPUT_CLOSED", "PARTLY_VISIBLE", "UNSUPPORTED", "USAGE"]

FINE: Final = 0
FOUND: Final = 1
"""Something was found, a required verdict was not reached, or the server did not become ready."""
USAGE: Final = 2
PARTLY_VISIBLE: Final = 3
"""Nothing was found, but not everything could be seen."""
UNSUPPORTED: Final = 4
"""The system lacks what the command needs."""
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141
"""The output is no longer read: the status of a program that SIGPIPE ends."""
