"""Cost of a guarded connect: tailbite beside the standard library, to a listening server on loopback.

Paired in one run, in a private network namespace. Promised: at most 1.02 with the port outside the ephemeral
range, at most 1.10 inside (the option, and the comparison of the ports afterwards, which makes "never" true whatever
the range does meanwhile). Run: ``python bench/connect.py``
"""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter
from typing import TYPE_CHECKING

from paired import Ratio, compare, no_options, report

import tailbite
from tailbite.kernel.namespace import enter_private_network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OUTSIDE, INSIDE = 5432, 46884
BLOCK = 200
RESET = b"\1\0\0\0\0\0\0\0"


def blocking(connect: Callable[..., socket.socket], server: socket.socket) -> Callable[[], float]:
    """Time connects alone; accepting and closing happen outside the measured time."""
    address = server.getsockname()

    def block() -> float:
        spent = 0.0
        for _ in range(BLOCK):
            start = perf_counter()
            client = connect(address)
            spent += perf_counter() - start
            server.accept()[0].close()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        return spent / BLOCK

    return block


def streaming(
    connect: Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]],
    server: socket.socket,
    runner: asyncio.Runner,
) -> Callable[[], float]:
    """The same for asyncio streams."""
    host, port = server.getsockname()

    async def block() -> float:
        spent = 0.0
        for _ in range(BLOCK):
            start = perf_counter()
            _, writer = await connect(host, port)
            spent += perf_counter() - start
            server.accept()[0].close()
            writer.transport.abort()
            await asyncio.sleep(0)
        return spent / BLOCK

    return lambda: runner.run(block())


def bare(address: tuple[str, int]) -> socket.socket:
    """Connect without asking getaddrinfo(3) and without a plan."""
    sock = socket.socket()
    sock.connect(address)
    return sock


def main() -> None:
    """Measure and print: the promised pairs, then what the resolver and the plan cost by themselves."""
    enter_private_network()
    ratios: list[Ratio] = []
    with asyncio.Runner() as runner:
        for where, port, limit in (("outside", OUTSIDE, 1.02), ("inside", INSIDE, 1.10)):
            with socket.create_server(("127.0.0.1", port)) as server:
                ratios.append(
                    compare(
                        f"create_connection, port {where} the range",
                        blocking(socket.create_connection, server),
                        blocking(tailbite.create_connection, server),
                        limit=limit,
                    )
                )
                ratios.append(
                    compare(
                        f"open_connection, port {where} the range",
                        streaming(asyncio.open_connection, server, runner),
                        streaming(tailbite.open_connection, server, runner),
                        limit=limit,
                    )
                )
    with socket.create_server(("127.0.0.1", INSIDE)) as server:
        plain = blocking(bare, server)
        theirs, ours = (blocking(one.create_connection, server) for one in (socket, tailbite))
        ratios.append(compare("for comparison: socket.create_connection, beside a bare connect", plain, theirs))
        ratios.append(compare("tailbite.create_connection, beside a bare connect", plain, ours))
    report("guarded connect against the standard library", ratios)


if __name__ == "__main__":
    no_options(__doc__)
    main()
