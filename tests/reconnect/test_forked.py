"""A forked process closes its copy of a loop, and the connection of its parent stays open."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import tailbite
from support.server import echo, serving
from support.shells import ASYNCHRONOUS, Shell, name_of
from support.trap import PORT

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = ("127.0.0.1", PORT)
SLOW = tailbite.Backoff(60, 60, draw=lambda: 1.0)
SOON = 20.0  # an end that is missed comes after a minute, or never

pytestmark = pytest.mark.usefixtures("network", "nothing_left")


def in_a_child(do: Callable[[], object]) -> None:
    """Run something in a forked process, which must end well."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def inode_of(sock: Any) -> str:
    return str(Path(f"/proc/self/fd/{sock.fileno()}").readlink())


def copies_of(inode: str) -> int:
    return sum(1 for each in Path("/proc/self/fd").iterdir() if each.is_symlink() and str(each.readlink()) == inode)


def test_a_forked_process_closes_its_copy_and_the_blocking_parent_keeps_the_connection() -> None:
    with serving(echo):
        made = tailbite.connections(HERE, read_timeout=20)
        with next(made) as sock:
            inode = inode_of(sock)

            def child() -> None:
                made.close()
                made.close()
                assert copies_of(inode) == 0
                assert next(made, None) is None

            in_a_child(child)
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        made.close()


def test_a_forked_process_closes_and_uses_its_connector_and_the_parent_keeps_the_connection() -> None:
    with serving(echo) as accepted, tailbite.Connector(HERE, read_timeout=20) as connector:
        sock = connector.get()
        inode = inode_of(sock)

        def close() -> None:
            connector.close()
            assert copies_of(inode) == 0
            with pytest.raises(ConnectionAbortedError):
                connector.get()

        def use() -> None:
            own = connector.get()
            assert own is not sock
            own.sendall(b"mine")
            assert own.recv(100) == b"mine"

        for child in (close, use, lambda: connector.lost(OSError())):
            in_a_child(child)
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            assert connector.get() is sock
        assert len(accepted) == 2


def test_a_forked_process_can_close_a_connector_whose_lock_a_thread_holds() -> None:
    connector = tailbite.Connector(HERE, backoff=SLOW)
    getting = threading.Thread(target=_get, args=(connector,))
    getting.start()
    while connector.state.name != "WAITING":
        time.sleep(0.001)
    in_a_child(connector.close)
    assert connector.state.name == "WAITING"  # the child's close() has woken nobody here
    connector.close()
    getting.join(SOON)
    assert not getting.is_alive()


def _get(connector: tailbite.Connector) -> None:
    with contextlib.suppress(ConnectionAbortedError):
        connector.get()


def close_the_copy(made: Any, inode: str) -> None:
    made.close()
    made.close()
    assert copies_of(inode) == 0


@pytest.mark.parametrize("shell", ASYNCHRONOUS, ids=name_of)
def test_a_forked_process_closes_its_copy_and_the_asynchronous_parent_keeps_the_connection(shell: Shell) -> None:
    async def scenario() -> None:
        made = shell.make(HERE)
        async for connection in shell.loop(made):
            async with connection as stream:
                in_a_child(functools.partial(close_the_copy, made, inode_of(made._link.sock)))
                with anyio.fail_after(SOON):  # the parent's event loop still watches the descriptor
                    await stream.send(b"still here")
                    assert await stream.receive() == b"still here"
            break
        made.close()

    with serving(echo):
        shell.run(scenario)
