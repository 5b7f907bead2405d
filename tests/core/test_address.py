"""The one definition of "to itself"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.address import Endpoint, FourTuple, canonical_host, is_self

if TYPE_CHECKING:
    import ipaddress

hosts = st.ip_addresses().map(str)
ports = st.integers(1, 65535)


@given(host=hosts, port=ports)
def test_an_endpoint_is_itself(host: str, port: int) -> None:
    end = Endpoint(canonical_host(host), port)
    assert is_self(end, end)
    assert FourTuple(end, end).is_self


@given(host=hosts, one=ports, other=ports)
def test_another_port_is_not_itself(host: str, one: int, other: int) -> None:
    end = Endpoint(canonical_host(host), one)
    assert is_self(end, Endpoint(end.host, other)) == (one == other)


@given(host=st.ip_addresses(v=4), port=ports)
def test_a_v4_mapped_address_is_the_ipv4_address(host: ipaddress.IPv4Address, port: int) -> None:
    mapped = Endpoint.from_sockaddr((f"::ffff:{host}", port, 0, 0))
    assert mapped == Endpoint.from_sockaddr((str(host), port))


@given(host=st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_the_same(host: ipaddress.IPv6Address) -> None:
    assert canonical_host(host.exploded) == canonical_host(host.compressed.upper())


@pytest.mark.parametrize(("one", "other", "same"), [(2, 2, True), (2, 3, False), (0, 3, True), (2, 0, True)])
def test_zones_tell_link_local_addresses_apart_unless_one_is_not_given(one: int, other: int, same: bool) -> None:
    assert is_self(Endpoint("fe80::1", 80, one), Endpoint("fe80::1", 80, other)) is same


def test_the_zone_in_the_text_is_no_part_of_the_host() -> None:
    assert Endpoint.from_sockaddr(("fe80::1%lo", 80, 0, 1)) == Endpoint("fe80::1", 80, 1)


@pytest.mark.parametrize("wrong", [("127.0.0.1",), "127.0.0.1:80", ("no address", 80), ("", 80), None])
def test_what_is_no_address_is_a_value_error(wrong: object) -> None:
    with pytest.raises(ValueError):
        Endpoint.from_sockaddr(wrong)


def test_endpoints_are_written_as_users_write_them() -> None:
    assert str(Endpoint("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(Endpoint("::1", 80)) == "[::1]:80"
    assert str(Endpoint("fe80::1", 80, 2)) == "[fe80::1%2]:80"


def test_a_connection_is_written_as_its_two_ends() -> None:
    assert str(FourTuple(Endpoint("127.0.0.1", 80), Endpoint("::1", 81, 2))) == "127.0.0.1:80 -> [::1%2]:81"
