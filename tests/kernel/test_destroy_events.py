"""The filter keeps self-connects alone, and the kernel reports those that end, without privilege."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.bpf import interpret
from support.trap import PORT
from support.users import python_as_nobody
from tailbite.kernel.destroy_events import DESTROY_FILTER, DestroyEvents, decode_event

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint

ADDRESSES = st.sampled_from(["127.0.0.1", "127.0.0.2", "::1", "::2", "2001:db8::1", "::ffff:127.0.0.1"])
PORTS = st.sampled_from([0, 1, 80, 8080, 65535])


@dataclass(frozen=True)
class Step:
    """An instruction, as the interpreter of the tests reads it."""

    code: int
    if_true: int
    if_false: int
    operand: int


def message(local: str, remote: str, ports: tuple[int, int]) -> bytes:
    """Return the netlink message of a destroyed socket."""
    family = socket.AF_INET6 if ":" in local + remote else socket.AF_INET
    packed = (socket.inet_pton(family, host) for host in (local, remote))
    body = struct.pack("=BBBB", family, 7, 0, 0)
    body += struct.pack("!HH16s16s", *ports, *packed) + bytes(12) + bytes(20)
    return struct.pack("=IHHII", 16 + len(body), 20, 0, 0, 0) + body


@given(local=ADDRESSES, remote=ADDRESSES, ports=st.tuples(PORTS, PORTS))
def test_the_filter_keeps_self_connects_alone(local: str, remote: str, ports: tuple[int, int]) -> None:
    if (":" in local) != (":" in remote):
        return
    data = message(local, remote, ports)
    kept = interpret([Step(*line) for line in DESTROY_FILTER], data)  # type: ignore[misc]
    is_self = local == remote and ports[0] == ports[1] != 0
    assert bool(kept) is is_self
    event = decode_event(data[16:], 1.0)
    assert (event is not None) is is_self


def wait_for(events: DestroyEvents, number: int) -> list[Endpoint]:
    poller = select.poll()
    poller.register(events.descriptors[0], select.POLLIN)
    found: list[Endpoint] = []
    while len(found) < number:  # the test's time limit ends a failure
        poller.poll(1000)
        found += [event.endpoint for event in events.read_events()]
    return found


@pytest.mark.usefixtures("network")
def test_the_kernel_reports_each_family_with_its_traffic() -> None:
    with DestroyEvents() as events:
        for host in ("127.0.0.1", "::1", "::ffff:127.0.0.2"):
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
                sock.bind((host, PORT))
                sock.connect((host, PORT))
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
        with socket.create_server(("127.0.0.1", 80)), socket.create_connection(("127.0.0.1", 80)):
            pass
        ends = sorted(map(str, wait_for(events, 3)))
        assert ends == [f"127.0.0.1:{PORT}", f"127.0.0.2:{PORT}", f"[::1]:{PORT}"]
        assert events.lost == 0


CODE = """
import socket
from tailbite.kernel.destroy_events import DestroyEvents
with DestroyEvents() as events:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 8000))
        sock.connect(("127.0.0.1", 8000))
        sock.sendall(b"hello")
        sock.recv(5)
    found = []
    while not found:
        found = events.read_events()
    print(found[0].endpoint, found[0].traffic.bytes_received, found[0].is_here)
"""


@pytest.mark.usefixtures("network")
def test_nobody_hears_of_it_too() -> None:
    done = subprocess.run(python_as_nobody("-c", CODE), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("127.0.0.1:8000 6 True\n", "")  # the FIN counts as one


@pytest.mark.usefixtures("network")
def test_events_that_were_not_read_in_time_are_counted() -> None:
    with DestroyEvents() as events:
        events._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(200):
            with socket.socket() as sock:
                sock.bind(("127.0.0.2", 0))
                sock.connect(sock.getsockname())
                sock.sendall(b"unread: no TIME-WAIT stays")
        while not events.lost:
            events.read_events()
