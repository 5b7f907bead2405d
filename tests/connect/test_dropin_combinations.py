"""Several unusual arguments at once give what the standard library gives, in the order in which it looks at them.

The shapes are chosen with a fixed seed among values of every type for every argument: 400 calls of the
socket module's function, 200 of asyncio's. What depends on the machine is not among them: names, source ports that
may be in use, answers that take time.
"""

from __future__ import annotations

import asyncio
import collections
import decimal
import fractions
import ipaddress
import pathlib
import random
import socket
import ssl
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
import tailbite.aio
from connect.conftest import DEAD, HOST, LIVE
from connect.test_dropin_calls import Indexed, Number, described, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Address = collections.namedtuple("Address", "host port")  # a user may pass one


class Bad:
    def __index__(self) -> int:
        raise ZeroDivisionError("a bad index")


class Text(str):
    __slots__ = ()


HOSTS: list[Any] = [
    b"127.0.0.1", bytearray(b"127.0.0.1"), memoryview(b"127.0.0.1"), None, "", b"", Text(HOST), "127.1", "0", 1, 1.5,
    True, (), [], {}, object, ipaddress.ip_address(HOST), pathlib.PurePath(HOST), "::1", "::1%lo", "::1%", "%lo",
    "\0", "::ffff:127.0.0.1", "[::1]", "127.0.0.1\0", "\ud800", "a" * 64, "a..b", "0x7f000001", "127.0.0.1%lo",
    "::%1",
]  # fmt: skip
PORTS: list[Any] = [
    str(LIVE), str(LIVE).encode(), bytearray(b"40000"), None, "", b"", -1, "-1", 65536, "65536", 70000, 2**31, 2**64,
    LIVE + 0.0, LIVE + 0.5, float("nan"), Indexed(), Bad(), Number(LIVE), "nosuch", " 40000", "+40000", "4_0000",
    "0x9c40", "\0", (), [], {}, 1j, decimal.Decimal(LIVE), fractions.Fraction(LIVE), object(),
]  # fmt: skip
TIMEOUTS: list[Any] = [
    None, 0, -1, -0.0, 1, "1", b"1", float("nan"), float("inf"), 1e8, 1e10, 1e30, 2**63, 2**70, True, False, (),
    [], 1j, decimal.Decimal(2), fractions.Fraction(5, 2), Bad(), object(),
]  # fmt: skip
SOURCES: list[Any] = [
    (), [], "", 0, False, True, 1, ("", 0), ("", None), (None, 0), (HOST, 0), [HOST, 0], (b"127.0.0.1", 0),
    (bytearray(b"127.0.0.1"), 0), ("127.0.0.3", 0), ("0.0.0.0", 0), ("::", 0), ("::1", 0), ("::1", 0, 0, 0),
    (HOST, 0, 0), (HOST,), HOST, b"x", (HOST, "0"), (HOST, -1), (HOST, 65536), (HOST, 2**64), (HOST, 0.0),
    (HOST, False), (HOST, Bad()), (HOST, Number(0)), ("203.0.113.1", 0), ("\0", 0), ("a" * 70, 0), (1, 0), {HOST: 0},
    {}, Address(HOST, 0), {"host": HOST},
]  # fmt: skip
SWITCHES: list[Any] = [False, True, 0, 1, "", None, "x", []]
OPTIONS: dict[str, list[Any]] = {
    "family": [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99, -1, 2.0, "2", None, True],
    "proto": [0, 6, 17, 1, 255, -1, "6", None, 6.0, True],
    "flags": [0, socket.AI_NUMERICHOST, socket.AI_PASSIVE, "x", None, 1.5, True],
    "interleave": [None, 0, 1, 2, -1, True, "x", 1.5, ()],
    "local_addr": [None, *SOURCES],
    "ssl": [None, False, 0, ""],
    "server_hostname": [None, "", "x", b"x", 5],
    "ssl_handshake_timeout": [None, 0, -1, 2.5, "1"],
}
SOCKETS: dict[str, Callable[[], Any]] = {
    "connected": lambda: socket.create_connection((HOST, LIVE)),
    "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "not connected": socket.socket,
    "Unix": lambda: socket.socketpair()[0],
    "TLS": lambda: ssl.create_default_context().wrap_socket(
        socket.create_connection((HOST, LIVE)), do_handshake_on_connect=False, server_hostname="a"
    ),
    "number": lambda: 5,
    "text": lambda: "x",
    "object": object,
}


def chosen(choice: random.Random, values: list[Any], usual: Any, share: float = 0.3) -> Any:
    return choice.choice(values) if choice.random() < share else usual


def blocking_calls(count: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    choice = random.Random(12)
    for _ in range(count):
        address: Any = (chosen(choice, HOSTS, HOST), chosen(choice, PORTS, choice.choice([LIVE, DEAD])))
        strange = [list(address), (*address, 0), address[:1], Address(*address), "ab", b"ab", None, 5, {1: 2, 3: 4}]
        options = {"timeout": chosen(choice, TIMEOUTS, 2, 0.5)}
        if choice.random() < 0.4:
            options["source_address"] = choice.choice(SOURCES)
        if choice.random() < 0.3:
            options["all_errors"] = choice.choice(SWITCHES)
        yield (chosen(choice, strange, address),), options


@pytest.mark.usefixtures("live")
def test_several_unusual_arguments_of_create_connection() -> None:
    calls = list(blocking_calls(400))
    ours = [result_of(tailbite.create_connection, *call) for call in calls]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the standard library leaves some to the collector
        theirs = [result_of(socket.create_connection, *call) for call in calls]
    assert [each for each in zip(calls, theirs, ours, strict=True) if each[1] != each[2]] == []
    assert 30 < sum(answer[0] is socket.socket for answer in ours if isinstance(answer, tuple)) < 370


def asynchronous_calls(count: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    choice = random.Random(12)
    for _ in range(count):
        arguments: Any = (chosen(choice, HOSTS, HOST), chosen(choice, PORTS, choice.choice([LIVE, DEAD])))
        options = {name: choice.choice(values) for name, values in OPTIONS.items() if choice.random() < 0.2}
        kind = chosen(choice, list(SOCKETS), "", 0.2)
        if kind:
            arguments = choice.choice([(), (), arguments])
        yield chosen(choice, [(), (None, None), (HOST,), (None, LIVE)], arguments, 0.05), options, kind


def outcome_of(
    runner: asyncio.Runner,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: str,
) -> tuple[object, object]:
    """Return the result, and whether a socket of the caller is still open."""
    sock = SOCKETS[kind]() if kind else None
    if kind:
        options = {**options, "sock": sock}

    async def call() -> object:
        async with asyncio.timeout(20):
            transport = await function(*arguments, **options)
        answer = transport.get_extra_info("peername"), transport.get_extra_info("sockname")[:1]
        transport.abort()
        return answer

    try:
        answer = runner.run(call())
    except Exception as error:
        kind_of_error, number, text = described(error)[:3]
        answer = kind_of_error, number, text if isinstance(error, OSError) else ""
    if not isinstance(sock, socket.socket):
        return answer, None
    with sock:
        return answer, sock.fileno() >= 0


async def of_asyncio(*arguments: Any, **options: Any) -> Any:
    return (await asyncio.get_running_loop().create_connection(asyncio.Protocol, *arguments, **options))[0]


async def of_tailbite(*arguments: Any, **options: Any) -> Any:
    return (await tailbite.aio.create_connection(asyncio.Protocol, *arguments, **options))[0]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio leaves some to the collector
@pytest.mark.usefixtures("live")
def test_several_unusual_arguments_of_asyncios_create_connection() -> None:
    with asyncio.Runner() as runner:
        pairs = [
            (call, outcome_of(runner, of_asyncio, *call), outcome_of(runner, of_tailbite, *call))
            for call in asynchronous_calls(200)
        ]
    assert [each for each in pairs if each[1] != each[2]] == []
    assert 10 < sum(isinstance(pair[2][0], tuple) and len(pair[2][0]) == 2 for pair in pairs) < 190


@pytest.mark.usefixtures("live")
def test_a_local_address_of_ipv6_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with asyncio: flow information and scope follow the port (ipv6(7))."""
    bound: list[Any] = []

    class Noting(socket.socket):
        def bind(self, address: Any) -> None:
            bound.append(address)
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Noting)
    for function in (of_asyncio, of_tailbite):
        with pytest.raises(OSError, match="Connect call failed"):
            asyncio.run(function("::1", DEAD, local_addr=("::1", 0, 0, 1)))
    assert bound[0] == bound[1] == ("::1", 0, 0, 1)
