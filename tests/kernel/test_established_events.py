"""Self-connects are reported when they are established, with the process that dialled, and nothing else is."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.machine_events import machine_events, own_port, without_loss
from tailbite.core.address import Endpoint
from tailbite.kernel.bpf import assemble, read_misses
from tailbite.kernel.established_events import (
    Established,
    EstablishedEvents,
    PidNamespace,
    decode_record,
    established_program,
)
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sockopt import abort
from tailbite.kernel.tracepoint import Field, Format, read_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PORT = own_port(10_000, 4)
"""The machine is not ours alone: others' self-connects are events too, at other ports."""
live = pytest.mark.needs("BPF_TRACEPOINT")


@pytest.fixture
def events(network: None) -> Iterator[EstablishedEvents]:
    with machine_events(), EstablishedEvents() as opened:
        yield opened


def dial_itself(host: str = "127.0.0.1", port: int = PORT) -> None:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, port))
    sock.connect((host, port))
    abort(sock)


def of_this_test(events: EstablishedEvents) -> list[Established]:
    return [event for event in events.read_events() if PORT <= event.endpoint.port < PORT + 4]


def events_of(events: EstablishedEvents, act: Callable[[], object]) -> list[Established]:
    """Return the events of what ``act`` dials."""

    def dial_and_read() -> list[Established]:
        events.read_events()
        act()
        return of_this_test(events)

    return without_loss(lambda: events.read_counts()[1], dial_and_read)


@live
@pytest.mark.parametrize(
    ("host", "family", "seen"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("::ffff:127.0.0.1", socket.AF_INET6, "127.0.0.1"),
    ],
)
def test_one_event_for_each_family(events: EstablishedEvents, host: str, family: int, seen: str) -> None:
    before = time.monotonic_ns()
    (event,) = events_of(events, partial(dial_itself, host))
    assert (event.family, event.endpoint) == (family, Endpoint(seen, PORT))
    assert before <= event.monotonic_ns <= time.monotonic_ns()
    assert event.name


@live
def test_ordinary_connections_and_equal_ports_of_two_addresses_are_no_events(events: EstablishedEvents) -> None:
    def dial_both() -> None:
        with socket.create_server(("127.0.0.2", PORT)), socket.socket() as client:
            client.bind(("127.0.0.1", PORT))  # the same port, another address
            client.connect(("127.0.0.2", PORT))
            abort(client)
        dial_itself(port=PORT + 1)

    assert [event.endpoint.port for event in events_of(events, dial_both)] == [PORT + 1]


@live
def test_other_network_namespaces_are_seen_too(events: EstablishedEvents) -> None:
    with fresh_network():
        found = events_of(events, dial_itself)
    assert [event.endpoint for event in found] == [Endpoint("127.0.0.1", PORT)]


@live
def test_the_process_is_the_one_that_dialled(events: EstablishedEvents) -> None:
    code = "import socket, sys; s = socket.socket(); e = '127.0.0.1', int(sys.argv[1]); s.bind(e); s.connect(e)"

    def dial_from_child() -> tuple[int, list[Established]]:
        with subprocess.Popen([sys.executable, "-c", code, str(PORT)]) as child:
            found = []
            while child.poll() is None:  # the self-connects of the rest of the machine fill the buffers as well
                found += of_this_test(events)
                time.sleep(0.001)
            assert child.returncode == 0
        return child.pid, found + of_this_test(events)

    is_named: list[bool] = []
    while not any(is_named):  # a busy machine may receive the last segment while another process runs
        with fresh_network():
            pid, found = without_loss(lambda: events.read_counts()[1], dial_from_child)
        (event,) = found
        is_named.append(event.pid == pid)
        assert len(is_named) < 20


@live
def test_events_that_no_buffer_had_a_place_for_are_counted(network: None) -> None:
    with machine_events(is_filling=True), EstablishedEvents() as events:
        lost = 0
        for _ in range(5000):  # a buffer has a place for some 800
            dial_itself()
            lost = events.read_counts()[1] - read_misses(events._program)
            if lost:
                break
        read = len(events.read_events())
        assert lost > 0
        assert events.read_counts()[0] - lost >= read
        assert len(events_of(events, dial_itself)) == 1  # there is a place again


@live
def test_what_the_kernel_did_not_show_to_the_program_is_counted_as_lost(
    network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preemptible kernel leaves a program out where another one was interrupted; fdinfo tells how often."""
    with EstablishedEvents() as events:
        _, lost = events.read_counts()
        monkeypatch.setattr("tailbite.kernel.established_events.read_misses", lambda _: 1_000_000)
        assert events.read_counts()[1] - lost >= 900_000


def test_the_misses_of_a_program_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    assert read_misses(-1) == 0
    with (tmp_path / "file").open("wb") as file:
        assert read_misses(file.fileno()) == 0  # as before Linux 5.12: no such line


@live
def test_closing_detaches_twice_over(network: None) -> None:
    events = EstablishedEvents()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    again = EstablishedEvents()
    again.close()
    again.close()
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    events.close()


@live
@pytest.mark.parametrize("pids", [None, PidNamespace(4, 4026531836)])
def test_the_program_is_short(pids: PidNamespace | None) -> None:
    """Most changes of state end at its third instruction."""
    program = established_program(read_format("sock", "inet_sock_set_state"), 3, 4, pids)
    assert len(assemble(program)) // 8 <= 75


@live
def test_addresses_that_are_not_aligned_are_compared_byte_by_byte() -> None:
    """Linux 4.16 to 5.5 have the protocol in one byte, and the addresses at odd offsets."""
    names = {"newstate": (20, 4), "sport": (24, 2), "dport": (26, 2), "family": (28, 2), "protocol": (30, 1)}
    fields = {name: Field(*place) for name, place in names.items()}
    layout = Format(7, {**fields, "saddr_v6": Field(39, 16), "daddr_v6": Field(55, 16)})
    loads = [line for line in established_program(layout, 3, 4) if line.code == 0x71 and line.source == 6]
    assert [line.offset for line in loads if line.offset >= 39] == [
        *(offset for place in range(16) for offset in (39 + place, 55 + place)),
        *range(39, 55),
    ]


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout"):
        established_program(Format(7, {"newstate": Field(20, 4)}), 3, 4)


def test_a_record_of_another_pid_namespace_has_no_process() -> None:
    address = socket.inet_pton(socket.AF_INET6, "::1")
    record = struct.pack("=QIIIIHH4x16s16s", 5, 11, 10, 0, 0, socket.AF_INET6, 80, address, b"client\0rest")
    event = decode_record(record + bytes(4), is_initial=True)
    assert event == Established(5, socket.AF_INET6, Endpoint("::1", 80), 10, "client")
    assert decode_record(record, is_initial=False).pid == 0


@pytest.mark.parametrize("thread", [b"ksoftirqd/1", b"swapper/0"])
def test_a_thread_of_the_kernel_has_not_dialled(thread: bytes) -> None:
    """Loopback that is busy or slow delivers the last segment in such a thread."""
    address = socket.inet_pton(socket.AF_INET6, "::1")
    record = struct.pack("=QIIIIHH4x16s16s", 5, 22, 22, 22, 22, socket.AF_INET6, 80, address, thread)
    for is_initial in (True, False):
        event = decode_record(record, is_initial=is_initial)
        assert (event.pid, event.name) == (0, "")


@pytest.mark.parametrize("record", [b"", bytes(64)])
def test_a_record_that_is_short_or_of_no_family_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError):
        decode_record(record)
