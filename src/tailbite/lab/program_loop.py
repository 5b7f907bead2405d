"""The reconnect loop with a real program as the client, one run per attempt; by default ``telnet``.

The result is read from captured packets: each SYN on ``lo`` shows the source port, and a SYN+ACK from an endpoint to
itself is a self-connect (RFC 9293 figure 8). Each self-connect happens in a network namespace of its own, where the
TIME-WAIT that the program usually leaves stays behind, so that every attempt starts with a free port.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import time
from array import array
from typing import TYPE_CHECKING

from tailbite.kernel.capture import Capture
from tailbite.kernel.executable import explain_failure
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.packets import TcpFlags
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.loop import ExperimentSettings, LoopTally, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_program_loop"]

_TELNET = "telnet {host} {port}"
_MOST_SECONDS = 10.0
_GLANCE = 0.002


def run_program_loop(settings: ExperimentSettings, client: str, progress: Callable[[int, int], None]) -> LoopTally:
    """Run the program until it has connected to itself ``settings.hits`` times; needs a private network.

    Args:
        settings: the experiment; one program runs at a time.
        client: ``telnet``, or a command with ``{host}`` and ``{port}``. Its standard input is empty.
        progress: called with the number of self-connects and of attempts so far.

    Raises:
        FileNotFoundError: the program cannot be run; the message says why.
        WorkerFailed: the program does not connect to the port.
    """
    host = "::1" if settings.ipv6 else "127.0.0.1"
    words = shlex.split(_TELNET if client == "telnet" else client)
    command = [word.replace("{host}", host).replace("{port}", str(settings.port)) for word in words]
    if not command:
        raise FileNotFoundError("the command of the client is empty")
    if shutil.which(command[0]) is None:
        raise _cannot_run(command[0], errno.EACCES if os.path.exists(command[0]) else errno.ENOENT)  # noqa: PTH110
    tally = LoopTally(0, host)
    before: int | None = None
    while len(tally.hits) < settings.hits and tally.attempts < settings.attempts:
        before = _run_until_hit(command, settings, tally, before, progress)
    return tally


def _run_until_hit(
    command: list[str],
    settings: ExperimentSettings,
    tally: LoopTally,
    before: int | None,
    progress: Callable[[int, int], None],
) -> int | None:
    """Run the program until it has connected to itself once more; return its last source port.

    The network namespace ends with the TIME-WAIT in it. The next one continues the kernel's sequence of source ports,
    whose table of increments all namespaces share.
    """
    since = 0
    with fresh_network():
        write_ephemeral_range(settings.ephemeral)
        with Capture() as capture:
            while tally.attempts < settings.attempts:
                syns, is_hit = _run_once(command, capture, settings.port)
                if not syns:
                    raise WorkerFailed(f"'{shlex.join(command)}' did not connect to port {settings.port}")
                tally.count(array("i", syns), before, settings.ephemeral)
                before = syns[-1]
                since += len(syns)
                if is_hit:
                    tally.hits.append(since)
                progress(len(tally.hits), tally.attempts)
                if is_hit:
                    break
    return before


def _cannot_run(program: str, number: int) -> FileNotFoundError:
    reason = explain_failure(shutil.which(program) or program, number)
    return FileNotFoundError(f"cannot run {program}: {reason}")


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError as error:
        raise _cannot_run(command[0], error.errno or errno.ENOENT) from None


def _run_once(command: list[str], capture: Capture, port: int) -> tuple[list[int], bool]:
    """Run the program once; return the source ports of its SYNs, and True if it connected to itself.

    A self-connected program is killed: telnet would negotiate options with itself forever.
    """
    deadline = time.monotonic() + _MOST_SECONDS
    with SockDiag() as diag, _start(command) as process:
        try:
            while process.poll() is None and time.monotonic() < deadline:
                if any(found.is_self_connected for found in list(diag.dump())):
                    break
                time.sleep(_GLANCE)
        finally:
            process.kill()
    # Read after the program has ended: a self-connected program sends faster than packets can be read here.
    segments = [each for each in capture.segments() if each.destination.port == port and TcpFlags.SYN in each.flags]
    syns = [each.source.port for each in segments if TcpFlags.ACK not in each.flags]
    return syns, any(each.is_to_itself for each in segments if TcpFlags.ACK in each.flags)
