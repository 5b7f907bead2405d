"""A client to guard, and what it prints."""

from __future__ import annotations

from support.guarded import PYTHON
from support.trap import PORT

__all__ = ["client", "counts"]

# Connects to HOST PORT COUNT times, binding to SOURCE first unless that is -, and prints how often it was itself.
CLIENT = """
import socket, sys
host, port, count, source = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
itself = refused = 0
for number in range(count):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if source != "-":
        sock.bind((source, 0))
    try:
        sock.connect((host, port))
        itself += sock.getsockname() == sock.getpeername()
    except ConnectionRefusedError:
        refused += 1
    except OSError as error:
        print(error)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
    sock.close()
    if number == 0 and count > 1000:
        print("first", flush=True)
print(itself, refused)
"""


def client(host: str = "127.0.0.1", count: int = 200, source: str = "-", port: int = PORT) -> list[str]:
    """Return the command of a client that connects ``count`` times as fast as it can."""
    return [PYTHON, "-c", CLIENT, host, str(port), str(count), source]


def counts(output: str) -> tuple[int, int]:
    """Return how often it was connected to itself, and how often it was refused."""
    itself, refused = output.split()
    return int(itself), int(refused)
