"""Addresses of sock_diag: a family that has none here is refused."""

from __future__ import annotations

import socket

import pytest

from tailbite.kernel.inet_diag import TcpState, decode


@pytest.mark.parametrize("family", [socket.AF_UNIX, 0, 255])
def test_a_family_without_internet_addresses_is_a_value_error(family: int) -> None:
    with pytest.raises(ValueError, match=f"{family}"):
        decode(bytes([family, TcpState.ESTABLISHED]) + bytes(70))
