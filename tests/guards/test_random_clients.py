"""Whatever a client does to its socket before it connects, guarded it does not reach itself; unguarded it does."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from time import sleep
from typing import TYPE_CHECKING

import pytest

import tailbite
from support.abilities import has_ability
from support.trap import PORT
from tailbite.connect import facts
from tailbite.core.ports import PortRange
from tailbite.guards.python import steering
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, abort, pack_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

IPPROTO_MPTCP = 262
IP_BIND_ADDRESS_NO_PORT = 24
TCP_FASTOPEN_CONNECT = 30
HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "localhost"]
CLIENTS = 2500


@pytest.fixture(params=["steered", "early"])
def _means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, network: None) -> Iterator[None]:
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(facts, "FRESH_FOR", 0.001)
    monkeypatch.setattr(steering, "_is_plain", True)
    if request.param == "early":
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    steering._known_ports.clear()
    yield
    steering._known_ports.clear()


def reaches_itself(rng: random.Random, low: int, high: int) -> str | None:
    """Be one client; return what it did if it was connected to itself."""
    host = rng.choice(HOSTS)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    protocol = rng.choice([0, 0, 0, IPPROTO_MPTCP if has_ability("MPTCP") else 0])
    did = [f"range {low - PORT}..{high - PORT}", host, f"protocol {protocol}"]
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)

    def maybe(chance: float, level: int, option: int, value: int) -> None:
        if rng.random() < chance:
            with contextlib.suppress(OSError):  # MPTCP lacks some
                sock.setsockopt(level, option, value)
                did.append(f"option {level}:{option}={value:#x}")

    try:
        maybe(0.2, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        maybe(0.2, socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        maybe(0.2, socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        maybe(0.1, socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        own = sorted((rng.randint(low, high), rng.randint(low, high)))
        if own != [PORT, PORT]:  # that is asking for it
            maybe(0.15, socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(*own))
        source = rng.choice([None, None, "::" if family == socket.AF_INET6 else "0.0.0.0", host])
        if source is not None:
            sock.bind((source, 0))
            did.append(f"bound to {source}")
        sock.settimeout(rng.choice([None, 2.0, 0.0]))
        for _ in range(rng.choice([1, 1, 3])):
            try:
                number = sock.connect_ex((host, PORT))
            except OSError as error:
                assert error.errno == errno.EADDRNOTAVAIL
                continue
            assert number in (
                *(0, errno.ECONNREFUSED, errno.EINPROGRESS, errno.ECONNABORTED, errno.EADDRNOTAVAIL),
                *(errno.EISCONN, errno.ENETUNREACH),
            ), errno.errorcode[number]
            with contextlib.suppress(OSError):
                sock.send(b"x", socket.MSG_DONTWAIT)  # a deferred connect begins now
            with contextlib.suppress(OSError):
                if sock.getpeername()[1] == sock.getsockname()[1] == PORT:
                    return ", ".join(did)
        return None
    finally:
        abort(sock)


def all_that_reach_themselves(seed: int, clients: int) -> list[str]:
    rng = random.Random(seed)
    found = []
    for number in range(clients):
        if number % 100 == 0:
            low = PORT - rng.randint(0, 3)
            high = max(PORT, low + rng.choice([1, 2, 3, 5]))
            write_ephemeral_range(PortRange(low, high))
            sleep(0.005)  # more than FRESH_FOR here
        if (what := reaches_itself(rng, low, high)) is not None:
            found.append(what)
    return found


@pytest.mark.usefixtures("_means")
@pytest.mark.parametrize("seed", range(2))
def test_random_clients(seed: int) -> None:
    assert all_that_reach_themselves(seed, 300), "the control did not self-connect"
    with tailbite.guard():
        assert all_that_reach_themselves(seed, CLIENTS) == []
