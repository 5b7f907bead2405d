"""The decoder against segments made here, and against arbitrary bytes."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.kernel.packets import Packet, TcpOptions, TcpSegment, decode


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


def tcp(flags: int = 0x10, options: bytes = b"", payload: bytes = b"", acknowledgment: int = 200) -> bytes:
    """A segment from port 1 to port 2; the options are padded to words."""
    options += b"\0" * (-len(options) % 4)
    words = (20 + len(options)) // 4
    return struct.pack("!HHIIHHHH", 1, 2, 100, acknowledgment, words << 12 | flags, 512, 0, 0) + options + payload


def segment(data: bytes) -> TcpSegment:
    found = decode(data)
    assert found is not None
    return found


def test_a_segment_is_spelled_as_tcpdump_does() -> None:
    assert str(segment(ipv4(tcp(0x12)))) == "127.0.0.1:1 > 127.0.0.1:2 [S.] seq 100 ack 200 length 0"
    assert str(segment(ipv4(tcp(0x0B, payload=b"abc")))) == "127.0.0.1:1 > 127.0.0.1:2 [FSP] seq 100 length 3"
    assert str(segment(ipv4(tcp(0x04)))) == "127.0.0.1:1 > 127.0.0.1:2 [R] seq 100 length 0"
    assert not segment(ipv4(tcp())).is_to_itself


def sack(*edges: int) -> bytes:
    return bytes((5, 2 + 4 * len(edges))) + struct.pack(f"!{len(edges)}I", *edges)


@pytest.mark.parametrize(
    ("edges", "block"),
    [
        ((), None),
        ((150, 180), (150, 180)),  # below the acknowledgment: came once more
        ((300, 400), None),
        ((300, 350, 250, 400), (300, 350)),  # inside the second block
        ((300, 350, 320, 400), None),
        ((300, 450, 250, 400), None),
    ],
)
def test_a_duplicate_sack_is_a_block_of_known_data(edges: tuple[int, ...], block: tuple[int, int] | None) -> None:
    assert segment(ipv4(tcp(options=sack(*edges) if edges else b""))).duplicate_sack == block


def test_the_options_that_break_off_or_have_a_wrong_length_are_ignored() -> None:
    known = b"\1\2\4\5\xb4\3\3\7\4\2\x08\x0a\0\0\0\1\0\0\0\2"
    options = segment(ipv4(tcp(options=known))).options
    assert options == TcpOptions(1460, 7, True, (), (1, 2))
    for wrong in (b"\2\3\5", b"\3\4\5\5", b"\4\3\5", b"\5\6\0\0\0\0", b"\5\2", b"\x08\4\0\0", b"\x1e\4\0\0"):
        assert segment(ipv4(tcp(options=wrong))).options == TcpOptions()
    for broken in (b"\2\1\1\1", b"\2\x20\1\1", b"\1\1\1\2", b"\0\2\4\5"):
        assert segment(ipv4(tcp(options=broken))).options == TcpOptions()


def test_headers_that_are_cut_short_or_contradict_themselves_are_value_errors() -> None:
    whole = ipv4(tcp(payload=b"x"))
    no_space = tcp()[:12] + b"\x40" + tcp()[13:]
    for wrong, words in {
        b"": "version 0",
        b"\x55" + bytes(40): "version 5",
        whole[:10]: "IPv4 header is cut short",
        b"\x44" + whole[1:]: "16 bytes",
        whole[:2] + b"\0\x05" + whole[4:]: "length of 5",
        whole[:2] + b"\xff\xff" + whole[4:]: "length of 65535",
        ipv4(tcp()[:10]): "TCP header is cut short",
        ipv4(no_space): "TCP header of 16 bytes",
        ipv4(tcp()[:12] + b"\xf0" + tcp()[13:]): "TCP header of 60 bytes",
        ipv6(tcp(), [])[:30]: "IPv6 header is cut short",
        ipv6(tcp(), [])[:4] + b"\xff\xff" + ipv6(tcp(), [])[6:]: "payload of 65535",
        ipv6(b"", [0])[:44]: "do(es)? not fit",
    }.items():
        with pytest.raises(ValueError, match=words):
            decode(wrong)
    with pytest.raises(ValueError, match="extension header is cut short"):
        decode(ipv6(b"", [0])[:44], length=48)


def test_other_protocols_and_later_fragments_are_not_segments() -> None:
    whole = ipv4(tcp())
    assert decode(whole[:9] + b"\x11" + whole[10:]) is None
    assert decode(whole[:6] + b"\0\1" + whole[8:]) is None
    assert decode(ipv6(tcp(), [])[:6] + b"\x11" + ipv6(tcp(), [])[7:]) is None
    first, later = ipv6(tcp(), [44]), bytearray(ipv6(tcp(), [44]))
    later[42:44] = b"\0\x08"
    assert decode(first) is not None
    assert decode(bytes(later)) is None
    assert decode(ipv6(tcp(), [51, 0, 43, 60])) is not None
    jumbo = bytearray(whole)
    jumbo[2:4] = b"\0\0"
    assert decode(bytes(jumbo)) == segment(whole)
    assert Packet(7, len(whole), whole).segment() == decode(whole, timestamp_ns=7)
