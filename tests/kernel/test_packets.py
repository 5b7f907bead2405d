"""The decoder against segments made here, and against arbitrary bytes."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from tailbite.kernel.packets import Packet, TcpSegment, decode


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
