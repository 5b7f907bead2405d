"""Numeric hosts need no resolver, and get what the resolver would say; the order of a name's addresses."""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailbite
from support.trap import PORT
from tailbite.connect import resolve
from tailbite.core.address import Endpoint

hosts = st.one_of(st.ip_addresses().map(str), st.sampled_from(["127.1", "0", "1.2.3", "::ffff:127.0.0.1", "a\0b"]))


@given(host=hosts, port=st.integers(0, 65535), family=st.sampled_from([0, socket.AF_INET, socket.AF_INET6]))
def test_the_short_cut_says_what_the_resolver_says(host: str, port: int, family: int) -> None:
    short = resolve.numeric(host, port, family)
    if short is not None:
        asked = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        assert [info[:4] for info in short] == [info[:4] for info in asked]
        assert [Endpoint.from_sockaddr(info[4]) for info in short] == [Endpoint.from_sockaddr(i[4]) for i in asked]


@pytest.mark.parametrize("address", [("localhost", 80), ("127.0.0.1", "http"), ("127.0.0.1", 70000), (None, 80)])
def test_names_services_and_nonsense_are_the_resolvers(address: tuple[object, object]) -> None:
    assert resolve.numeric(*address) is None


@pytest.mark.usefixtures("network")
def test_whoever_replaces_the_resolver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolver(host: str, port: int, *_: object) -> list[object]:
        asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", PORT))]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with pytest.raises(ConnectionRefusedError):
        tailbite.create_connection(("192.0.2.1", 80))
    assert asked == [("192.0.2.1", 80)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    with pytest.raises(OSError, match="empty list"):
        tailbite.create_connection(("192.0.2.1", 80))


ports = st.one_of(st.integers(-5, 70000), st.sampled_from([None, "", b"", "80", b"80", "http", 80.5]))


@given(host=st.one_of(hosts, st.sampled_from([b"127.0.0.1", None])), port=ports, proto=st.sampled_from([0, 6, 17, 1]))
def test_the_short_cut_of_asyncio_is_asyncios(host: Any, port: Any, proto: int) -> None:
    def outcome(function: Any, *arguments: Any) -> object:
        try:
            return function(*arguments)
        except (TypeError, ValueError) as error:
            return type(error)

    theirs = outcome(base_events._ipaddr_info, host, port, 0, socket.SOCK_STREAM, proto)  # type: ignore[attr-defined]
    ours = outcome(resolve.numeric_for_asyncio, host, port, 0, proto)
    assert ours == ([theirs] if isinstance(theirs, tuple) else theirs)


def test_families_take_turns() -> None:
    def infos(*families: int) -> list[Any]:
        return [(family, number) for number, family in enumerate(families)]

    six, four = socket.AF_INET6, socket.AF_INET
    assert resolve.interleaved([]) == []
    assert [one[1] for one in resolve.interleaved(infos(six, six, six, four, four))] == [0, 3, 1, 4, 2]
    assert [one[1] for one in resolve.interleaved(infos(six, six, six, four, four), 2)] == [0, 1, 3, 2, 4]
