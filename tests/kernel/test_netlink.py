"""Netlink framing: what the kernel sends is read, what it could never send is refused, nothing crashes."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.errors import NetlinkError
from tailbite.kernel.netlink import Netlink, attributes, encode, messages

payloads = st.binary(max_size=200)


@given(many=st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535), payloads), max_size=5))
def test_what_is_encoded_is_read_back(many: list[tuple[int, int, bytes]]) -> None:
    data = b""
    for kind, flags, payload in many:
        data += encode(kind, flags, payload)
        data += bytes(-len(data) % 4)
    assert [(m.type, m.flags, bytes(m.payload)) for m in messages(data)] == many


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_messages_or_a_value_error(data: bytes) -> None:
    for split in (messages, lambda data: attributes(memoryview(data))):
        try:
            found = list(split(data))
        except ValueError:
            continue
        assert len(found) <= len(data) // 4 + 1


@given(many=st.lists(st.tuples(st.integers(0, 65535), payloads), max_size=5))
def test_attributes_are_read_back(many: list[tuple[int, bytes]]) -> None:
    data = b""
    for kind, payload in many:
        data += struct.pack("=HH", 4 + len(payload), kind) + payload
        data += bytes(-len(data) % 4)
    assert [(kind, bytes(payload)) for kind, payload in attributes(memoryview(data))] == many


def test_a_refusal_is_an_os_error_with_the_request_in_words() -> None:
    with Netlink(4) as netlink, pytest.raises(NetlinkError, match="asking for nothing") as refused:
        netlink.call(9999, b"", "asking for nothing")
    assert refused.value.errno == errno.EINVAL
    assert isinstance(refused.value, OSError)


def test_no_such_family_is_an_os_error() -> None:
    with pytest.raises(OSError, match="netlink family 31 does not answer here"):
        Netlink(31)


def test_the_socket_is_closed_at_the_end() -> None:
    with Netlink(4) as netlink:
        descriptor = netlink._socket.fileno()
        assert os.fstat(descriptor)
    assert netlink._socket.fileno() == -1
    with pytest.raises(OSError):
        socket.socket(fileno=descriptor).getsockname()
