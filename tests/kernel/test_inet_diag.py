"""Requests and messages of sock_diag, made and read without a kernel."""

from __future__ import annotations

import socket
import struct

import pytest

from tailbite.core.address import Endpoint, FourTuple
from tailbite.kernel.inet_diag import (
    CONNECTION_STATES,
    INET_DIAG_REQ_BYTECODE,
    INET_DIAG_SKV6ONLY,
    TcpSocket,
    TcpState,
    decode,
    decode_attribute,
    encode_old_request,
    encode_request,
    self_connect_offsets,
)

LOOPBACK = socket.inet_pton(socket.AF_INET, "127.0.0.1").ljust(16, b"\0")
KIND = 20


def message(
    family: int = socket.AF_INET,
    state: int = TcpState.ESTABLISHED,
    ports: tuple[int, int] = (5432, 5432),
    hosts: tuple[bytes, bytes] = (LOOPBACK, LOOPBACK),
    interface: int = 0,
    attributes: bytes = b"",
) -> bytes:
    """An inet_diag_msg, as in linux/inet_diag.h."""
    return (
        struct.pack("=BBBB", family, state, 0, 0)
        + struct.pack("!HH16s16s", *ports, *hosts)
        + struct.pack("=III", interface, 7, 8)
        + struct.pack("=IIIII", 60_000, 1, 2, 1000, 4711)
        + attributes
    )


def framed(*messages: bytes, kind: int = KIND) -> memoryview:
    return memoryview(b"".join(struct.pack("=IHHII", 16 + len(each), kind, 0, 0, 0) + each for each in messages))


@pytest.mark.parametrize("family", [socket.AF_UNIX, 0, 255])
def test_a_family_without_internet_addresses_is_a_value_error(family: int) -> None:
    with pytest.raises(ValueError, match=f"{family}"):
        decode(bytes([family, TcpState.ESTABLISHED]) + bytes(70))


def test_a_message_that_is_too_short_or_has_an_unknown_state_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="71 bytes are too few"):
        decode(message()[:71])
    with pytest.raises(ValueError, match="99"):
        decode(message(state=99))


def test_each_field_of_a_message_is_read() -> None:
    found = decode(message())
    assert (found.uid, found.inode, found.receive_queue, found.send_queue) == (1000, 4711, 1, 2)
    assert (found.expires_ms, found.cookie, found.interface, found.v6_only) == (60_000, (7, 8), 0, None)
    assert found.is_self_connected
    assert str(found.endpoints.local) == "127.0.0.1:5432"
    assert not decode(message(ports=(5432, 0), state=TcpState.LISTEN)).is_self_connected
    assert not decode(message(ports=(0, 0))).is_self_connected
    assert not decode(message(ports=(1, 2))).is_self_connected
    assert decode(message(state=TcpState.CLOSE)).state is TcpState.BOUND_INACTIVE


@pytest.mark.parametrize(("host", "scope"), [("fe80::1", 3), ("febf::1", 3), ("fec0::1", 0), ("::1", 0)])
def test_a_device_is_the_zone_of_link_local_addresses_only(host: str, scope: int) -> None:
    packed = socket.inet_pton(socket.AF_INET6, host)
    found = decode(message(socket.AF_INET6, hosts=(packed, packed), interface=3))
    assert found.endpoints.local.scope == scope
    assert found.interface == 3
    assert found.v6_only is None


@pytest.mark.parametrize(("value", "is_only"), [(b"\1", True), (b"\0", False)])
def test_an_attribute_is_found_by_its_number(value: bytes, is_only: bool) -> None:
    others = struct.pack("=HH", 5, 99) + b"x\0\0\0"
    data = message(
        socket.AF_INET6,
        TcpState.LISTEN,
        attributes=others + struct.pack("=HH", 5, INET_DIAG_SKV6ONLY) + value + b"\0\0\0",
    )
    assert decode(data).v6_only is is_only
    assert bytes(decode_attribute(data, 99) or b"") == b"x"
    assert decode_attribute(data, 98) is None


def test_the_labels_are_those_of_rfc_9293() -> None:
    assert TcpState.TIME_WAIT.label == "TIME-WAIT"
    assert TcpState.SYN_RECV.label == "SYN-RECEIVED"
    assert TcpState.FIN_WAIT2.label == "FIN-WAIT-2"


def test_a_request_names_family_states_and_attribute() -> None:
    request = encode_request(socket.AF_INET, [TcpState.LISTEN, TcpState.TIME_WAIT], extension=2)
    assert request[:4] == bytes((socket.AF_INET, socket.IPPROTO_TCP, 0b10, 0))
    assert struct.unpack_from("=I", request, 4) == (1 << TcpState.LISTEN | 1 << TcpState.TIME_WAIT,)
    assert request[-8:] == b"\xff" * 8
    assert encode_request(socket.AF_INET)[2] == 0


def test_a_request_for_one_socket_has_its_addresses_its_device_and_its_cookie() -> None:
    ends = FourTuple(Endpoint("127.0.0.1", 1), Endpoint("127.0.0.2", 2))
    target = TcpSocket(socket.AF_INET6, TcpState.ESTABLISHED, ends, 0, 0, 0, 0, 0, (7, 8), interface=4)
    request = encode_request(socket.AF_INET6, CONNECTION_STATES, target=target)
    assert struct.unpack_from("!HH", request, 8) == (1, 2)
    assert request[12:28] == socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
    assert struct.unpack("=III", request[-12:]) == (4, 7, 8)
    zone = FourTuple(Endpoint("fe80::1", 1, 5), Endpoint("fe80::1", 1, 5))
    assert struct.unpack("=III", encode_request(socket.AF_INET6, endpoints=zone)[-12:]) == (5, 2**32 - 1, 2**32 - 1)
    with pytest.raises(ValueError, match="'fe80::1' is not an address of family AF_INET"):
        encode_request(socket.AF_INET, endpoints=zone)


def test_a_program_follows_the_request_as_an_attribute() -> None:
    for plain, with_program in (
        (encode_request(socket.AF_INET), encode_request(socket.AF_INET, program=b"12345678")),
        (encode_old_request([TcpState.LISTEN]), encode_old_request([TcpState.LISTEN], b"12345678")),
    ):
        assert with_program == plain + struct.pack("=HH", 12, INET_DIAG_REQ_BYTECODE) + b"12345678"


def test_self_connects_are_found_among_many_messages() -> None:
    other = socket.inet_pton(socket.AF_INET, "127.0.0.2").ljust(16, b"\0")
    messages = (
        message(),
        message(ports=(1, 2)),
        message(hosts=(LOOPBACK, other)),
        message(ports=(0, 0), state=TcpState.LISTEN),
        message(ports=(9, 9), attributes=b"\5\0\5\0\1"),
    )
    data = framed(*messages)
    assert self_connect_offsets(data, KIND) == ([0, 4 * 88], 4 * 88 + 96)
    end = struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(100)
    assert self_connect_offsets(memoryview(bytes(data[:88]) + end), KIND) == ([0], 88)
    assert self_connect_offsets(memoryview(b""), KIND) == ([], 0)
    for length in (20, 10_000):
        with pytest.raises(ValueError, match=f"claims {length} bytes"):
            self_connect_offsets(memoryview(struct.pack("=I", length) + bytes(data[4:])), KIND)
