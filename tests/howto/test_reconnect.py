"""The programs of the how-to run as they stand, lose their server, and continue when it is back."""

from __future__ import annotations

import contextlib
import re
import selectors
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
import tailbite.verify
from support import servers
from support.server import serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parents[2] / "docs/howto/reconnect.md"

pytestmark = pytest.mark.usefixtures("network")


def programs() -> dict[str, str]:
    """The page's programs, by the heading they stand under."""
    found = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, text = section.split("\n", 1)
        found[title] = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0]
    return found


class Program:
    """A running program, whose lines are waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def next_line(self, within: float = 100.0) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(within), "the program printed nothing"
        return self._process.stdout.readline().strip()

    def is_alive(self) -> bool:
        return self._process.poll() is None


@contextlib.contextmanager
def running(title: str) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", programs()[title]], stdout=subprocess.PIPE, text=True
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


def news(number: int) -> Callable[[socket.socket], None]:
    """A server of the line protocol."""

    def handle(sock: socket.socket) -> None:
        assert sock.recv(100) == b"subscribe news\n"
        sock.sendall(f"news {number}\n".encode())
        sock.recv(1)

    return handle


@pytest.mark.parametrize("title", ["A line protocol", "asyncio streams"])
def test_the_line_protocol_is_read_from_one_server_after_the_other(title: str) -> None:
    with running(title) as program:
        for number in range(3):
            with serving(news(number), ("127.0.0.1", 7000)):
                assert program.next_line() == f"news {number}"
        assert program.is_alive()


def test_websockets_on_the_loops_socket() -> None:
    from websockets.sync.server import serve

    with running("websockets") as program:
        for number in range(2):

            def greet(websocket: object, number: int = number) -> None:
                websocket.send(f"news {number}")  # type: ignore[attr-defined]
                time.sleep(0.2)

            with serve(greet, "127.0.0.1", 7000) as server:
                import threading

                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                assert program.next_line() == f"news {number}"
                server.shutdown()
                thread.join()
        assert program.is_alive()


@pytest.mark.peers
def test_redis_py_on_the_loops_socket(peer: Callable[[str], str]) -> None:
    cli = peer("redis-cli")
    with running("redis-py") as program, servers.folder() as folder:
        for number in range(2):
            publish = [cli, "publish", "news", f"news {number}"]
            with servers.run(servers.redis(peer, folder, 6379), 6379, folder / "log"):
                until(partial(reached, publish, "1"))  # redis-cli says how many subscribers it reached
                assert program.next_line() == f"news {number}"
        assert program.is_alive()


@pytest.mark.peers
def test_psycopg_after_postgresql_was_seen(peer: Callable[[str], str]) -> None:
    import psycopg

    with running("psycopg") as program, servers.folder() as folder:
        command = servers.postgres(peer, folder, 5432)
        for number in range(2):
            with servers.run(command, 5432, folder / "log") as server:
                tailbite.wait("127.0.0.1:5432", verify=tailbite.verify.postgres, timeout=100)
                with psycopg.connect("host=127.0.0.1 user=postgres password=secret", autocommit=True) as database:
                    until(partial(is_listening, database))
                    database.execute(f"notify news, 'news {number}'".encode())
                assert program.next_line() == f"news {number}"
                server.send_signal(signal.SIGINT)  # a fast shutdown; SIGTERM would wait for the client to leave
                server.wait(100)
        assert program.is_alive()


def is_listening(database: Any) -> bool:
    return database.execute("select 1 from pg_stat_activity where query = 'listen news'").fetchone() is not None


def test_the_example_of_hooks_makes_a_loop() -> None:
    made: dict[str, object] = {}
    exec(programs()["See what the loop does"], made)
    assert "loop" in made


def reached(command: list[str], expected: str) -> bool:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == expected


def until(condition: Callable[[], bool], within: float = 100.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
