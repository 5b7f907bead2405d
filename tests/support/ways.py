"""Ways to connect to the dead port, on which the shells are tried, each in a trap with its control."""

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
def certain_trap(host: str, source: tuple[str, int] | None) -> Iterator[None]:
    """A trap for plain clients of this way, proven before and after; in between nothing is left on the port.

    tailbite leaves the port to connect(2) when it binds to a source address, and so does the control.
    """
    if host == VETH:
        _add_own_address()
    trap = Trap().set()
    bound = source[0] if source else None
    trap.control(host, bound, leaves_port=True)
    yield
    assert leftovers() == []
    assert server_can_bind()
    trap.control(host, bound, leaves_port=True)


def _add_own_address() -> None:
    ip = find_peer("ip")
    for words in (
        "link add v0 type veth peer name v1",
        f"addr add {VETH}/24 dev v0",
        "link set v0 up",
        "link set v1 up",
    ):
        subprocess.run([ip, *words.split()], check=True)
