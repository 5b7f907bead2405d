"""The BPF program matches a segment to itself and nothing else; in an interpreter and in the kernel alike."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.bpf import in_kernel, interpret
from tailbite.guards.host.bpf_match import bytecode, listing, self_connect_filter

PORTS = st.sampled_from([0, 1, 80, 32246, 32247, 65535]) | st.integers(0, 65535)
# Addresses that differ in one bit of one word, so that every comparison matters.
V6 = st.sampled_from([bytes(15) + b"\1"] + [bytes(15 - n) + b"\2" + bytes(n) for n in (0, 4, 8, 12)])
V4 = st.sampled_from([b"\x7f\0\0\1", b"\x7f\0\0\2", b"\x7e\0\0\1", b"\x0a\x5b\0\1"]) | st.binary(
    min_size=4, max_size=4
)


def v4_packet(source: bytes, destination: bytes, ports: tuple[int, int], words: int) -> bytes:
    """An IPv4 header of ``words`` words (options are zeros), and the start of a TCP header."""
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + 20, 0, 0, 64, 6, 0) + source + destination
    return header + bytes(4 * (words - 5)) + struct.pack("!HHIIBBHHH", *ports, 0, 0, 0x50, 2, 0, 0, 0)


def v6_packet(source: bytes, destination: bytes, ports: tuple[int, int], next_header: int) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, 20, next_header, 64) + source + destination
    return header + struct.pack("!HHIIBBHHH", *ports, 0, 0, 0x50, 2, 0, 0, 0)


@given(V4, V4, PORTS, PORTS, st.integers(5, 15), st.booleans(), st.booleans())
@example(b"\x7f\0\0\1", b"\x7f\0\0\1", 32246, 32246, 5, False, False)
@example(b"\x7f\0\0\2", b"\x7f\0\0\1", 32246, 32246, 5, False, False)
def test_ipv4(s: bytes, d: bytes, sport: int, dport: int, words: int, same_host: bool, same_port: bool) -> None:
    d, dport = (s if same_host else d), (sport if same_port else dport)
    packet = v4_packet(s, d, (sport, dport), words)
    expected = s == d and sport == dport
    program = self_connect_filter(4)
    assert (interpret(program, packet) > 0) == expected
    with in_kernel(program) as kernel:
        assert kernel.matches(packet) == expected


@given(V6, V6, PORTS, PORTS, st.sampled_from([6, 6, 6, 0, 17, 60]), st.booleans(), st.booleans())
@example(bytes(15) + b"\1", bytes(15) + b"\1", 32246, 32246, 6, False, False)
def test_ipv6(s: bytes, d: bytes, sport: int, dport: int, header: int, same_host: bool, same_port: bool) -> None:
    d, dport = (s if same_host else d), (sport if same_port else dport)
    packet = v6_packet(s, d, (sport, dport), header)
    expected = s == d and sport == dport and header == 6
    program = self_connect_filter(6)
    assert (interpret(program, packet) > 0) == expected
    with in_kernel(program) as kernel:
        assert kernel.matches(packet) == expected


@given(st.binary(min_size=1, max_size=80), st.sampled_from([4, 6]))
def test_any_bytes_give_the_same_answer_in_the_kernel(packet: bytes, version: int) -> None:
    program = self_connect_filter(4 if version == 4 else 6)
    with in_kernel(program) as kernel:
        assert kernel.matches(packet) == (interpret(program, packet) > 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_truncated_packet_does_not_match(version: int) -> None:
    whole = (
        v4_packet(b"\x7f\0\0\1", b"\x7f\0\0\1", (5, 5), 5)
        if version == 4
        else v6_packet(bytes(16), bytes(16), (5, 5), 6)
    )
    program = self_connect_filter(4 if version == 4 else 6)
    ports_end = len(whole) - 16
    for length in range(len(whole) + 1):
        assert (interpret(program, whole[:length]) > 0) == (length >= ports_end), length


def test_the_text_for_iptables() -> None:
    """The count comes first and is right; xt_bpf takes 64 instructions at most; every jump stays inside."""
    for version in (4, 6):
        program = self_connect_filter(4 if version == 4 else 6)
        count, *steps = bytecode(program).split(",")
        assert int(count) == len(steps) == len(program) <= 64
        for number, step in enumerate(program):
            assert number + 1 + max(step.if_true, step.if_false) < len(program) or step.code == 0x06
        assert len(listing(program).splitlines()) == len(program)
    assert bytecode(self_connect_filter(4)) == (
        "12,177 0 0 0,72 0 0 0,2 0 0 0,72 0 0 2,97 0 0 0,29 0 5 0,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,"
        "6 0 0 65535,6 0 0 0"
    )
    assert listing(self_connect_filter(4)).splitlines()[5] == " 5  A must be X, or else skip 5"
