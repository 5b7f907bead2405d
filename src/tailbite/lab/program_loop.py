"""The same loop with a real program as the client, one run per attempt: ``telnet``, as in the story.

What it did is read off the wire: each SYN on ``lo`` tells the source port, and a SYN+ACK from an endpoint to itself
is a self-connect (RFC 9293 figure 8). What the program leaves behind, a TIME-WAIT as a rule, is removed, so that
every attempt finds the port free.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from array import array
from typing import TYPE_CHECKING

from tailbite.kernel.packets import Capture, TcpFlags
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.loop import LoopSettings, Tally, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_program_loop"]

_TELNET = "telnet {host} {port}"
_MOST_SECONDS = 10.0


def run_program_loop(settings: LoopSettings, client: str, progress: Callable[[int, int], None]) -> Tally:
    """Run the program until it was connected to itself often enough; this process must be in a private network.

    Args:
        settings: what to measure; one program runs at a time.
        client: ``telnet``, or a command with ``{host}`` and ``{port}``. Its standard input is empty.
        progress: is called with the self-connects and the attempts so far.

    Raises:
        WorkerFailed: there is no such program, or it does not connect.
    """
    host = "::1" if settings.ipv6 else "127.0.0.1"
    words = shlex.split(_TELNET if client == "telnet" else client)
    command = [word.replace("{host}", host).replace("{port}", str(settings.port)) for word in words]
    if not command or shutil.which(command[0]) is None:
        raise WorkerFailed(f"the program {command[0] if command else client!r} is not installed")
    write_ephemeral_range(settings.ephemeral)
    tally = Tally(0, host)
    before: int | None = None
    since = 0
    with Capture() as capture:
        while len(tally.hits) < settings.hits and tally.attempts < settings.attempts:
            _run(command)
            syns, is_hit = _look(capture, settings.port)
            if not syns:
                raise WorkerFailed(f"'{shlex.join(command)}' did not connect to port {settings.port}")
            tally.count(array("i", syns), before, settings.ephemeral)
            before = syns[-1]
            since += len(syns)
            if is_hit:
                tally.hits.append(since)
                since = 0
                _clear(settings.port)
            progress(len(tally.hits), tally.attempts)
    return tally


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pass  # a program that stays connected to itself has been killed now; what it did is on the wire


def _look(capture: Capture, port: int) -> tuple[list[int], bool]:
    """Return the source ports of the SYNs to ``port``, and whether one of them connected to itself."""
    syns, is_hit = [], False
    for segment in capture.segments():
        if segment.destination.port != port or TcpFlags.SYN not in segment.flags:
            continue
        if TcpFlags.ACK not in segment.flags:
            syns.append(segment.source.port)
        elif segment.is_to_itself:
            is_hit = True
    return syns, is_hit


def _clear(port: int) -> None:
    with SockDiag() as diag:
        for sock in diag.dump():
            if sock.endpoints.local.port == port and sock.is_self_connected:
                diag.destroy(sock)
