"""``tailbite why`` recognises every way a port can be held, each produced for real, and never disturbs it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result

from support.holders import close_in_turn, wait_for_state
from support.trap import PORT, Trap, wait_for_time_wait
from support.users import python_as_nobody
from tailbite.cli.params import PLACE
from tailbite.cli.why import command
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.explain import pages, why
from tailbite.host.see import namespaces
from tailbite.host.see.records import NotVisible
from tailbite.kernel import namespace
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range, write_reserved_ports, write_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("network")
DOCS = Path(__file__).parents[2] / "docs/findings"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def ask(place: str | int, *more: str, netns: str = "self") -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(run(str(place), "--netns", netns, "--json", *more).stdout)
    assert seen["schema"] == "tailbite.why/1"
    return seen


def codes(place: str | int, **more: str) -> list[str]:
    return [finding["code"] for finding in ask(place, **more)["findings"]]


def facts(place: str | int) -> dict[str, Any]:
    seen = ask(place)
    return {fact["name"]: fact["value"] for fact in (*seen["findings"][0]["facts"], *seen["settings"])}


@contextlib.contextmanager
def drawn_self_connect() -> Iterator[socket.socket]:
    Trap().set()
    sock = socket.socket()
    while sock.connect_ex(("127.0.0.1", PORT)):
        pass
    try:
        yield sock
    finally:
        abort(sock)


def test_a_self_connected_client_is_named_with_its_bytes_and_its_cause() -> None:
    with drawn_self_connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(5, socket.MSG_PEEK) == b"hello"
        (finding,) = ask(PORT)["findings"]
        assert (finding["code"], finding["severity"], finding["confidence"]) == ("TB101", "critical", "certain")
        assert f"(pid {os.getpid()}) is connected to itself on 127.0.0.1:{PORT}" in finding["what"]
        assert "chosen by the kernel, unless the client bound it" in finding["why"]
        assert facts(PORT)["bytes echoed"] == 5
        assert f"tailbite fix --reserve {PORT} --apply" in str(finding["remedies"])
        assert run(str(PORT), "--netns", "self").return_value == 1


def test_one_that_was_bound_to_the_port_is_not_blamed_on_chance() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 7000))
        sock.connect(("127.0.0.1", 7000))
        (finding,) = ask(7000)["findings"]
        abort(sock)
    assert finding["code"] == "TB101"
    assert "by its own bind" in finding["why"]


def test_what_does_not_help_a_client_that_binds_the_port_says_so() -> None:
    """The kernel does not tell whether a port of the ephemeral range was chosen or bound."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 33001))
        sock.connect(("127.0.0.1", 33001))
        (held,) = ask(33001)["findings"]
        sock.shutdown(socket.SHUT_WR)
    wait_for_time_wait(33001)
    (left,) = ask(33001)["findings"]
    assert (held["code"], left["code"]) == ("TB101", "TB102")
    for finding in (held, left):
        for remedy in finding["remedies"]:
            if any("--reserve" in line or "tailbite run" in line for line in remedy["commands"]):
                assert remedy["text"].endswith("(no help if the client binds the port itself)")


def test_the_time_wait_of_a_self_connect_says_how_long() -> None:
    with drawn_self_connect() as sock:
        sock.close()
        wait_for_time_wait()
        (finding,) = ask(PORT)["findings"]
    assert finding["code"] == "TB102"
    seconds = re.search(r"TIME-WAIT is left, for (\d+) s more", finding["what"])
    assert seconds is not None
    assert 0 < int(seconds[1]) <= 60


@pytest.mark.parametrize("inside", [True, False], ids=["to-a-port-of-the-range", "to-a-port-below-it"])
def test_a_stolen_port_names_the_thief_and_where_it_is_connected(inside: bool) -> None:
    goal = 40000 if inside else 5432
    with socket.create_server(("127.0.0.1", goal)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 50051))
        client.connect(("127.0.0.1", goal))
        with server.accept()[0] as accepted:
            (finding,) = ask(50051)["findings"]
            abort(accepted)
    assert (finding["code"], finding["confidence"]) == ("TB103", "certain")
    assert f"from 127.0.0.1:50051 to 127.0.0.1:{goal}" in finding["what"]
    assert [owner["pid"] for owner in finding["owners"]] == [os.getpid()]


def test_the_counters_of_a_connection_tell_which_side_dialled() -> None:
    """Nobody here listens on the other end's port, as if it were another host; the SYN that was counted tells."""
    server = socket.create_server(("127.0.0.1", 443))
    with socket.socket() as client:
        client.bind(("127.0.0.1", 50051))
        client.connect(("127.0.0.1", 443))
        with server.accept()[0] as accepted:
            server.close()
            stolen, orphaned = (ask(port)["findings"][0] for port in (50051, 443))
            abort(accepted)
    assert (stolen["code"], stolen["confidence"]) == ("TB103", "certain")
    assert (orphaned["code"], orphaned["confidence"]) == ("TB111", "certain")
    assert f"(pid {os.getpid()})" in orphaned["what"]


@pytest.mark.parametrize("closes_first", ["server", "client"])
def test_time_wait_of_another_connection_says_of_which(closes_first: str) -> None:
    with socket.create_server(("127.0.0.1", 5432)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 50051))
        client.connect(("127.0.0.1", 5432))
        accepted = server.accept()[0]
        close_in_turn(*((accepted, client) if closes_first == "server" else (client, accepted)))
        wait_for_state(TcpState.TIME_WAIT, 5432 if closes_first == "server" else 50051)
        if closes_first == "server":
            assert codes(5432) == ["TB106"]  # while the server is up, what its connections leave is explained
    (finding,) = ask(5432 if closes_first == "server" else 50051)["findings"]
    assert finding["code"] == "TB104"
    assert finding["url"].endswith("/docs/findings/TB104.md")
    assert re.search(r"127.0.0.1:5432.* for \d+ s more", finding["what"])


def test_a_port_that_is_only_bound_names_its_holder() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 7000))
        (finding,) = ask(7000)["findings"]
    assert finding["code"] == "TB105"
    assert f"(pid {os.getpid()}) has bound 127.0.0.1:7000" in finding["what"]


def test_a_self_connect_that_was_destroyed_leaves_its_owner_with_a_bound_port() -> None:
    """The kernel lists such a socket with its old destination, which is itself; it is no longer connected."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 7000))
        sock.connect(("127.0.0.1", 7000))
        assert codes(7000) == ["TB101"]
        with SockDiag() as diag:
            diag.destroy(diag.listing(local_port=7000).sockets[0])
        assert codes(7000) == ["TB105"]


def test_a_server_is_fine() -> None:
    with socket.create_server(("127.0.0.1", 7000)):
        for place in ("7000", "127.0.0.1:7000", "localhost:7000"):
            result = run(place, "--netns", "self")
            assert (result.return_value, result.stdout.split()[:2]) == (0, ["TB106", "fine"])


def test_a_dual_stack_server_serves_both_families() -> None:
    with socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True):
        assert [codes(place) for place in ("7000", "127.0.0.1:7000", "[::1]:7000")] == [["TB106"]] * 3


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_server_on_ipv6_only_is_recognised(host: str) -> None:
    with socket.create_server((host, 7000), family=socket.AF_INET6):
        assert codes("127.0.0.1:7000") == ["TB107"]
        assert codes("7000") == ["TB107"]
        assert codes("[::1]:7000") == ["TB106"]
        assert "only on IPv6: [" in ask("127.0.0.1:7000")["findings"][0]["what"]


def test_a_server_on_another_address_is_recognised() -> None:
    with socket.create_server(("127.0.0.2", 7000)):
        assert codes("127.0.0.1:7000") == ["TB107"]
        assert codes("127.0.0.2:7000") == codes("7000") == ["TB106"]
        assert "only on 127.0.0.2:7000" in ask("127.0.0.1:7000")["findings"][0]["what"]


def test_a_port_in_another_namespace_is_found_there() -> None:
    code = "import socket; sock = socket.create_server(('127.0.0.1', 7000)); print(flush=True); input()"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    namespace.unshare(namespace.CLONE_NEWNET)
    namespace.bring_up()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    namespace.setns(home, namespace.CLONE_NEWNET)
    os.close(home)
    assert child.stdout is not None
    child.stdout.readline()
    seen = ask(7000, netns="all")
    everywhere = (*seen["findings"], *seen["elsewhere"])
    inside = codes(7000, netns=str(child.pid))
    child.communicate(b"\n", timeout=60)
    assert {"TB108", "TB110"} <= {finding["code"] for finding in everywhere}
    elsewhere = next(finding for finding in everywhere if f"(pid {child.pid})" in finding["what"])
    assert f"--netns {child.pid}" in str(elsewhere["remedies"])
    assert inside == ["TB106"]


def test_a_free_port_in_the_range_tells_the_odds_of_both_kinds_of_client() -> None:
    write_ephemeral_range(PortRange(32768, 60999))
    (finding,) = ask(50052)["findings"]
    assert finding["code"] == "TB109"
    seen = facts(50052)
    assert {one["plain"] for one in ask(50052)["binds"]} == {"works"}
    assert seen["odds"] > 0
    assert seen["odds if it binds first"] is None
    assert run("50052", "--netns", "self").return_value == 1


def test_a_free_port_that_is_reserved_or_outside_is_fine() -> None:
    assert codes(5432) == ["TB110"]
    write_reserved_ports(PortSet.of([50052]))
    assert codes(50052) == ["TB110"]
    assert facts(50052)["reserved"] is True
    assert run("50052", "--netns", "self").return_value == 0


def test_an_address_of_another_host_is_told_apart() -> None:
    assert codes("192.0.2.7:7000") == ["TB112"]
    assert codes("[2001:db8::7]:7000") == ["TB112"]


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
def test_a_user_without_the_capability_is_told_so() -> None:
    arguments = python_as_nobody("-m", "tailbite", "why", "80", "--netns", "self", "--json")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert [finding["code"] for finding in json.loads(done.stdout)["findings"]] == ["TB113", "TB110"]
    assert done.returncode == 1
    write_sysctl("ip_unprivileged_port_start", "80")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert [finding["code"] for finding in json.loads(done.stdout)["findings"]] == ["TB110"]


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
def test_without_root_the_holder_is_a_user_and_that_is_said() -> None:
    with drawn_self_connect():
        arguments = python_as_nobody("-m", "tailbite", "why", str(PORT))
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "A process that is not visible (uid 0) is connected to itself" in done.stdout
    assert "could not see the processes of other users" in done.stderr


def test_the_probe_touches_no_tcp_port() -> None:
    """No TCP socket is bound or connected while it looks, whatever it finds; Python tells of every such call."""
    code = """
import sys, socket
def watch(event, arguments):
    if event in ("socket.bind", "socket.connect") and arguments[0].type == socket.SOCK_STREAM:
        print("TOUCHED", event, arguments[1])
    if event == "socket.connect" and arguments[0].type != socket.SOCK_DGRAM:  # a UDP socket sends nothing then
        print("CONNECTED", arguments[1])
sys.addaudithook(watch)
from tailbite.cli.params import PLACE
from tailbite.cli.why import command
for place in sys.argv[1:]:
    command([place], standalone_mode=False)
socket.socket().bind(("127.0.0.9", 0))
"""
    with socket.create_server(("127.0.0.1", 7001)), drawn_self_connect():
        places = [str(PORT), "7001", "127.0.0.1:7001", "[::1]:7001", "7002", "127.0.0.1:50051"]
        done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    touched = [line for line in done.stdout.splitlines() if line.startswith(("TOUCHED", "CONNECTED"))]
    assert touched == ["TOUCHED socket.bind ('127.0.0.9', 0)"]  # the control, which shows that the hook sees


def test_everything_fits_80_columns_except_commands_to_copy() -> None:
    with drawn_self_connect(), socket.create_server(("::1", 7000), family=socket.AF_INET6):
        for place in (str(PORT), "7000", "127.0.0.1:7000", "50051", "80"):
            for line in run(place, "--netns", "self").stdout.splitlines():
                assert len(line.rstrip()) <= 80 or line.startswith("      tailbite run")


@pytest.mark.parametrize("place", ["0", "65536", "x", "127.0.0.1", "127.0.0.1:", "no-such-host:80", ":", "٣", "-1"])
def test_what_names_no_port_is_wrong_usage(place: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tailbite", "why", "--", place], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_every_code_has_its_page_with_all_its_parts() -> None:
    used = set(re.findall(r"^(TB1\d\d) ", Path(why.__file__).read_text(), re.MULTILINE))
    assert used == {code for code in pages.known_codes() if code.startswith("TB1")}
    for code in used:
        text = pages.read_page(code)
        assert text.startswith(f"# {code}: ")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings == ["What", "Why", "Remedy", "Before and after"]
        assert "Severity: " in text.splitlines()[2]
        assert max(len(line) for line in text.splitlines() if not line.startswith("    ")) <= 80


def test_explain_prints_the_page() -> None:
    assert run("--explain", "tb101").stdout == (DOCS / "TB101.md").read_text()


@pytest.mark.parametrize(
    "arguments", [["--explain", "TB999"], ["--explain", "../TB101"], ["--explain", "TB101", "80"], []]
)
def test_a_page_that_is_not_there_is_wrong_usage(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "tailbite", "why", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("ssh", (None, 22)),
        ("80/tcp", (None, 80)),
        ("127.0.0.1:ssh", ("127.0.0.1", 22)),
        ("[::1]:80/TCP", ("::1", 80)),
        ("*:80", (None, 80)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::ffff:127.0.0.1]:80", ("127.0.0.1", 80)),
    ],
)
def test_a_place_is_read_as_people_write_it(
    place: str, meant: tuple[str | None, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getservbyname", lambda name, protocol: {("ssh", "tcp"): 22}[name, protocol])
    assert PLACE.convert(place, None, None) == meant


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("53/udp", "only TCP ports are explained"),
        ("99999", "99999 is not a port: ports are 1 to 65535"),
        ("no-such-service", "is not a port or a TCP service that this host knows"),
        ("127.0.0.1", "has no port: write it as 127.0.0.1:PORT"),
        ("[fe80::1]:80", "fe80::1 is link-local: name its interface too, as in [fe80::1%eth0]:PORT"),
        ("[::1%lo]:80", "names an interface, which only a link-local address (fe80::) has"),
        ("::1:80", "write an IPv6 address in brackets"),
        ("example.org:80", "'example.org' is not an IP address"),
    ],
)
def test_bad_places_are_answered_with_what_to_write(place: str, sentence: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(sentence)):
        PLACE.convert(place, None, None)


def test_explain_without_a_code_lists_them_all() -> None:
    lines = run("--explain").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == list(pages.known_codes())
    assert "TB101  a self-connected client holds the port" in lines


def test_processes_that_vanish_meanwhile_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = NotVisible("process python/2871", "it vanished", errno.ESRCH)
    own = namespaces.current_namespace()
    monkeypatch.setattr(namespaces, "choose_namespaces", lambda wanted: ((own,), (gone,)))
    result = run("5432")
    assert "vanished" not in result.stderr
    assert result.return_value == 0
