"""The early connect of a guard without port ranges: the program's own connect finds what it would have found."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from conftest import CI, find_peer
from support.abilities import SLOW_LOOPBACK
from support.guarded import wait_until
from support.trap import PORT, Trap, leftovers
from tailbite.connect import facts
from tailbite.core.plan import Means
from tailbite.core.ports import PortRange
from tailbite.guards.python import steering, without_range
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
SYN_SENT = 2  # include/net/tcp_states.h


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch, network: None) -> Iterator[None]:
    monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(facts, "_known", {})
    steering._known_ports.clear()
    write_ephemeral_range(PortRange(PORT - 50, PORT + 50))
    with tailbite.guard():
        yield


@pytest.mark.parametrize("timeout", [None, 5, 0])
@pytest.mark.parametrize("host", [HOST, "::1", "localhost", "", "0.0.0.0", "::ffff:127.0.0.1"])
def test_a_live_server_is_connected_to(host: str, timeout: float | None) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server(
        ("::1" if host == "::1" else HOST, PORT), family=socket.AF_INET6 if host == "::1" else socket.AF_INET
    ) as server:
        with socket.socket(family) as sock:
            sock.settimeout(timeout)
            assert sock.connect_ex((host, PORT)) in (0, errno.EINPROGRESS)
            with server.accept()[0] as accepted:
                sock.setblocking(True)
                sock.sendall(b"hello")
                assert accepted.recv(8) == b"hello"
                assert accepted.getpeername()[1] == sock.getsockname()[1] != PORT


@pytest.mark.parametrize("timeout", [None, 5, 0])
def test_a_dead_port_refuses_and_a_self_connect_is_refused(timeout: float | None) -> None:
    Trap().set()
    seen: list[tailbite.GuardedConnect] = []
    with tailbite.guard(events=seen.append):
        for _ in range(100):
            with socket.socket() as sock:
                sock.settimeout(timeout)
                assert sock.connect_ex((HOST, PORT)) == errno.ECONNREFUSED
        assert leftovers() == []
    assert {connect.means for connect in seen} == {Means.RESET}


@pytest.mark.parametrize("timeout", [None, 0.3, 0])
def test_a_full_queue_is_waited_for_as_without_the_guard(timeout: float | None) -> None:
    """Nobody answers the SYN, so the early connect is undone, and the program's own begins."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_server((HOST, PORT), backlog=0))
        stack.enter_context(socket.create_connection((HOST, PORT)))
        sock = stack.enter_context(socket.socket())
        sock.settimeout(0.3 if timeout is None else timeout)
        if timeout == 0:
            assert sock.connect_ex((HOST, PORT)) == errno.EINPROGRESS
            assert sock.connect_ex((HOST, PORT)) == errno.EALREADY
        else:
            with pytest.raises(TimeoutError):
                sock.connect((HOST, PORT))


@pytest.fixture
def late_answers() -> Callable[[], None]:
    """Let half a kilobyte a second through ``lo``; return a function that uses up what may pass at once.

    Then a SYN is answered after connect(2) has returned, as on a busy CPU that leaves packets to ksoftirqd.
    """
    tc = find_peer("tc")
    subprocess.run([tc, *SLOW_LOOPBACK], check=True)

    def use_up() -> None:
        command = (tc, "-s", "qdisc", "show", "dev", "lo")
        wait_until(
            lambda: "backlog 0b 0p" in subprocess.run(command, capture_output=True, text=True).stdout, "lo is idle"
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(bytes(58), (HOST, 9))

    return use_up


@pytest.mark.needs("SCH_TBF")
@pytest.mark.parametrize("timeout", [None, 30])
def test_an_answer_that_comes_late_makes_no_self_connect(
    late_answers: Callable[[], None], monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    write_ephemeral_range(PortRange(PORT, PORT + 3))
    late: list[int] = []
    state_of = without_range._state

    def recorded(sock: Any) -> int:
        state = state_of(sock)
        late.extend([state] * (state == SYN_SENT))
        return state

    monkeypatch.setattr(without_range, "_state", recorded)
    for _ in range(60):
        late_answers()
        with socket.socket() as sock:
            sock.settimeout(timeout)
            assert sock.connect_ex((HOST, PORT)) == errno.ECONNREFUSED
        if len(late) == 6:
            return
    if not late:
        (pytest.fail if CI else pytest.skip)("the answers of this kernel's loopback are never late")


@pytest.mark.needs("SCH_TBF")
@pytest.mark.parametrize("timeout", [None, 30])
def test_a_server_that_answers_late_is_connected_to(late_answers: Callable[[], None], timeout: float | None) -> None:
    with socket.create_server((HOST, PORT)) as server:
        late_answers()
        with socket.socket() as sock:
            sock.settimeout(timeout)
            sock.connect((HOST, PORT))
            with server.accept()[0] as accepted:
                assert accepted.getpeername() == sock.getsockname() != (HOST, PORT)


def test_a_program_that_asks_how_its_connect_went_is_not_disturbed() -> None:
    with socket.socket() as sock, socket.socket() as dead:
        dead.bind((HOST, PORT))
        sock.setblocking(False)
        answers = [sock.connect_ex((HOST, PORT)) for _ in range(3)]
        assert answers[0] == errno.ECONNREFUSED
        assert set(answers) == {errno.ECONNREFUSED}


@pytest.mark.parametrize("bind", [(HOST, 0), ("", 0), (HOST, PORT + 1)])
def test_a_bound_socket_keeps_its_address_and_a_port_it_was_given(bind: tuple[str, int]) -> None:
    with socket.create_server((HOST, PORT)), socket.socket() as sock:
        sock.bind(bind)
        before = sock.getsockname()
        sock.connect((HOST, PORT))
        assert sock.getsockname() == (HOST, before[1])


def test_addresses_of_this_host_and_of_others_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run((find_peer("ip"), "addr", "add", "10.94.0.1/32", "dev", "lo"), check=True)
    begun: list[Any] = []
    begin = without_range._begin

    def recorded(sock: Any, there: Any) -> bool:
        begun.append(there)
        return begin(sock, there)

    monkeypatch.setattr(without_range, "_begin", recorded)
    for host, number in (("10.94.0.1", errno.ECONNREFUSED), ("198.51.100.1", errno.ENETUNREACH)):
        with socket.socket() as sock:
            assert sock.connect_ex((host, PORT)) == number
    assert begun[0] == ("10.94.0.1", PORT)


class Fake:
    """A socket module's socket on another system, as far as the guard uses it."""

    ports: tuple[int, ...] = ()
    unbound_raises = True

    def __init__(self, *_: object) -> None:
        self.bound: list[object] = []
        self.is_closed = False

    def getsockname(self) -> tuple[str, int]:
        if not self.bound:
            raise OSError(10022, "WSAEINVAL")
        return ("0.0.0.0", self.bound[-1][1] or 50000)  # type: ignore[index]

    def bind(self, address: tuple[str, int]) -> None:
        self.bound.append(address)

    def close(self) -> None:
        self.is_closed = True

    @property
    def family(self) -> int:
        return int(socket.AF_INET)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Fake]]:
    """Be on another system; returns the sockets that are made there."""
    made: list[Fake] = []

    class Recorded(Fake):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self)

    def enter(platform: str) -> list[Fake]:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(without_range, "_Socket", Recorded)
        monkeypatch.setattr(without_range, "_getsockname", Recorded.getsockname)
        return made

    return enter


def test_on_windows_a_second_socket_holds_the_port_while_the_socket_is_bound(on: Callable[[str], list[Fake]]) -> None:
    made = on("win32")
    sock = Fake()
    assert without_range.protect(sock, (HOST, PORT), PORT, has_other_port=True) is Means.BIND
    assert sock.bound == [("", 0)]
    (holder,) = made
    assert holder.bound == [("", PORT)]
    assert holder.is_closed
    assert without_range.protect(sock, (HOST, PORT), PORT, has_other_port=True) is None  # bound already
    assert without_range.protect(sock, (HOST, 50000), 50000, has_other_port=True) is Means.CHECK


def test_on_macos_the_system_itself_refuses(on: Callable[[str], list[Fake]]) -> None:
    on("darwin")
    sock = Fake()
    assert without_range.protect(sock, (HOST, PORT), PORT, has_other_port=True) is None
    assert sock.bound == []
