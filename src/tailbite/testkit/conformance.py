"""Conformance of a connecting function: it must not connect to itself where a plain socket certainly does.

The namespace's ephemeral range is two ports, one of them the dead port. A plain client is sent first; if that one
does not connect to itself, nothing is proven.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailbite.connect.self_check import is_self_connected
from tailbite.core.ports import PortRange
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.testkit.plain_client import connects_to_itself, family_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Check", "check_connector"]

PORT = 32246  # the port of the story that gave this project its reason
_HOSTS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement that a connector must meet.

    Attributes:
        claim: what must hold.
        holds: True if it does.
        detail: the observation.
    """

    claim: str
    holds: bool
    detail: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.claim} ({self.detail})"


def check_connector(connect: Callable[[str, int], Any], *, attempts: int = 100) -> tuple[Check, ...]:
    """Call ``connect`` where a plain client connects to itself, and check that it does not.

    ::

        def test_my_client():
            tailbite.testing.check_connector(lambda host, port: MyClient(host, port).socket)

    Args:
        connect: connects to host and port and returns a connected socket or an object that holds one (see
            :func:`tailbite.is_self_connected`), or raises OSError. It is called in the calling thread, and must
            connect from there: a namespace belongs to a thread. What it returns is closed here.
        attempts: how often it dials the dead port, for each kind of address.

    Returns:
        the checks, all of which hold.

    Raises:
        AssertionError: a check does not hold; its text is the report.
        RuntimeError: a plain client does not connect to itself here, so there is nothing to compare with.
        NamespaceUnavailable: this system gives this process no network namespace (it takes CAP_SYS_ADMIN, also
            that of :func:`tailbite.kernel.namespace.enter_private_network`).
    """
    checks: list[Check] = []
    for binds_first in (False, True):
        with fresh_network():
            low = PORT - 1 if binds_first else PORT
            write_ephemeral_range(PortRange(low, low + 1))
            for host in _HOSTS:  # before the first check: a connector may leave TIME-WAIT on the port
                if not connects_to_itself(host, PORT, binds_first=binds_first):
                    raise RuntimeError(f"a plain client did not connect to itself on {host}: nothing is proven")
            for host in _HOSTS:
                checks += _checks(connect, host, attempts, "bind first" if binds_first else "connect at once")
    if not all(check.holds for check in checks):
        raise AssertionError("\n".join(map(str, checks)))
    return tuple(checks)


def _checks(connect: Callable[[str, int], Any], host: str, attempts: int, kind: str) -> list[Check]:
    where = f"{host}, ports for clients that {kind}"
    found = opened = 0
    for _ in range(attempts):
        with contextlib.suppress(OSError):
            made = connect(host, PORT)
            opened += 1
            found += is_self_connected(made)
            _close(made)
    return [
        Check(
            "it never connects to itself",
            found == 0 and opened == 0,
            f"{found} self-connects and {opened} connections to nobody in {attempts} attempts; {where}",
        ),
        _leaves_nothing(where),
        _server_can_bind(host, where),
        _finds_the_server(connect, host, where),
    ]


def _leaves_nothing(where: str) -> Check:
    with SockDiag() as diag:
        left = [each for each in diag.dump() if each.endpoints.local.port == PORT]
    return Check("it leaves nothing on the port", not left, f"{len(left)} sockets; {where}")


def _server_can_bind(host: str, where: str) -> Check:
    with socket.socket(family_of(host)) as sock:
        try:
            sock.bind((host, PORT))
        except OSError as error:
            return Check("a server can bind the port", False, f"{error}; {where}")
    return Check("a server can bind the port", True, where)


def _finds_the_server(connect: Callable[[str, int], Any], host: str, where: str) -> Check:
    claim = "it finds the server when there is one"
    family = family_of(host)
    with socket.socket(family) as listener:
        try:
            listener.bind((host, PORT))
            listener.listen()
            made = connect(host, PORT)
        except OSError as error:
            return Check(claim, False, f"{error}; {where}")
        accepted, _ = listener.accept()
        abort(accepted)
        _close(made)
    return Check(claim, True, where)


def _close(made: Any) -> None:
    """Close the connector's result, with RST where that is a socket, so that nothing is left for the next check."""
    if isinstance(made, socket.socket):
        abort(made)
    else:
        made.close()
