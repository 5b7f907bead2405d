"""One client of every kind: python client.py WAY HOST SOURCE PORT COUNT. Prints one line of JSON with its counts.

Each connection is reset, so that nothing is left for the next try.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from dataclasses import dataclass

import tailbite

__all__ = ["Client", "connect_often"]


@dataclass(frozen=True, slots=True)
class Client:
    """A client of one kind.

    Attributes:
        way: "plain", "guard", "create_connection", "open_connection", "bind 0" or "bind P"; with ", MPTCP" after it,
            a socket of Multipath TCP (RFC 8684).
        host: the address to connect to.
        source: the source address; empty for none.
        port: the port to connect to.
    """

    way: str
    host: str
    source: str
    port: int

    @property
    def source_address(self) -> tuple[str, int] | None:
        """The source address, for calls that take one."""
        return (self.source, 0) if self.source else None

    async def connect(self) -> socket.socket:
        """Connect once."""
        if self.way == "open_connection":
            return await self._connect_stream()
        if self.way == "create_connection":
            return tailbite.create_connection((self.host, self.port), source_address=self.source_address)
        anywhere = self.source or ("::" if ":" in self.host else "0.0.0.0")
        way = self.way.removesuffix(", MPTCP")
        bound = {"bind 0": (anywhere, 0), "bind P": (anywhere, self.port)}.get(way, self.source_address)
        return self._connect_plainly(bound)

    def _connect_plainly(self, bound: tuple[str, int] | None) -> socket.socket:
        """Connect a plain socket, which guard() guards where it is on."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, 262 if self.way.endswith(", MPTCP") else 0)
        try:
            if bound is not None:
                sock.bind(bound)
            sock.connect((self.host, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    async def _connect_stream(self) -> socket.socket:
        if self.source_address is None:
            _, writer = await tailbite.open_connection(self.host, self.port)
        else:
            _, writer = await tailbite.open_connection(self.host, self.port, local_addr=self.source_address)
        made: socket.socket = writer.get_extra_info("socket")
        return made


async def _connect_often(client: Client, count: int) -> dict[str, int]:
    counts = {"tries": 0, "self": 0, "refused": 0}
    for _ in range(count):
        counts["tries"] += 1
        try:
            sock = await client.connect()
        except ConnectionRefusedError:
            counts["refused"] += 1
            continue
        except OSError as error:
            name = f"errno {error.errno}"
            counts[name] = counts.get(name, 0) + 1
            continue
        counts["self"] += sock.getsockname() == sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return counts


def connect_often(client: Client, count: int) -> dict[str, int]:
    """Connect as often as ``count`` says; return the numbers of tries, of self-connects, and of each error."""
    if client.way == "guard":
        tailbite.guard()
    return asyncio.run(_connect_often(client, count))


if __name__ == "__main__":
    way, host, source, port, count = sys.argv[1:]
    print(json.dumps(connect_often(Client(way, host, source, int(port)), int(count))))
