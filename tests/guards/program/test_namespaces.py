"""The port ranges of the network namespaces that a guarded program makes, also when they change."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.guarded import PYTHON, guarded, run, wait_until
from support.limits import without
from support.trap import PORT
from tailbite.connect import facts
from tailbite.core.ports import PortRange
from tailbite.guards.program.namespaces import Namespaces
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("network")

# Connects in a namespace whose range does not contain the port, and then in the same namespace with a trap.
CHANGES_ITS_RANGE = f"""
import socket, sys, time
def itself(count):
    found = 0
    for _ in range(count):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1]).ljust(8, bytes(1)))
            found += sock.connect_ex(("127.0.0.1", {PORT})) == 0
    return found
def write(ports):
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write(ports)
write("1024 2000"); before = itself(5)
write("{PORT} {PORT + 1}"); time.sleep(0.05); after = itself(20)
print(before, after)
"""


@pytest.mark.parametrize("limits", [[], ["pidfd_getfd"], ["IP_LOCAL_PORT_RANGE"]], ids=lambda limits: str(*limits))
def test_a_range_that_changes_in_a_namespace_of_the_program_is_noticed(limits: list[str]) -> None:
    inside = f'{find_peer("ip")} link set lo up; exec "$@"'
    there = ["unshare", "-Urn", "sh", "-c", inside, "sh", PYTHON, "-c", CHANGES_ITS_RANGE]
    done = run([*(without(*limits) if limits else ()), *guarded(there, "--require")])
    assert (done.stdout, done.stderr) == ("0 0\n", "")
    before, after = map(int, run(there).stdout.split())
    assert before == 0
    assert after > 0, "the control did not self-connect"


@pytest.fixture(params=[0, 1, 2, 64])
def namespaces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespaces]:
    monkeypatch.setattr(facts, "FRESH_FOR", -1)
    namespaces = Namespaces(request.param)
    yield namespaces
    namespaces._forget_all()


def there_is(ports: PortRange) -> socket.socket:
    """Return a socket in a new namespace with that range."""
    with fresh_network():
        write_ephemeral_range(ports)
        return socket.socket()


def test_with_few_descriptors_the_range_of_each_namespace_is_right(namespaces: Namespaces) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    ranges = [PortRange(low, low + 100) for low in (2000, 3000, 4000)]
    sockets = [there_is(ports) for ports in ranges]
    for _ in range(2):
        for sock, ports in zip(sockets, ranges, strict=True):
            name = namespaces.foreign_name(os.getpid(), sock)
            found = namespaces.foreign_ranges(name, os.getpid(), sock)
            assert found is not None
            assert found.ephemeral == ports
    open_files = len(list(Path("/proc/self/fd").iterdir())) - before - len(sockets)
    assert open_files == min(namespaces._most_files, len(ranges))
    for sock in sockets:
        sock.close()


def test_a_name_that_another_namespace_has_now_is_asked_again(namespaces: Namespaces) -> None:
    """Before Linux 5.14 the name is an inode's number, which the kernel gives again."""
    name, pid = "net:[4026532000]", os.getpid()
    for low in (2000, 3000):
        with there_is(PortRange(low, low + 9)) as sock:
            found = namespaces.foreign_ranges(name, pid, sock)
            assert found is not None
            assert found.ephemeral == PortRange(low, low + 9)
            file = found.file
        if file is not None:
            wait_until(partial(is_gone, file), "the kernel has removed the namespace")


def is_gone(file: int) -> bool:
    try:
        return not read_ephemeral_range(file)
    except FileNotFoundError:
        return True
