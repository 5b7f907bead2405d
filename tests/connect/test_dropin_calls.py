"""Every call gives what the standard library gives: the same connection, or the same exception, errno and text.

75 shapes of arguments with three default timeouts for ``create_connection``, and 47 calls of ``open_connection``.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import re
import socket
import ssl
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from connect.conftest import DEAD, HOST, LIVE

if TYPE_CHECKING:
    from collections.abc import Callable


class Indexed:
    def __index__(self) -> int:
        return LIVE


class Number(int):
    pass


class Port(enum.IntEnum):
    LIVE = LIVE


HOSTS: list[object] = [
    HOST, b"127.0.0.1", None, "", "localhost", "bücher.invalid", "ü" * 70 + ".x", "a" * 64, "127.0.0.1\0",
    " 127.0.0.1", "0x7f.1", "127.1", "0177.0.0.1", "\udc80", ipaddress.ip_address(HOST), 2130706433,
    "0.0.0.0", "::ffff:127.0.0.1",
    "::1", "::", "fe80::1%lo", "fe80::1%nope", "::1%1", "[::1]", "203.0.113.1", "255.255.255.255", "224.0.0.1",
]  # fmt: skip
PORTS: list[object] = [
    str(LIVE), str(LIVE).encode(), Indexed(), Number(LIVE), Port.LIVE, float(LIVE), None, -1, 65536, 0, 2**40,
    "http", "nosuch",
]  # fmt: skip
TIMEOUTS: list[object] = [0, None, -1, "1", float("nan"), float("inf"), 1e30, 1e8, True]
SOURCES: list[object] = [
    ("", 0), ("127.0.0.3", 0), ("203.0.113.1", 0), [HOST, 0], [HOST, 5], (HOST,), HOST, (), (HOST, "0"), (HOST, None),
    ("::1", 0), (HOST, 70000), (HOST, -1), ("localhost", 0), (b"127.0.0.1", 0), (HOST, False),
]  # fmt: skip
SHAPES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *((((host, LIVE),), {}) for host in HOSTS),
    *((((HOST, port),), {}) for port in PORTS),
    *((((HOST, LIVE),), {"timeout": timeout}) for timeout in TIMEOUTS),
    *((((HOST, LIVE),), {"source_address": source}) for source in SOURCES),
    (((HOST, DEAD),), {"source_address": (HOST, LIVE)}),
    (((HOST, LIVE, 0),), {}),
    (((HOST,),), {}),
    (([HOST, LIVE],), {}),
    (((HOST, DEAD),), {}),
    (((HOST, DEAD),), {"all_errors": True}),
    ((("localhost", DEAD),), {"all_errors": True}),
    ((("localhost", DEAD),), {}),
    ((), {"address": (HOST, LIVE)}),
    (((HOST, LIVE),), {"foo": 1}),
]


def described(error: BaseException) -> tuple[object, ...]:
    if isinstance(error, ExceptionGroup):
        return (ExceptionGroup, error.message, [described(one) for one in error.exceptions])
    kind = ConnectionRefusedError if isinstance(error, ConnectionRefusedError) else type(error)
    return (kind, getattr(error, "errno", None), str(error).replace("create_connection()", "()"))


def result_of(function: Callable[..., socket.socket], args: tuple[Any, ...], options: dict[str, Any]) -> object:
    try:
        sock = function(*args, **options)
    except Exception as error:
        return described(error)
    with sock:
        try:
            peer: object = sock.getpeername()
        except OSError as error:  # closed by the server already
            peer = error.errno
        return (type(sock), sock.family, sock.proto, sock.gettimeout(), peer, sock.getsockname()[0])


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("default", [None, 3.5, 0], ids=lambda seconds: f"default timeout {seconds}")
def test_create_connection_is_the_standard_librarys(default: float | None) -> None:
    assert len(SHAPES) == 75
    socket.setdefaulttimeout(default)
    try:
        ours = [result_of(tailbite.create_connection, args, options) for args, options in SHAPES]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the standard library leaves some to the collector
            theirs = [result_of(socket.create_connection, args, options) for args, options in SHAPES]
    finally:
        socket.setdefaulttimeout(None)
    assert [triple for triple in zip(SHAPES, theirs, ours, strict=True) if triple[1] != triple[2]] == []


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def wrapped() -> socket.socket:
    context = ssl.create_default_context()
    return context.wrap_socket(connected(), do_handshake_on_connect=False, server_hostname="a")


def connected() -> socket.socket:
    sock = socket.create_connection((HOST, LIVE))
    sock.setblocking(False)
    return sock


STREAM_HOSTS: list[object] = [HOST, b"127.0.0.1", None, "", "localhost", "127.0.0.1\0", 2130706433, "::1", "127.1"]
STREAM_PORTS: list[object] = [
    str(LIVE), b"40000", Number(LIVE), float(LIVE), None, -1, 65536, 70000, "70000", "", "http", "nosuch",
]  # fmt: skip
STREAM_SOURCES: list[object] = [
    (HOST, 0), ("127.0.0.3", 0), ("203.0.113.1", 0), ("::1", 0), ("x",), (), (HOST, 70000), (HOST, "0"),
    ("localhost", 0), None,
]  # fmt: skip
STREAM_OPTIONS: list[dict[str, Any]] = [
    {"family": socket.AF_INET6}, {"proto": 17}, {"proto": 6}, {"proto": 1}, {"flags": socket.AI_NUMERICHOST},
    {"limit": 5}, {"happy_eyeballs_delay": 0.1}, {"interleave": 2}, {"tls": True}, {"timeout": 3},
    {"server_hostname": "x"}, {"ssl_handshake_timeout": 3}, {"sock": connected},
]  # fmt: skip
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *(((host, LIVE), {}) for host in STREAM_HOSTS),
    *(((HOST, port), {}) for port in STREAM_PORTS),
    *(((HOST, LIVE), {"local_addr": source}) for source in STREAM_SOURCES),
    *(((HOST, LIVE), options) for options in STREAM_OPTIONS),
    ((), {}),
    ((), {"sock": connected}),
    ((HOST, DEAD), {}),
]


def answer_of(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> object:
    sock = None
    if callable(maker := options.get("sock")):
        sock = maker()
        options = {**options, "sock": sock}

    async def call() -> object:
        _, writer = await function(*args, **options)
        info = writer.get_extra_info("peername"), writer.get_extra_info("sockname")[0]
        writer.transport.abort()
        return info

    try:
        return asyncio.run(call())
    except Exception as error:
        kind, number, text = described(error)[:3]
        # asyncio of Python 3.13 writes "[errno N]" a second time, inside the sentence.
        return kind, number, re.sub(r"(?<=: )\[errno \d+\] ", "", str(text).replace("BaseEventLoop.", ""))
    finally:
        if sock is not None:
            sock.close()


@pytest.mark.usefixtures("live")
def test_open_connection_is_asyncios() -> None:
    assert len(CALLS) == 47
    pairs = [
        (args, options, *(answer_of(one.open_connection, args, options) for one in (asyncio, tailbite)))
        for args, options in CALLS
    ]
    assert [pair for pair in pairs if pair[2] != pair[3]] == []


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("family", [1, 99, -1, "x", None], ids=repr)
def test_a_family_that_is_not_of_the_internet_is_refused_as_by_asyncio(family: object) -> None:
    theirs, ours = (answer_of(one.open_connection, (HOST, LIVE), {"family": family}) for one in (asyncio, tailbite))
    assert isinstance(theirs, tuple) and theirs[0] in (socket.gaierror, TypeError)
    assert ours == theirs


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("delay", ["x", [], b"1"], ids=repr)
def test_a_delay_that_is_not_a_number_is_refused_before_anything_is_connected(
    monkeypatch: pytest.MonkeyPatch, delay: object
) -> None:
    async def call() -> None:
        monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
        await tailbite.open_connection(HOST, LIVE, happy_eyeballs_delay=delay)

    with pytest.raises(TypeError, match="not supported between instances"):
        asyncio.run(call())


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("source", [1, object(), 1.5, {"a": 1}], ids=lambda source: type(source).__name__)
def test_a_source_address_of_another_type_is_refused_as_by_the_standard_library(source: object) -> None:
    arguments = ((HOST, LIVE),), {"source_address": source}
    ours = result_of(tailbite.create_connection, *arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the standard library leaves its socket to the collector
        assert ours == result_of(socket.create_connection, *arguments)


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("make", [udp, wrapped, connected], ids=["UDP", "TLS", "unknown keyword"])
@pytest.mark.parametrize("function", [asyncio.open_connection, tailbite.open_connection], ids=["asyncio", "tailbite"])
def test_a_socket_of_the_caller_stays_open_when_an_argument_is_wrong(
    function: Callable[..., Any], make: Callable[[], socket.socket]
) -> None:
    async def call(sock: socket.socket, **more: Any) -> None:
        await function(sock=sock, **more)

    with make() as sock:
        with pytest.raises((TypeError, ValueError)):
            asyncio.run(call(sock, **({"tls": True} if make is connected else {})))
        assert sock.fileno() >= 0


@pytest.mark.usefixtures("live")
def test_an_unknown_keyword_is_an_error_before_anything_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call() -> None:
        monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
        await tailbite.open_connection(HOST, LIVE, tls=True)

    with pytest.raises(TypeError, match="unexpected keyword argument 'tls'"):
        asyncio.run(call())
