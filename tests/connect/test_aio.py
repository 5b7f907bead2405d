"""The asyncio shell in the trap: never itself, beside a plain client in the same namespace that is."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import subprocess

import pytest

import tailbite
import tailbite.aio
from conftest import find_peer
from support.listeners import wait_for_client
from support.trap import PORT, Trap, server_can_bind
from support.ways import WAYS, certain_trap

MANY = 2_000


def answers_with(loop: asyncio.AbstractEventLoop, *hosts: str) -> None:
    """Have the loop resolve every name to these addresses."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, PORT))
            for host in hosts
        ]

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign,assignment]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("host", "source"), WAYS)
def test_thousands_of_connects_to_the_dead_port_never_reach_themselves(
    means: str, host: str, source: tuple[str, int] | None
) -> None:
    async def dial() -> int:
        found = 0
        for _ in range(MANY):
            with pytest.raises(ConnectionRefusedError) as refused:
                await tailbite.open_connection(host, PORT, local_addr=source)
            assert refused.value.errno == errno.ECONNREFUSED
            found += isinstance(refused.value, tailbite.SelfConnectError)
        return found

    with certain_trap(host, source):
        found = asyncio.run(dial())
        assert found == 0 if means == "steered" else found > MANY / 10


@pytest.mark.usefixtures("network")
def test_plain_asyncio_in_the_same_trap_does_reach_itself() -> None:
    Trap().set()

    async def dial() -> bool:
        for _ in range(4):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", PORT)
            except ConnectionRefusedError:
                continue
            itself = tailbite.is_self_connected(writer)
            writer.transport.abort()
            return itself
        return False

    assert asyncio.run(dial())


@pytest.mark.usefixtures("network")
def test_a_connected_socket_of_the_users_is_looked_at() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", PORT))
    sock.connect(("127.0.0.1", PORT))

    async def hand_over() -> None:
        await tailbite.open_connection(sock=sock)

    with pytest.raises(tailbite.SelfConnectError):
        asyncio.run(hand_over())
    assert server_can_bind()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("delay", [None, 0.05], ids=["in turn", "happy eyeballs"])
def test_names_with_several_addresses(delay: float | None) -> None:
    """::1 refuses, 127.0.0.1 answers: the one that answers is found."""

    async def meet() -> None:
        answers_with(asyncio.get_running_loop(), "::1", "127.0.0.1")
        server = await asyncio.start_server(greet, "127.0.0.1", PORT)
        async with server:
            reader, writer = await tailbite.open_connection("two.example", PORT, happy_eyeballs_delay=delay)
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    asyncio.run(meet())


@pytest.mark.usefixtures("network")
def test_happy_eyeballs_passes_by_an_address_that_does_not_answer() -> None:
    """A black hole first (packets dropped), a server second: the second is asked after the delay, not after it."""
    for command in (
        "link add v0 type veth peer name v1",
        "addr add 10.92.0.1/24 dev v0",
        "link set v0 up",
        "link set v1 up",
        "neigh add 10.92.0.2 lladdr 02:00:00:00:00:02 dev v0",
    ):
        subprocess.run([find_peer("ip"), *command.split()], check=True)

    async def meet() -> float:
        loop = asyncio.get_running_loop()

        async def two_addresses(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, PORT)) for host in ("10.92.0.2", "127.0.0.1")]

        loop.getaddrinfo = two_addresses  # type: ignore[method-assign,assignment]
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", PORT)
        async with server:
            start = loop.time()
            _, writer = await tailbite.open_connection("two.example", PORT, happy_eyeballs_delay=0.05)
            assert writer.get_extra_info("peername")[0] == "127.0.0.1"
            took = loop.time() - start
            writer.close()
            await writer.wait_closed()
            return took

    assert asyncio.run(meet()) < 60  # a SYN that is not answered waits for minutes


@pytest.mark.usefixtures("network")
def test_all_errors_are_an_exception_group_when_asked_for() -> None:
    async def dial(all_errors: bool) -> None:
        answers_with(asyncio.get_running_loop(), "::1", "127.0.0.1")
        await tailbite.open_connection("two.example", PORT, all_errors=all_errors)

    with pytest.raises(ExceptionGroup) as group:
        asyncio.run(dial(True))
    assert len(group.value.exceptions) == 2
    with pytest.raises(OSError, match=r"Multiple exceptions: .*::1.*127\.0\.0\.1"):
        asyncio.run(dial(False))


@pytest.mark.usefixtures("network")
def test_tls_with_the_right_name(tls_sides: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_side, client_side = tls_sides

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    async def meet() -> None:
        server = await asyncio.start_server(greet, "127.0.0.1", PORT, ssl=server_side)
        async with server:
            reader, writer = await tailbite.open_connection("localhost", PORT, ssl=client_side)
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            with pytest.raises(ssl.SSLCertVerificationError):
                await tailbite.open_connection("127.0.0.1", PORT, ssl=client_side, server_hostname="other.example")

    asyncio.run(meet())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "host and port was not specified"),
        ({"host": "a", "port": 1, "sock": socket.socket}, "at the same time"),
        ({"host": "a", "port": 1, "server_hostname": "b"}, "only meaningful with ssl"),
        ({"host": "a", "port": 1, "ssl_handshake_timeout": 1}, "only meaningful with ssl"),
        ({"port": 1, "ssl": True}, "must set server_hostname"),
    ],
)
def test_contradictions_are_told_as_asyncio_tells_them(options: dict[str, object], says: str) -> None:
    async def call(function: object) -> None:
        await function(**options)  # type: ignore[operator]

    with pytest.raises(ValueError, match=says):
        asyncio.run(call(tailbite.open_connection))
    if "sock" not in options:
        with pytest.raises(ValueError, match=says):
            asyncio.run(call(asyncio.open_connection))


@pytest.mark.usefixtures("network")
def test_a_cancelled_connect_leaves_no_socket() -> None:
    """The backlog of a server that never accepts is full: the connect hangs, and is cancelled."""

    async def meet() -> None:
        with (
            socket.create_server(("127.0.0.1", PORT), backlog=0) as server,
            socket.create_connection(("127.0.0.1", PORT)),
        ):
            wait_for_client(server)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await tailbite.open_connection("127.0.0.1", PORT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await tailbite.open_connection("127.0.0.1", PORT, happy_eyeballs_delay=0.01)

    asyncio.run(meet())
