"""The libraries people use: guarded in their process none connects to itself, and each does without the guard.

One process for each run, in a network namespace of its own. What it did is read off the wire: a SYN to the dead
port from the dead port is a self-connect, whatever the library made of it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from conftest import CI
from support import libraries
from support.abilities import has_ability
from support.trap import PORT, Trap, leftovers, server_can_bind, wait_for_release
from tailbite.kernel.capture import Capture
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.packets import TcpFlags

if TYPE_CHECKING:
    from support.libraries import Library

TIMES = 6
DEADLINE_S = 120
RUN = (sys.executable, "-m", "tailbite", "run", "--require", "--")

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("network")]


@dataclass(frozen=True)
class Dials:
    """The attempts of one process at the dead port.

    Attributes:
        to_itself: SYNs whose source was their destination.
        total: all SYNs to the dead port.
        is_clean: True if it left no socket on the port, and a server could bind it.
        output: what the process printed.
    """

    to_itself: int
    total: int
    is_clean: bool
    output: str


def dial(library: Library, how: str, *, before: tuple[str, ...] = (), until_caught: bool = False) -> Dials:
    """Have the library dial the dead port, until that was tried often enough.

    An attempt that a slow machine ends before it has sent a packet does not count, so the packets are counted.

    Args:
        library: the library.
        how: "guarded" or "plain".
        before: what to put before the command.
        until_caught: end the process at its first self-connect.
    """
    command = [*before, sys.executable, "-c", libraries.program(library), str(PORT), how, "200"]
    to_itself = total = 0
    deadline = monotonic() + DEADLINE_S
    with fresh_network(), Capture() as capture:
        Trap(binds_first=library.binds_first).set()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        try:
            is_running = True
            while is_running and not (to_itself if until_caught else total >= TIMES):
                is_running = process.poll() is None
                assert monotonic() < deadline, f"{library.name} takes too long"
                for segment in capture.segments(0.02):
                    if segment.destination.port == PORT and segment.flags == TcpFlags.SYN:
                        total += 1
                        to_itself += segment.is_to_itself
        finally:
            process.kill()
            output = process.communicate()[0]
        if before:
            wait_for_release()  # its helpers may end after it
        is_clean = leftovers() == [] and server_can_bind()
    return Dials(to_itself, total, is_clean, output)


def need(library: Library) -> None:
    try:
        found = importlib.util.find_spec(library.module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        (pytest.fail if CI else pytest.skip)(f"{library.name} is not installed")


def name_of(library: Library) -> str:
    return library.name


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")  # else packets show the self-connects that are reset at once
@pytest.mark.parametrize("library", libraries.PYTHON, ids=name_of)
def test_guarded_it_never_reaches_itself_and_unguarded_it_does(library: Library) -> None:
    need(library)
    control = dial(library, "plain", until_caught=True)
    assert control.to_itself, f"the control did not self-connect: {control.output}"
    guarded = dial(library, "guarded")
    assert guarded.total >= TIMES, guarded.output
    assert guarded.to_itself == 0, guarded.output
    assert guarded.is_clean


@pytest.mark.parametrize("library", libraries.C, ids=name_of)
def test_what_connects_in_c_is_not_reached_by_the_guard_but_by_run(library: Library) -> None:
    """The day the guard reaches one of them, change this test and the documentation."""
    need(library)
    guarded = dial(library, "guarded", until_caught=True)
    assert guarded.to_itself, f"{library.name} is reached by guard() now: {guarded.output}"
    steered = dial(library, "plain", before=RUN)
    assert steered.total >= TIMES, steered.output
    assert steered.to_itself == 0, steered.output
    assert steered.is_clean


def test_on_uvloops_loop_tailbites_own_connect_is_safe() -> None:
    """uvloop connects in C, but takes a socket that is connected already."""
    ours = libraries.Library(
        "uvloop", "uvloop", "import tailbite, uvloop", "uvloop.run(tailbite.open_connection(HOST, PORT))"
    )
    need(ours)
    dials = dial(ours, "plain")
    if has_ability("IP_LOCAL_PORT_RANGE"):
        assert dials.to_itself == 0, dials.output
    else:  # packets show the self-connects that are reset at once, and each is an error
        *whole, _ = dials.output.splitlines(keepends=True)
        errors = ("SelfConnectError [Errno 111]", "ConnectionRefusedError [Errno 111]")
        assert whole
        assert all(line.partition(" ")[2].startswith(errors) for line in whole), dials.output
    assert dials.is_clean, dials.output
    assert dials.total >= TIMES
