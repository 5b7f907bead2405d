"""Steered connects succeed like plain ones while the smaller sub-range of the ephemeral range is used up.

The library repeats a connect in the other sub-range. ``guard()`` and ``tailbite run`` cannot repeat another program's
connect, so they leave a small sub-range out.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from support.guarded import RUN, run
from support.trap import PORT
from tailbite.core.ports import PortRange
from tailbite.kernel.sockopt import abort, set_local_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
CONNECTS = 1000

CLIENT = f"""
import collections, socket, sys, tailbite
way = sys.argv[1]
if way == "guard":
    tailbite.guard()
errors = collections.Counter()
for _ in range({CONNECTS}):
    try:
        if way == "library":
            sock = tailbite.create_connection(("{HOST}", {PORT}))
        else:
            sock = socket.socket()
            sock.connect(("{HOST}", {PORT}))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        sock.close()
    except OSError as error:
        errors[error.errno] += 1
print(dict(errors))
"""


@contextlib.contextmanager
def server() -> Iterator[None]:
    """A listener on PORT that keeps what it accepts until the client has gone."""
    listener = socket.create_server((HOST, PORT), backlog=512)

    kept: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listener.accept()[0])
                if len(kept) > 80:
                    kept.pop(70).close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for sock in (listener, *kept):
            sock.close()


@pytest.mark.usefixtures("network")
@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.parametrize(("below", "above"), [(10, 1221), (63, 1100), (10, 321), (2, 28229), (0, 1221)], ids=str)
def test_every_way_connects_while_the_side_below_the_port_is_used_up(below: int, above: int) -> None:
    write_ephemeral_range(PortRange(PORT - below, PORT + above))
    with server(), contextlib.ExitStack() as stack:
        for port in range(PORT - below, PORT):
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, port))
            holder.connect((HOST, PORT))
        if below:
            with contextlib.closing(socket.socket()) as control:
                set_local_port_range(control, PortRange(PORT - below, PORT - 1))
                assert control.connect_ex((HOST, PORT)) == errno.EADDRNOTAVAIL, "the control found a source port"
        client = (sys.executable, "-c", CLIENT)
        for command in ((*client, "plain"), (*client, "library"), (*client, "guard"), (*RUN, "--", *client, "plain")):
            done = run(command)
            assert (done.stdout, done.stderr, done.returncode) == ("{}\n", "", 0), command
        with contextlib.closing(socket.socket()) as plain:
            plain.connect((HOST, PORT))
            abort(plain)
