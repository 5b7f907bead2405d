"""Outcome of a cell: a sentence if it went as promised, else one of two errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from kernels.client import Client, connect_often
from support.trap import PORT

__all__ = ["FaultError", "NotRunError", "Run", "dial", "expect", "expect_status", "last_line", "tailbite"]

CLIENT = Path(__file__).with_name("client.py")


class NotRunError(Exception):
    """The kernel, or this machine, lacks what the cell needs; the message says what."""


class FaultError(Exception):
    """The product did not do what it promises; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a kernel.

    Attributes:
        connects: number of connects in each trap of a row.
        hits: number of self-connects that the model is compared with.
        connections: number of connections at once, of which the source ports must allow as many as plain sockets get.
        source_ports: size of the range that these connections use.
        starts: number of starts of each kind of server beside twenty clients.
        owns_machine: the kernel was booted for this run, so settings of the whole machine may be changed.
    """

    connects: int = 500
    hits: int = 40
    connections: int = 11_000
    source_ports: int = 5_000
    starts: int = 100
    owns_machine: bool = False


def tailbite(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command of the product to its end; its output is text."""
    command = [sys.executable, "-m", "tailbite", *words]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout
    )


def dial(
    way: str, count: int, *, host: str = "127.0.0.1", source: str = "", under: tuple[str, ...] = ()
) -> dict[str, int]:
    """Have the client of one kind connect to the dead port; return its counts.

    Args:
        way: as of :class:`~kernels.client.Client`.
        count: number of connects.
        host: the address to connect to.
        source: the source address, or empty for none.
        under: words of the command of the product that runs the client; empty to run it directly.

    Raises:
        FaultError: the client did not end with its counts.
    """
    if not under:
        return _dial_in_child(Client(way, host, source, PORT), count)
    command = [sys.executable, str(CLIENT), way, host, source, str(PORT), str(count)]
    done = tailbite(*under, "--", *command, timeout=600)
    expect_status(done, 0)
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def _dial_in_child(client: Client, count: int) -> dict[str, int]:
    """Run the client in a child without exec: under qemu the start of an interpreter takes longer than its connects.

    Raises:
        FaultError: the child did not end with its counts.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, json.dumps(connect_often(client, count)).encode())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expect(status == 0, f"the client ended with status {status}; its error is on the console")
    counts: dict[str, int] = json.loads(told)
    return counts


def expect(condition: object, message: str) -> None:
    """Raise FaultError with the message unless the condition holds."""
    if not condition:
        raise FaultError(message)


def expect_status(done: subprocess.CompletedProcess[str], *good: int) -> None:
    """Raise FaultError with the end of the output unless the exit status is one of the good ones."""
    output = (done.stderr or done.stdout).strip()[-300:]
    expect(done.returncode in good, f"exit status {done.returncode}: {output}")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a command printed, of stderr if there is any."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else "no output"
