"""Clients written to be audited: ``python clients.py KIND HOST PORT``. Each behaves in one way, well or badly."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)
IP_LOCAL_PORT_RANGE = 51


def dial(host: str, port: int, *, source: str | None = None, tries: int | None = None) -> socket.socket:
    """Dial until it answers, or until so many tries have failed."""
    while tries is None or tries > 0:
        tries = None if tries is None else tries - 1
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((host, port))
        except OSError:  # refused, or no source port is free because another process of this client has it
            sock.close()
            time.sleep(0.02)
        else:
            return sock
    sys.exit(2)


def abort(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def immune(host: str, port: int) -> None:
    """Keeps its source port away from the destination's."""
    low, high = map(int, open("/proc/sys/net/ipv4/ip_local_port_range").read().split())  # noqa: SIM115, PTH123
    below, above = (low, port - 1), (port + 1, high)
    side = below if below[0] <= below[1] else above
    for _ in range(20):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        value = struct.pack("=I", side[0] | side[1] << 16)
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, value)
        with contextlib.suppress(ConnectionRefusedError), sock:
            sock.connect((host, port))
        time.sleep(0.02)


def aborting(host: str, port: int) -> None:
    for _ in range(5):
        abort(dial(host, port, tries=20))
    sys.exit(1)


def flapping(host: str, port: int) -> None:
    """Aborts at once and dials again, forever."""
    while True:
        abort(dial(host, port))


def lingering(host: str, port: int) -> None:
    """Resets it after two seconds, and does not dial again."""
    sock = dial(host, port)
    time.sleep(2)
    abort(sock)
    time.sleep(600)


def lingering_fin(host: str, port: int) -> None:
    """Closes it after two seconds, and does not dial again."""
    sock = dial(host, port)
    time.sleep(2)
    sock.close()
    time.sleep(600)


def blocking(host: str, port: int) -> None:
    dial(host, port, tries=20).close()
    sys.exit(1)


def holding(host: str, port: int) -> None:
    sock = dial(host, port)
    sock.sendall(b"are you there?\n")
    print(sock.recv(100).decode(), flush=True)
    time.sleep(600)


def binding(host: str, port: int) -> None:
    """Binds first, so it draws from the other allocator."""
    sock = dial(host, port, source=host)
    time.sleep(600)
    sock.close()


def quitting(host: str, port: int) -> None:
    """Never dials, and ends."""


def silent(host: str, port: int) -> None:
    """Never dials, and never ends."""
    time.sleep(600)


def elsewhere(host: str, port: int) -> None:
    """Dials another port."""
    for _ in range(20):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.connect(("127.0.0.1", port + 1000))
        time.sleep(0.02)


def crashing(host: str, port: int) -> None:
    sock = dial(host, port, tries=20)
    os.kill(os.getpid(), signal.SIGSEGV)
    sock.close()


def forking(host: str, port: int) -> None:
    """Leaves the work to children, and ends."""
    for _ in range(5):
        if os.fork() == 0:
            holding(host, port)


def daemonising(host: str, port: int) -> None:
    """Goes to the background as daemon(3) does, in a session of its own, without a terminal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for end in range(3):
        os.dup2(null, end)
    sock = dial(host, port)
    time.sleep(600)
    sock.close()


def v6_only(host: str, port: int) -> None:
    """Dials ::1 whatever its arguments are."""
    sock = dial("::1", port)
    time.sleep(600)
    sock.close()


def flooding(host: str, port: int) -> None:
    """Writes as fast as it can, to both outputs, forever."""
    sock = dial(host, port)
    while sock.fileno():
        os.write(1, b"x" * 65536)
        os.write(2, b"y" * 65536)


def stubborn(host: str, port: int) -> None:
    """Ignores every signal it can, and has children that do."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    os.fork()
    os.fork()
    holding(host, port)


def failing_parent(host: str, port: int) -> None:
    """Has a child that holds the connection, and exits with an error of its own once the child has it."""
    ready, child_is_ready = os.pipe()
    if os.fork() == 0:
        sock = dial(host, port)
        sock.sendall(b"are you there?\n")
        print(sock.recv(100).decode(), flush=True)
        os.write(child_is_ready, b".")
        time.sleep(600)
    os.read(ready, 1)
    sys.exit(1)


def failing_supervisor(host: str, port: int) -> None:
    """Ends its child, which holds the connection, after a moment, as timeout(1) does."""
    ready, child_is_ready = os.pipe()
    if (child := os.fork()) == 0:
        sock = dial(host, port, tries=20)
        os.write(child_is_ready, b".")
        time.sleep(600)
        sock.close()
    os.close(child_is_ready)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    sys.exit(124)


def failing_pool(host: str, port: int) -> None:
    """Exits with an error because the second connection of two was refused."""
    first = dial(host, port, tries=20)
    with socket.socket(first.family) as second:
        second.connect((host, port))


def missing_helper(host: str, port: int) -> None:
    """Connects, and exits with the status of a shell that finds no program."""
    dial(host, port, tries=20).close()
    sys.exit(127)


def unable(host: str, port: int) -> None:
    sys.exit(127)


def tight(host: str, port: int) -> None:
    """Dials as fast as it can, immune for being bound elsewhere."""
    while True:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((host, 20000))
            sock.connect((host, port))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
