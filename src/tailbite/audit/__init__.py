"""Flow 3: trap -> client -> observations -> verdict -> report. Would this client connect to itself?

The public names of this package are ``audit``, ``Client``, ``Limits``, ``Verdict`` and ``Word``; see docs/audit.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.audit.records import Client, Limits
    from tailbite.audit.verdict import Verdict, Word
    from tailbite.audit.warden import audit

__all__ = ["Client", "Limits", "Verdict", "Word", "audit"]

_HOMES = {
    "Client": "tailbite.audit.records",
    "Limits": "tailbite.audit.records",
    "Verdict": "tailbite.audit.verdict",
    "Word": "tailbite.audit.verdict",
    "audit": "tailbite.audit.warden",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)
