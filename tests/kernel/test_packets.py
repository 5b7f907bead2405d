"""Segments as the kernel sends them, and the decoder against bytes that nobody sends."""

from __future__ import annotations

import socket
import struct
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.trap import PORT, Trap
from tailbite.kernel.packets import (
    Capture,
    Packet,
    TcpFlags,
    TcpSegment,
    decode,
    pcap_header,
    pcap_record,
)
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def connect_to_itself(host: str, message: bytes = b"") -> None:
    """One self-connect, a few bytes, an abort."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, PORT))
    sock.connect((host, PORT))
    if message:
        sock.sendall(message)
        assert sock.recv(100) == message
    abort(sock)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_self_connect_is_three_segments_of_one_endpoint_and_each_is_seen_once(host: str) -> None:
    with Capture() as capture:
        connect_to_itself(host, b"hello")
        segments = capture.segments()
        assert capture.lost == 0
    assert all(segment.is_to_itself for segment in segments)
    syn, syn_ack, ack = segments[:3]
    assert [str(segment.flags) for segment in segments[:3]] == ["S", "S.", "."]
    # Both halves of the crossing SYN are the same socket's: one initial sequence number (RFC 9293, figure 7).
    assert syn_ack.sequence == syn.sequence
    assert syn_ack.acknowledgment == ack.acknowledgment == ack.sequence == (syn.sequence + 1) & 0xFFFFFFFF
    assert ack.duplicate_sack == (syn.sequence, ack.sequence)
    assert syn.options.sack_permitted
    assert syn.options.maximum_segment_size
    assert [segment.payload for segment in segments if segment.payload_length] == [b"hello"]
    assert TcpFlags.RST in segments[-1].flags
    assert [segment.timestamp_ns for segment in segments] == sorted(segment.timestamp_ns for segment in segments)


@pytest.mark.usefixtures("network")
def test_a_refused_dial_is_a_syn_and_a_reset() -> None:
    with Capture() as capture:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT))
        syn, reset = capture.segments()
    assert (syn.flags, reset.flags) == (TcpFlags.SYN, TcpFlags.RST | TcpFlags.ACK)
    assert (syn.source, syn.destination) == (reset.destination, reset.source)
    assert not syn.is_to_itself


@pytest.mark.usefixtures("network")
def test_what_is_longer_than_the_snap_length_keeps_its_true_length() -> None:
    with Capture(snap_length=96) as capture:
        connect_to_itself("127.0.0.1", b"x" * 90)
        (data,) = (segment for segment in capture.segments() if segment.payload_length)
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
        some, more = ([replace(found, timestamp_ns=0) for found in one.segments()] for one in (chosen, everything))
        assert len(more) > len(some) >= 4
        assert some == [segment for segment in more if segment.is_to_itself]
        assert chosen.lost == 0


@pytest.mark.usefixtures("network")
def test_reading_waits_for_the_first_packet_only_as_long_as_told() -> None:
    with Capture() as capture:
        assert capture.read(timeout=0.01) == []
        connect_to_itself("127.0.0.1")
        assert capture.read(timeout=10)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_tcpdump_reads_the_pcap_and_sees_the_same(tmp_path: Path, peer: Callable[[str], str]) -> None:
    with Capture() as capture:
        Trap().set()
        connect_to_itself("127.0.0.1", b"hello")
        connect_to_itself("::1")
        packets = capture.read()
    file = tmp_path / "lo.pcap"
    file.write_bytes(pcap_header() + b"".join(map(pcap_record, packets)))
    shown = subprocess.run(
        [peer("tcpdump"), "-nn", "-S", "-tt", "--nano", "-r", file], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    segments = [segment for packet in packets if (segment := packet.segment())]
    assert len(shown) == len(segments)
    for line, segment in zip(shown, segments, strict=True):
        seconds, rest = divmod(segment.timestamp_ns, 10**9)
        assert line.startswith(f"{seconds}.{rest:09} IP")
        assert f" {segment.source.host}.{PORT} > {segment.destination.host}.{PORT}: " in line
        assert f"Flags [{segment.flags}]" in line
        assert f"length {segment.payload_length}" in line


@given(st.binary(max_size=120), st.none() | st.integers(0, 200))
def test_no_bytes_make_the_decoder_fail_otherwise_than_with_value_error(data: bytes, length: int | None) -> None:
    try:
        found = decode(data, length=length)
    except ValueError:
        return
    assert found is None or isinstance(found, TcpSegment)


def ipv4(tcp: bytes, options: bytes = b"") -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45 + len(options) // 4, 0, 20 + len(options) + len(tcp), 0, 0, 64, 6, 0),
        *(b"\x7f\0\0\1", b"\x7f\0\0\1"),
    )
    return header + options + tcp


def ipv6(tcp: bytes, extensions: list[int]) -> bytes:
    body = tcp
    following = 6
    for kind in reversed(extensions):
        # Length 0 means 8 bytes, except for AH (51), where it counts words minus 2.
        body = bytes((following, 0)) + b"\0" * 6 + body
        following = kind
    return (
        struct.pack("!IHBB", 6 << 28, len(body), following, 64) + socket.inet_pton(socket.AF_INET6, "::1") * 2 + body
    )


NUMBERS = st.integers(0, 2**32 - 1)


@given(
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    sequence=NUMBERS,
    acknowledgment=NUMBERS,
    flags=st.integers(0, 255),
    options=st.binary(max_size=40),
    payload=st.binary(max_size=40),
    extensions=st.none() | st.lists(st.sampled_from([0, 43, 44, 51, 60]), max_size=3),
    cut=st.integers(0, 200),
)
def test_what_is_encoded_is_decoded(
    ports: tuple[int, int],
    sequence: int,
    acknowledgment: int,
    flags: int,
    options: bytes,
    payload: bytes,
    extensions: list[int] | None,
    cut: int,
) -> None:
    options += b"\0" * (-len(options) % 4)
    bits = (5 + len(options) // 4) << 12 | flags
    tcp = struct.pack("!HHIIHHHH", *ports, sequence, acknowledgment, bits, 512, 0, 0) + options + payload
    packet = ipv4(tcp) if extensions is None else ipv6(tcp, extensions)
    found = decode(packet, timestamp_ns=7)
    assert found is not None
    assert (found.source.port, found.destination.port) == ports
    assert (found.sequence, found.acknowledgment, found.flags) == (sequence, acknowledgment, flags)
    assert (found.payload, found.payload_length) == (payload, len(payload))
    assert found.is_to_itself == (ports[0] == ports[1])
    short = packet[:cut]
    try:
        again = decode(short, length=len(packet))
    except ValueError:
        return
    assert again is not None
    assert again.payload_length == len(payload)
    assert payload.startswith(again.payload)


def test_another_protocol_and_a_later_fragment_are_no_segment() -> None:
    packet = bytearray(ipv4(b"\0" * 20))
    packet[9] = socket.IPPROTO_UDP
    assert decode(bytes(packet)) is None
    packet[9], packet[7] = socket.IPPROTO_TCP, 1
    assert decode(bytes(packet)) is None
    assert Packet(0, 40, bytes(packet)).segment() is None
