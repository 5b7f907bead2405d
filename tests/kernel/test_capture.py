"""Segments as the kernel sends them, each captured once."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from support.abilities import has_ability
from support.guarded import wait_until
from support.trap import PORT
from tailbite.kernel.capture import Capture
from tailbite.kernel.packets import TcpFlags, TcpSegment
from tailbite.kernel.sockopt import abort


def connect_to_itself(host: str, message: bytes = b"") -> None:
    """One self-connect, a few bytes, an abort."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, PORT))
    sock.connect((host, PORT))
    if message:
        sock.sendall(message)
        assert sock.recv(100) == message
    abort(sock)


def segments_until_reset(capture: Capture) -> list[TcpSegment]:
    """Return all segments up to the last one: loopback delivers it later on a busy machine."""
    found: list[TcpSegment] = []

    def is_complete() -> bool:
        found.extend(capture.segments())
        return any(TcpFlags.RST in segment.flags for segment in found)

    wait_until(is_complete, "the reset is captured")
    return found


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_self_connect_is_three_segments_of_one_endpoint_and_each_is_seen_once(host: str) -> None:
    with Capture() as capture:
        connect_to_itself(host, b"hello")
        segments = segments_until_reset(capture)
        assert capture.lost == 0
    assert all(segment.is_to_itself for segment in segments)
    syn, syn_ack, ack = segments[:3]
    assert [str(segment.flags) for segment in segments[:3]] == ["S", "S.", "."]
    # Both halves of the crossing SYN are the same socket's: one initial sequence number (RFC 9293, figure 7).
    assert syn_ack.sequence == syn.sequence
    assert syn_ack.acknowledgment == ack.acknowledgment == ack.sequence == (syn.sequence + 1) & 0xFFFFFFFF
    if has_ability("DUPLICATE_SACK"):
        assert ack.duplicate_sack == (syn.sequence, ack.sequence)
    assert syn.options.sack_permitted
    assert syn.options.maximum_segment_size
    assert [segment.payload for segment in segments if segment.payload_length] == [b"hello"]
    assert TcpFlags.RST in segments[-1].flags
    assert all(segment.timestamp_ns for segment in segments)  # not in order: the kernel switches stamps on late


@pytest.mark.usefixtures("network")
def test_a_refused_dial_is_a_syn_and_a_reset() -> None:
    with Capture() as capture:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT))
        syn, reset = segments_until_reset(capture)
    assert (syn.flags, reset.flags) == (TcpFlags.SYN, TcpFlags.RST | TcpFlags.ACK)
    assert (syn.source, syn.destination) == (reset.destination, reset.source)
    assert not syn.is_to_itself


@pytest.mark.usefixtures("network")
def test_what_is_longer_than_the_snap_length_keeps_its_true_length() -> None:
    with Capture(snap_length=96) as capture:
        connect_to_itself("127.0.0.1", b"x" * 90)
        (data,) = (segment for segment in segments_until_reset(capture) if segment.payload_length)
    assert data.payload_length == 90
    assert data.payload == b"x" * len(data.payload)
    assert 0 < len(data.payload) < 90


@pytest.mark.usefixtures("network")
def test_packets_there_was_no_room_for_are_counted() -> None:
    with Capture() as capture, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        for _ in range(20_000):
            noise.sendto(b"", ("127.0.0.1", 9))
            if capture.lost:
                break
        assert capture.lost > 0
        assert capture.read()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_kernels_filter_takes_all_of_a_self_connect_and_nothing_else(host: str) -> None:
    with Capture(same_ports=True) as chosen, Capture() as everything:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.bind(("127.0.0.1", PORT))
            noise.sendto(b"to itself, but no TCP", ("127.0.0.1", PORT))
        with socket.create_server(("127.0.0.1", PORT + 1)), socket.create_connection(("127.0.0.1", PORT + 1)):
            pass
        connect_to_itself(host, b"hello")
        # Each packet socket takes its own time.
        some, more = (
            [replace(found, timestamp_ns=0) for found in segments_until_reset(one)] for one in (chosen, everything)
        )
        assert len(more) > len(some) >= 4
        assert some == [segment for segment in more if segment.is_to_itself]
        assert chosen.lost == 0


@pytest.mark.usefixtures("network")
def test_reading_waits_for_the_first_packet_only_as_long_as_told() -> None:
    with Capture() as capture:
        assert capture.read(timeout=0.01) == []
        connect_to_itself("127.0.0.1")
        assert capture.read(timeout=60)
