"""An inspection does not pay for namespaces without TCP sockets, and walks the table of connections once for others.

The kernel's table of connections is one for all namespaces: 262 144 buckets and more, walked for each request.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.trap import PORT
from support.walks import record_walks
from tailbite.host.explain.checkup import check_host
from tailbite.host.see.namespaces import current_namespace, visible_namespaces
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.host.see.scan import scan
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.see.usage import are_listeners_all, read_usage
from tailbite.kernel.sockstat import TcpUsage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("network")

CHILD = """
import socket, sys
from tailbite.kernel.namespace import fresh_network
with fresh_network():
    held = []
    if sys.argv[1] == "connected":
        server = socket.create_server(("127.0.0.1", 8000))
        held = [server, socket.create_connection(("127.0.0.1", 8000)), server.accept()]
    if sys.argv[1] == "listening":
        held = [socket.create_server(("127.0.0.1", 8000))]
        held += [socket.create_server(("::1", 8000), family=socket.AF_INET6)]
    if sys.argv[1] == "itself":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 8000))
        sock.connect(("127.0.0.1", 8000))
        held = [sock]
    print(flush=True)
    input()
"""


class Elsewhere:
    """Namespaces of children, by what is in them."""

    def __init__(self) -> None:
        self.processes: dict[str, list[subprocess.Popen[str]]] = {}

    def start(self, kind: str) -> None:
        child = subprocess.Popen([sys.executable, "-c", CHILD, kind], stdin=-1, stdout=-1, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "\n"
        self.processes.setdefault(kind, []).append(child)

    def namespaces(self) -> list[Namespace]:
        mine = self.inodes(*self.processes)
        return [one for one in visible_namespaces()[0] if one.inode in mine]

    def inodes(self, *kinds: str) -> set[int]:
        return {
            os.stat(f"/proc/{child.pid}/ns/net").st_ino  # noqa: PTH116
            for kind in kinds
            for child in self.processes[kind]
        }


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    places = Elsewhere()
    with contextlib.ExitStack() as stack:
        for kind in ("empty", "empty", "listening", "connected", "itself"):
            places.start(kind)
            stack.callback(places.processes[kind][-1].communicate, "\n", timeout=60)
        yield places


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The namespace of each request that walks the table of connections."""
    return record_walks(monkeypatch)


def test_scan_walks_once_for_each_namespace_with_connections(elsewhere: Elsewhere, walks: list[int]) -> None:
    found = scan(elsewhere.namespaces())
    assert {one.inode for one in found.namespaces} == elsewhere.inodes("empty", "listening", "connected", "itself")
    assert {one.namespace.inode for one in found.sightings} == elsewhere.inodes("itself")
    assert sorted(walks) == sorted(elsewhere.inodes("connected", "itself"))


def test_the_doctor_walks_once_for_each_namespace_with_connections(elsewhere: Elsewhere, walks: list[int]) -> None:
    seen = check_host(elsewhere.namespaces())
    (sighting,) = seen.scan.sightings
    assert sighting.namespace.inode in elsewhere.inodes("itself")
    assert sighting.traffic is not None
    assert [owner.pid for owner in sighting.owners] == [elsewhere.processes["itself"][0].pid]
    # A port with a self-connect is explained as `why` does, which lists its sockets.
    assert sorted(walks) == sorted([*elsewhere.inodes("connected", "itself"), *elsewhere.inodes("itself")])


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
def test_a_snapshot_lists_listeners_and_bound_sockets_without_a_walk_where_nothing_is_connected(
    walks: list[int],
) -> None:
    with socket.socket() as bound, socket.socket() as listening:
        bound.bind(("127.0.0.1", PORT))
        assert [one.endpoints.local.port for one in take_snapshot(current_namespace()).bound] == [PORT]
        assert walks == []
        listening.bind(("127.0.0.1", PORT + 1))
        listening.listen()
        assert walks == []
        shot = take_snapshot(current_namespace())
        assert [one.endpoints.local.port for one in shot.listeners] == [PORT + 1]
        assert [one.endpoints.local.port for one in shot.bound] == [PORT]
        assert walks == []
        with socket.create_connection(("127.0.0.1", PORT + 1)):
            take_snapshot(current_namespace())
        assert len(walks) == 1  # a connection, and then its TIME-WAIT, have to be looked at
        take_snapshot(current_namespace())
        assert len(walks) == 2


def test_counts_that_changed_or_are_missing_ask_for_a_walk() -> None:
    listeners = TcpUsage(in_use=2, time_wait=0, sockets=9)
    assert are_listeners_all(2, listeners, listeners)
    for other in (None, TcpUsage(3, 0, 9), TcpUsage(2, 1, 9), TcpUsage(1, 0, 9)):
        assert not are_listeners_all(2, listeners, other)
        assert not are_listeners_all(2, other, listeners)


def test_only_an_inspection_can_tell_where_no_process_can_be_asked(elsewhere: Elsewhere) -> None:
    (inode,) = elsewhere.inodes("itself")
    pid = elsewhere.processes["itself"][0].pid
    assert read_usage(Namespace(inode, NamespaceKind.NAMED, "named", "/run/netns/named")) is None
    assert read_usage(Namespace(inode, NamespaceKind.PROCESS, "gone", "", (2**22 + 1,))) is None
    usage = read_usage(Namespace(inode, NamespaceKind.PROCESS, "child", "", (pid,)))
    assert usage is not None
    assert usage.in_use == 1
    # The process lives in another namespace than it did when the namespaces were listed.
    assert read_usage(Namespace(inode + 1, NamespaceKind.PROCESS, "moved", "", (pid,))) is None
