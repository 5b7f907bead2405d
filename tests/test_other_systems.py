"""The library on Pythons of other systems: it imports, connects and never reaches itself, without what they lack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.guarded import run
from support.trap import PORT
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

HERE = Path(__file__).parent
SYSTEMS = ("win32", "darwin")

IMPORTS = """
import importlib, pathlib, tailbite
root, failed = pathlib.Path(tailbite.__file__).parent, []
parts = ("core", "connect", "verifiers", "dial", "reconnect", "readiness", "errors", "aio", "anyio", "events",
         "hooks", "verify", "testing", "testkit", "guards/__init__.py", "guards/python", "pytest_plugin")
for file in sorted(root.rglob("*.py")):
    path = str(file.relative_to(root))
    if path.startswith(parts):
        name = "tailbite." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
failed += [name for name in tailbite.__all__ if not hasattr(tailbite, name)]
print(failed)
"""

CONNECTS = """
import asyncio, json, socket, struct, tailbite
port, seen = int(PORT), {}

def count(connect):
    itself = refused = 0
    for _ in range(60):
        try:
            sock = connect()
        except ConnectionRefusedError:
            refused += 1
        else:
            itself += sock.getsockname() == sock.getpeername()
            sock.close()
    return itself, refused

def plain():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.connect(("127.0.0.1", port))
    return sock

async def opened():
    return (await tailbite.open_connection("127.0.0.1", port))[1].get_extra_info("socket")

seen["plain"] = count(plain)
seen["create_connection"] = count(lambda: tailbite.create_connection(("127.0.0.1", port), timeout=5))
source = ("127.0.0.1", 0)
seen["source"] = count(lambda: tailbite.create_connection(("127.0.0.1", port), timeout=5, source_address=source))
seen["::1"] = count(lambda: tailbite.create_connection(("::1", port), timeout=5))
seen["open_connection"] = count(lambda: asyncio.run(opened()))
with tailbite.guard():
    seen["guard"] = count(plain)
print(json.dumps(seen))
"""

VERIFIES = """
import socket, tailbite, threading
from tailbite.verify import banner
def serve(listener):
    for text in (b"2", b"220 hello"):
        with listener.accept()[0] as client:
            client.sendall(text)
with socket.create_server(("127.0.0.1", 0)) as listener:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    for connection in tailbite.connections(listener.getsockname(), verify=banner(b"220", timeout=60)):
        with connection as sock:
            print(sock.recv(100))
        break
"""


def on(system: str, code: str) -> str:
    done = run([sys.executable, str(HERE / "support/other_system.py"), system, code])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_of_the_library_can_be_imported(system: str) -> None:
    assert on(system, IMPORTS) == "[]\n"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("system", SYSTEMS)
def test_clients_never_reach_themselves_without_a_port_range_of_their_own(system: str) -> None:
    write_ephemeral_range(PortRange(PORT, PORT + 5))
    seen = json.loads(on(system, CONNECTS.replace("PORT", str(PORT))))
    assert seen.pop("plain")[0] > 0, "the control did not self-connect"
    if system == "darwin":  # there the kernel refuses a self-connect, which this one does not
        seen.pop("guard")
    assert seen == {way: [0, 60] for way in seen}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_peer_is_verified_and_its_bytes_are_left_for_the_program(system: str) -> None:
    assert on(system, VERIFIES) == "b'220 hello'\n"


COMMANDS = """
import json
from click.testing import CliRunner
from tailbite.cli.group import tailbite
found = {}
for line in ("scan", "why 80", "doctor", "fix --reserve 80", "host-guard status", "host-guard install --apply",
             "watch", "exporter", "check", "audit -- true {port}", "demo", "lab parity", "lab loop", "lab handshake",
             "lab cures"):
    done = CliRunner().invoke(tailbite, line.split())
    found[line] = done.exit_code, done.stdout, done.stderr.splitlines()
for line in ("why --explain TB101", "scan --help", "host-guard install --help", "lab odds --port 80 --range 80-99"):
    found[line] = CliRunner().invoke(tailbite, line.split()).exit_code
print(json.dumps(found))
"""


def test_commands_that_need_linux_say_so_in_one_sentence() -> None:
    found = json.loads(on("darwin", COMMANDS))
    answers = {line: answer for line, answer in found.items() if isinstance(answer, list)}
    for status, out, said in answers.values():
        assert (status, out, len(said)) == (4, "", 1)
        assert "this is darwin" in said[0]
        assert "Linux" in said[0]
    assert [answer for answer in found.values() if not isinstance(answer, list)] == [0, 0, 0, 0]
