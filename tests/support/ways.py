"""The ways to dial the dead port that the shells are tried on, each in a trap with its control."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.trap import Trap, leftovers, server_can_bind

if TYPE_CHECKING:
    from collections.abc import Iterator

VETH = "10.91.0.1"
"""An own address that is not on lo, see :func:`_add_own_address`."""

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


@contextlib.contextmanager
def certain_trap(means: str, host: str, source: tuple[str, int] | None) -> Iterator[None]:
    """A trap that springs for plain clients of this way, before and after; in it nothing was left on the port.

    bind-and-look is a client that binds first, so it meets the trap for those; a steered one without a source meets
    the other. With a source both bind.
    """
    if host == VETH:
        _add_own_address()
    trap = Trap(binds_first=source is not None or means == "bind-and-look").set()
    bound = None
    if trap.binds_first:
        bound = source[0] if source else "::" if ":" in host else "0.0.0.0"
    trap.control(host, bound)
    yield
    assert leftovers() == []
    assert server_can_bind()
    trap.control(host, bound)


def _add_own_address() -> None:
    ip = find_peer("ip")
    for words in (
        "link add v0 type veth peer name v1",
        f"addr add {VETH}/24 dev v0",
        "link set v0 up",
        "link set v1 up",
    ):
        subprocess.run([ip, *words.split()], check=True)
