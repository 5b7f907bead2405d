"""One client of every kind: python client.py WAY HOST SOURCE PORT COUNT. Prints one line of JSON with its counts.

Each connection is reset, so that nothing is left for the next try.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys

import tailbite

way, host, source, port, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
source_address = (source, 0) if source else None
family = socket.AF_INET6 if ":" in host else socket.AF_INET
counts = {"tries": 0, "self": 0, "refused": 0}


def connect_plainly(bound: tuple[str, int] | None) -> socket.socket:
    """Connect a plain socket, which guard() guards where it is on."""
    sock = socket.socket(family)
    try:
        if bound is not None:
            sock.bind(bound)
        sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    return sock


async def connect_stream() -> socket.socket:
    """Connect with open_connection()."""
    if source_address is None:
        _, writer = await tailbite.open_connection(host, port)
    else:
        _, writer = await tailbite.open_connection(host, port, local_addr=source_address)
    made: socket.socket = writer.get_extra_info("socket")
    return made


async def connect() -> socket.socket:
    """Connect once, in the way of the command line."""
    anywhere = source or ("::" if family == socket.AF_INET6 else "0.0.0.0")
    if way == "open_connection":
        return await connect_stream()
    if way == "create_connection":
        return tailbite.create_connection((host, port), source_address=source_address)
    bound = {"bind 0": (anywhere, 0), "bind P": (anywhere, port)}.get(way, source_address)
    return connect_plainly(bound)


async def main() -> None:
    """Connect as often as the command line says."""
    if way == "guard":
        tailbite.guard()
    for _ in range(count):
        counts["tries"] += 1
        try:
            sock = await connect()
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
    print(json.dumps(counts))


asyncio.run(main())
