"""The ways to dial the dead port that the shells are tried on, and the control that goes with each."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.trap import Trap

VETH = "10.91.0.1"
"""An own address that is not on lo, see :func:`add_own_address`."""

WAYS = [
    pytest.param("127.0.0.1", None, id="v4"),
    pytest.param("::1", None, id="v6"),
    pytest.param("::ffff:127.0.0.1", None, id="v4-mapped"),
    pytest.param("0.0.0.0", None, id="this-host"),
    pytest.param(VETH, None, id="own-address"),
    pytest.param("127.0.0.1", ("127.0.0.1", 0), id="v4-source"),
    pytest.param("::1", ("::1", 0), id="v6-source"),
    pytest.param(VETH, (VETH, 0), id="own-address-source"),
]


def add_own_address() -> None:
    subprocess.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    subprocess.run(f"ip addr add {VETH}/24 dev v0".split(), check=True)
    for end in ("v0", "v1"):
        subprocess.run(f"ip link set {end} up".split(), check=True)


def source_for_control(trap: Trap, host: str, source: tuple[str, int] | None) -> str | None:
    """Return what the control is to bind to first: in a trap for clients that bind first it must, too."""
    if not trap.binds_first:
        return None
    return source[0] if source else "::" if ":" in host else "0.0.0.0"
