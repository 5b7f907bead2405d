"""A peer that vanishes without a word (its packets are dropped) is noticed by keepalive, or by what stays unsent."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from conftest import find_peer
from support.shells import ALL, Shell
from support.trap import PORT
from tailbite.kernel.namespace import fresh_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT, SERVER = "10.93.0.1", "10.93.0.2"
MACS = ("02:00:00:00:93:01", "02:00:00:00:93:02")

pytestmark = pytest.mark.usefixtures("network")


def ip(command: str) -> None:
    subprocess.run([find_peer("ip"), *command.split()], check=True)


@contextlib.contextmanager
def far_server() -> Iterator[Callable[[], None]]:
    """A server in another namespace; yields what makes its host vanish: its packets go nowhere, without an error."""
    ready, linked, vanish, vanished, end = (threading.Event() for _ in range(5))
    names: list[int] = []

    def live() -> None:
        with fresh_network():
            names.append(threading.get_native_id())
            ready.set()
            assert linked.wait(60)
            ip(f"addr add {SERVER}/24 dev v1")
            ip(f"link set v1 address {MACS[1]} up")
            ip(f"neigh add {CLIENT} lladdr {MACS[0]} dev v1")
            with socket.create_server((SERVER, PORT)) as listener:
                listener.settimeout(60)
                ready.set()
                sock, _ = listener.accept()
                with sock:
                    vanish.wait(60)
                    ip(f"addr del {SERVER}/24 dev v1")
                    vanished.set()
                    end.wait(60)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert ready.wait(60)
        ready.clear()
        ip(f"link add v0 address {MACS[0]} type veth peer name v1")
        ip(f"link set v1 netns {names[0]}")
        ip(f"addr add {CLIENT}/24 dev v0")
        ip("link set v0 up")
        ip(f"neigh add {SERVER} lladdr {MACS[1]} dev v0")
        linked.set()
        assert ready.wait(60)

        def disappear() -> None:
            vanish.set()
            assert vanished.wait(60)

        yield disappear
    finally:
        vanish.set()
        end.set()
        thread.join(60)


@pytest.mark.parametrize("shell", ALL, ids=lambda shell: shell.name)
@pytest.mark.parametrize(
    ("settings", "speaks"),
    [({"keepalive": 2}, False), ({"keepalive": 2}, True), ({"user_timeout": 1.0}, True)],
    ids=["keepalive, idle", "keepalive, with a request under way", "user timeout"],
)
def test_a_vanished_peer_is_a_lost_connection_in_time(shell: Shell, settings: dict[str, Any], speaks: bool) -> None:
    with far_server() as disappear:

        async def scenario() -> float:
            start = 0.0
            async for connection in shell.connections((SERVER, PORT), timeout=60, **settings):
                if start:
                    raise AssertionError("nobody can be there")
                async with connection as stream:
                    start = time.monotonic()  # before: a keepalive counts from the last packet
                    disappear()
                    if speaks:
                        await stream.send(b"anybody there?")
                    await stream.receive()
                made = time.monotonic()
                return made - start
            return 0.0

        assert 0.9 <= shell.run(scenario) < 60  # two seconds on a quiet machine, a quarter of an hour without


def test_without_them_nothing_is_noticed() -> None:
    """The control: the same, with the kernel's defaults."""
    with far_server() as disappear, socket.create_connection((SERVER, PORT), timeout=4) as sock:
        disappear()
        sock.sendall(b"anybody there?")
        with pytest.raises(TimeoutError) as only_our_own:
            sock.recv(1)
        assert only_our_own.value.errno is None  # Python's timeout; the kernel's has ETIMEDOUT
