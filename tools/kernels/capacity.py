"""Connections to three live servers from one small range of source ports: python capacity.py WAY COUNT.

Prints one line of JSON: how many connections there are at once, on how many source ports, and whether another program
can still connect.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import signal
import socket
import sys

import tailbite

PORTS = (40101, 40103, 40105)
"""Inside the range that the caller sets: only such a destination makes tailbite choose a source port."""


def serve(port: int) -> int:
    """Start a server that accepts and keeps every connection; return its process."""
    ready, announce = os.pipe()
    process = os.fork()
    if process == 0:
        with socket.create_server(("127.0.0.1", port), backlog=4096) as server:
            os.write(announce, b"x")
            kept = []
            while True:
                kept.append(server.accept()[0])
    os.read(ready, 1)
    return process


def plain(port: int) -> socket.socket:
    """Connect a plain socket, which guard() guards where it is on."""
    sock = socket.socket()
    try:
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def allow_descriptors(count: int) -> None:
    """Allow so many descriptors; a hard limit that is lower (4 096 by default) can be raised by root."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(most, count)))


def main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    allow_descriptors(count + 100)
    servers = [serve(port) for port in PORTS]
    if way == "guard":
        tailbite.guard()
    connections: list[socket.socket] = []
    errors: collections.Counter[str] = collections.Counter()
    for number in range(count):
        target = PORTS[number % len(PORTS)]
        try:
            if way == "create_connection":
                connections.append(tailbite.create_connection(("127.0.0.1", target), timeout=20))
            else:
                connections.append(plain(target))
        except OSError as error:
            errors[str(error.errno)] += 1
            if sum(errors.values()) > 50:
                break
    other = "import socket,sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()"
    process = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", other, str(PORTS[0])])
    print(
        json.dumps(
            {
                "connected": len(connections),
                "source ports": len({sock.getsockname()[1] for sock in connections}),
                "errors": dict(errors),
                "plain connect afterwards": "ok" if process == 0 else "fails",
            }
        )
    )
    for server in servers:
        os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    main()
