"""Flow 3: trap -> client -> observations -> verdict -> report. Would this client connect to itself?

The public names of this package are ``audit``, ``Client``, ``Limits``, ``Verdict``, ``Word`` and the types of their
fields; see docs/audit.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.audit.client import Client, Driver, Image, Stdin
    from tailbite.audit.records import (
        Allocator,
        BindAttempt,
        Claim,
        ConnectionToItself,
        Ending,
        Limits,
        Observation,
        Output,
        Phase,
        Recovery,
        StateSpan,
    )
    from tailbite.audit.run import Evidence
    from tailbite.audit.verdict import Belief, Figure, Remains, Timing, Verdict, Word
    from tailbite.audit.warden import audit
    from tailbite.kernel.packets import Packet, TcpFlags, TcpOptions, TcpSegment

__all__ = [
    "Allocator",
    "Belief",
    "BindAttempt",
    "Claim",
    "Client",
    "ConnectionToItself",
    "Driver",
    "Ending",
    "Evidence",
    "Figure",
    "Image",
    "Limits",
    "Observation",
    "Output",
    "Packet",
    "Phase",
    "Recovery",
    "Remains",
    "StateSpan",
    "Stdin",
    "TcpFlags",
    "TcpOptions",
    "TcpSegment",
    "Timing",
    "Verdict",
    "Word",
    "audit",
]

_HOMES = {
    "Allocator": "tailbite.audit.records",
    "Belief": "tailbite.audit.verdict",
    "BindAttempt": "tailbite.audit.records",
    "Claim": "tailbite.audit.records",
    "Client": "tailbite.audit.client",
    "ConnectionToItself": "tailbite.audit.records",
    "Driver": "tailbite.audit.client",
    "Ending": "tailbite.audit.records",
    "Evidence": "tailbite.audit.run",
    "Figure": "tailbite.audit.verdict",
    "Image": "tailbite.audit.client",
    "Limits": "tailbite.audit.records",
    "Observation": "tailbite.audit.records",
    "Output": "tailbite.audit.records",
    "Packet": "tailbite.kernel.packets",
    "Phase": "tailbite.audit.records",
    "Recovery": "tailbite.audit.records",
    "Remains": "tailbite.audit.verdict",
    "StateSpan": "tailbite.audit.records",
    "Stdin": "tailbite.audit.client",
    "TcpFlags": "tailbite.kernel.packets",
    "TcpOptions": "tailbite.kernel.packets",
    "TcpSegment": "tailbite.kernel.packets",
    "Timing": "tailbite.audit.verdict",
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
