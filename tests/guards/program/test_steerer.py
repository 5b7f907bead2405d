"""One call at a time: whatever its address, its socket and its namespace are like."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.guarded import PYTHON, guarded, run
from support.limits import without
from support.programs import client, counts
from support.trap import PORT, Trap

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")

# Connects 40 times with an address of the given length; 200 bytes of memory are there.
ANY_LENGTH = """
import ctypes, socket, struct, sys
length, port = int(sys.argv[1]), int(sys.argv[2])
libc, itself = ctypes.CDLL(None), 0
address = struct.pack("=HH4s", socket.AF_INET, socket.htons(port), bytes([127, 0, 0, 1])).ljust(200, b"\\0")
for _ in range(40):
    sock = socket.socket()
    if libc.connect(sock.fileno(), address, length) == 0:
        itself += sock.getsockname() == sock.getpeername()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    sock.close()
print(itself)
"""


@pytest.mark.parametrize("length", [16, 17, 28, 109, 110, 111, 112, 127, 128])
def test_an_address_of_any_length_is_inspected(length: int) -> None:
    """110 is sizeof(struct sockaddr_un), and the kernel takes it for an IPv4 address as well."""
    Trap().set()
    command = [PYTHON, "-c", ANY_LENGTH, str(length), str(PORT)]
    assert run(guarded(command, "--require")).stdout == "0\n"
    assert int(run(command).stdout) > 0, "the control did not self-connect"


# A thread makes a network namespace with the same trap and leaves a way to make sockets there. The main thread then
# connects sockets of both namespaces in turn, so that what is known of one is wrong for the other.
TWO_NAMESPACES = """
import array, ctypes, os, socket, subprocess, sys, threading
port, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
sockets, ready = [], threading.Event()
def there():
    if libc.unshare(0x40000000) != 0: os._exit(77)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open("/proc/thread-self/net/../../../sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write(f"{port} {port + 1}")
    sockets.extend(socket.socket() for _ in range(40))
thread = threading.Thread(target=there); thread.start(); thread.join()
itself = 0
for foreign in sockets:
    for sock in (socket.socket(), socket.socket(), foreign):
        if sock.connect_ex(("127.0.0.1", port)) == 0:
            itself += sock.getsockname() == sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        sock.close()
print(itself)
"""


@pytest.mark.parametrize("home", ["the same range", "P outside the range"])
def test_sockets_of_two_namespaces_in_turn_are_never_confused(home: str) -> None:
    """The program is root in a user namespace, and its second namespace has a trap while its first may have none."""
    ranges = f"{PORT} {PORT + 1}" if home == "the same range" else "50000 50010"
    inside = f'{find_peer("ip")} link set lo up; echo "{ranges}" > /proc/sys/net/ipv4/ip_local_port_range; exec "$@"'
    code = TWO_NAMESPACES.replace("/proc/thread-self/net/../../../sys", "/proc/sys")
    there = ["unshare", "-Urn", "sh", "-c", inside, "sh"]
    done = run([*there, *guarded([PYTHON, "-c", code, str(PORT)], "--require")])
    assert done.stdout == "0\n", done.stderr
    assert int(run([*there, PYTHON, "-c", code, str(PORT)]).stdout) > 0, "the control did not self-connect"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "0.0.0.0")])
def test_without_port_ranges_a_client_that_binds_first_is_bound_to_another_port(
    host: str, source: str, tmp_path: Path
) -> None:
    """Linux 5.8 to 6.2: descriptors can be copied there."""
    Trap(binds_first=True).set()
    stats = tmp_path / "stats.json"
    done = run(
        [
            *without("IP_LOCAL_PORT_RANGE"),
            *guarded(client(host, source=source), "--require", "--stats-json", str(stats)),
        ]
    )
    assert counts(done.stdout) == (0, 200), done.stderr
    found = json.loads(stats.read_text())
    assert (found["mechanism"], found["not_covered"]) == ("hold", [])
    assert found["connects"]["released"] > 100
    itself, _ = counts(run(client(host, source=source)).stdout)
    assert itself > 0, "the control did not self-connect"


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.parametrize("source", ["-", "127.0.0.1"])
def test_a_socket_that_can_have_no_range_is_guarded_by_holding(source: str, tmp_path: Path) -> None:
    """MPTCP before Linux 6.8 refuses the option that TCP has; here the supervisor believes that of every socket."""
    Trap(binds_first=source != "-").set()
    stats = tmp_path / "stats.json"
    code = (
        "from tailbite.guards.program import steerer; steerer.port_range_option = lambda sock: None\n"
        "from tailbite.cli import main; main()"
    )
    words = ("run", "--require", "--stats-json", str(stats), "--")
    done = run([sys.executable, "-c", code, *words, *client(source=source)])
    assert counts(done.stdout) == (0, 200), done.stderr
    found = json.loads(stats.read_text())
    assert found["mechanism"] == "steer"
    assert found["connects"]["held"] + found["connects"]["released"] == 200
    itself, _ = counts(run(client(source=source)).stdout)
    assert itself > 0, "the control did not self-connect"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_where_a_client_that_binds_first_is_not_guarded_the_report_says_so(tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    done = run([*without("pidfd_getfd"), *guarded(["true"], "-v", "--stats-json", str(stats))])
    assert "not guarded here: a client that binds to port 0 before it connects\n" in done.stderr
    assert json.loads(stats.read_text())["not_covered"] == ["a client that binds to port 0 before it connects"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
@pytest.mark.parametrize("limit", ["pidfd_getfd", "IP_LOCAL_PORT_RANGE"])
def test_a_nested_run_is_guarded_by_an_outer_one_that_holds(limit: str) -> None:
    Trap().set()
    done = run([*without(limit), *guarded(guarded(client(), "--require", "-v"))])
    assert counts(done.stdout) == (0, 200), done.stderr
    assert "guarded by the `tailbite run` around this one" in done.stderr


def test_a_program_that_asks_whether_it_is_guarded_is_told_so_only_under_a_guard() -> None:
    code = (
        "import ctypes, socket, struct; libc = ctypes.CDLL(None, use_errno=True)\n"
        "question = struct.pack('=HH4s8s', socket.AF_INET, 0, b'tail', b'bite run')\n"
        "libc.connect(-1, question, 16); print(ctypes.get_errno())"
    )
    assert run([PYTHON, "-c", code]).stdout == "9\n"  # EBADF
    assert run(guarded([PYTHON, "-c", code])).stdout == "117\n"  # EUCLEAN
