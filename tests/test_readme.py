"""The README is true: its Python runs against a real server, its commands end as it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.trap import PORT, Trap
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, int]]:
    """The lines of the sh blocks, each with the exit status its comment names (``# exit 1``), 0 without one."""
    found = []
    for line in "".join(blocks("sh")).splitlines():
        command, _, comment = line.partition("#")
        status = re.search(r"exit (\d+)", comment)
        if command.strip() and not command.startswith(("make", "pip")):  # CI runs those itself
            found.append((command.strip(), int(status[1]) if status else 0))
    return found


@contextlib.contextmanager
def echo_server() -> Iterator[None]:
    """Answer the first bytes of each client with themselves."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(self.request.recv(100))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", PORT), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_runs_against_a_server(code: str) -> None:
    """In a process of its own: guard() stays on."""
    given = f"import socket\nsock = socket.create_connection(('127.0.0.1', {PORT}))\n"
    called = "\nimport asyncio\nasyncio.run(main())\n" if "async def main" in code else ""
    with echo_server():
        done = subprocess.run(
            [sys.executable, "-c", given + code + called], capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("command", "status"), commands())
def test_its_commands_end_as_it_says(command: str, status: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == status, done.stderr
    assert shlex.split(command)


@pytest.mark.usefixtures("network")
def test_why_says_what_it_shows() -> None:
    """Word for word, but for the name and the number of the process, and the time for which it was idle."""

    def words(text: str) -> str:
        named = re.sub(r"\S+ \(pid \d+\)", "PROCESS", " ".join(text.split()))
        return re.sub(r"It has been idle for [\w. ]*?(?:s|minutes?|hours?|days?)\. ", "", named)

    Trap().set()
    with contextlib.closing(socket.socket()) as sock:
        while sock.connect_ex(("127.0.0.1", PORT)):
            pass
        write_ephemeral_range(PortRange(9000, 65500))
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", "why", str(PORT)], capture_output=True, text=True, timeout=300
        )
    (shown,) = re.findall(r"^```\n(TB101 .*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert words(shown) in words(done.stdout)
    for remedy in (f"--kill {PORT}", f"--reserve {PORT}"):
        assert f"tailbite fix {remedy} --apply" in done.stdout
        assert f"`tailbite fix {remedy} --apply`" in README


def test_it_counts_the_clients_of_the_matrix() -> None:
    matrix = json.loads((ROOT / "docs" / "matrix.json").read_text(encoding="utf-8"))
    immune = {client["client"] for client in matrix["clients"] if client["verdict"] == "immune"}
    assert len(immune) == 6
    assert all(name.startswith("tailbite-") for name in immune)
    assert f"of the {len(matrix['clients'])} that were measured, only the six that use tailbite are immune" in README
    words = [word for client in matrix["clients"] for word in client["command"]]
    assert not any(part in word for word in words if word.startswith("/") for part in (".venv", ".peers"))


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    anchors = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors, anchor
