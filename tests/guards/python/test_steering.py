"""The fast path of the guard changes no socket that is not like the last one; what it does not know it asks for."""

from __future__ import annotations

import _socket
import contextlib
import errno
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from support.trap import PORT, Trap
from tailbite.connect import facts
from tailbite.core.plan import Means
from tailbite.core.ports import PortRange
from tailbite.guards.python import guard, steering, without_range
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sockopt import abort, local_port_range, set_local_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _fast_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Entries of the fast path count for as long as a test runs, so that every connect meets them."""
    monkeypatch.setattr(facts, "FRESH_FOR", 60)
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(steering, "_is_plain", True)
    monkeypatch.setattr(steering, "_named_ports", set())
    steering._known_ports.clear()
    yield
    steering._known_ports.clear()
    assert guard._holds == 0


def refused(sock: socket.socket) -> bool:
    return sock.connect_ex((HOST, PORT)) == errno.ECONNREFUSED


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_a_range_of_the_programs_own_is_narrowed_also_right_after_a_plain_connect() -> None:
    """A fast path that only sets the option makes one sub-range of the whole ephemeral range of it."""
    write_ephemeral_range(PortRange(9000, 60999))
    own = PortRange(PORT - 6, PORT + 4)
    with tailbite.guard():
        used = set()
        for _ in range(60):
            with socket.socket() as plain, socket.socket() as sock:
                assert refused(plain)
                assert PORT in steering._known_ports, "the fast path was not taken"
                set_local_port_range(sock, own)
                assert refused(sock)
                assert local_port_range(sock) in ((own.low, PORT - 1), (PORT + 1, own.high))
                used.add(sock.getsockname()[1])
    assert used <= set(own) - {PORT}


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("trap", [PortRange(PORT, PORT + 1), PortRange(PORT, PORT + 40)], ids=str)
def test_sockets_of_another_namespace_between_plain_connects_at_home(trap: PortRange) -> None:
    """Such programs enter a namespace, make a socket there, and connect it when they are back."""
    write_ephemeral_range(PortRange(40000, 50000))
    with contextlib.ExitStack() as stack:
        with fresh_network():
            write_ephemeral_range(trap)
            assert any(Trap().connects_to_itself() for _ in range(400)), "the control did not self-connect"
            foreign = [stack.enter_context(socket.socket()) for _ in range(60)]
        with tailbite.guard():
            for sock in foreign:
                with socket.socket() as plain:
                    assert refused(plain)
                assert PORT in steering._known_ports, "the fast path was not taken"
                assert refused(sock)


@pytest.mark.usefixtures("network")
def test_a_thread_that_goes_between_namespaces() -> None:
    """A connect at home, the next one in the trap, with what was found out at home still fresh."""
    write_ephemeral_range(PortRange(40000, 50000))
    with fresh_network():
        Trap().set().control()
    with tailbite.guard():
        for _ in range(40):
            with socket.socket() as plain:
                assert refused(plain)
            with fresh_network():
                Trap().set()
                with socket.socket() as sock:
                    assert refused(sock)


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_a_programs_range_of_which_the_hosts_leaves_the_destination_alone_is_an_error() -> None:
    """The program did not ask for that port: the kernel takes the two ranges together (ip(7))."""
    write_ephemeral_range(PortRange(PORT - 1, PORT))
    with socket.socket() as control:
        set_local_port_range(control, PortRange(PORT, PORT + 1))
        control.connect((HOST, PORT))
        assert tailbite.is_self_connected(control)
        abort(control)
    with tailbite.guard(), socket.socket() as sock:
        set_local_port_range(sock, PortRange(PORT, PORT + 1))
        with pytest.raises(OSError, match="Cannot assign requested address"):
            sock.connect((HOST, PORT))


class Stubborn(socket.socket):
    """A class that overrides all that a guard could ask for, as those of proxies do."""

    def refuse(self, *_: object) -> Any:
        raise AssertionError("the guard has called a method of the program")

    family = type = property(refuse)
    getsockopt = setsockopt = getsockname = getpeername = fileno = bind = listen = refuse


def stubborn_answer(*, binds: bool) -> int:
    plain, sock = _socket.socket, Stubborn()
    try:
        if binds:
            plain.bind(sock, (HOST, 0))
        return plain.connect_ex(sock, (HOST, PORT))
    finally:
        plain.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close(sock)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("has_range", [pytest.param(True, marks=pytest.mark.needs("IP_LOCAL_PORT_RANGE")), False])
@pytest.mark.parametrize("binds", [False, True], ids=["connects", "binds first"])
def test_a_class_that_overrides_the_methods_of_a_socket_is_guarded_without_them(
    monkeypatch: pytest.MonkeyPatch, binds: bool, has_range: bool
) -> None:
    if not has_range:
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    Trap(binds_first=binds).set()
    assert 0 in {stubborn_answer(binds=binds) for _ in range(4)}  # the control: it reached itself
    with tailbite.guard():
        assert {stubborn_answer(binds=binds) for _ in range(4)} == {errno.ECONNREFUSED}


class Indexed:
    """A port object with ``__index__`` only, which Python's connect takes."""

    __hash__ = None  # type: ignore[assignment]

    def __index__(self) -> int:
        return PORT


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "port", [Indexed(), PORT, type("Port", (int,), {})(PORT)], ids=lambda port: type(port).__name__
)
def test_ports_that_are_not_plain_integers(port: object) -> None:
    Trap().set()
    seen: list[tailbite.GuardedConnect] = []
    address = (HOST, port)
    with tailbite.guard(events=seen.append):
        for _ in range(100):
            with socket.socket() as sock:
                assert sock.connect_ex(address) == errno.ECONNREFUSED
    assert {(connect.port, connect.means) for connect in seen} == {(PORT, Means.STEER)}
    with socket.socket() as control:
        control.connect(address)
        assert tailbite.is_self_connected(control)
        abort(control)


@pytest.mark.usefixtures("network")
def test_threads_share_the_fast_path() -> None:
    Trap().set().control()
    wrong: list[object] = []

    def connect() -> None:
        for _ in range(200):
            with socket.socket() as sock:
                try:
                    sock.connect((HOST, PORT))
                    wrong.append(sock.getsockname())
                except OSError as error:
                    if error.errno not in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL):
                        wrong.append(error)

    with tailbite.guard():
        threads = [threading.Thread(target=connect) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


WITHOUT_DESCRIPTORS = """
import resource, socket, sys, tailbite, time
_, way, host, port, *first = sys.argv
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock, other = socket.socket(family), socket.socket()
if way == "guarded":
    tailbite.guard()
    time.sleep(0.05)  # longer than facts.FRESH_FOR
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
if first:
    sock.bind(("", 0))
print(sock.connect_ex((host, int(port))), other.connect_ex(("127.0.0.1", 9)))
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    ("port", "first"), [(PORT, ()), (40000, ()), (PORT, ("bind",))], ids=["below the usual range", "in it", "bound"]
)
def test_the_first_guarded_connect_needs_no_descriptor(host: str, port: int, first: tuple[str, ...]) -> None:
    Trap(port=port, binds_first=bool(first)).set()
    out = {}
    for way in ("guarded", "plain"):  # the control leaves a TIME-WAIT that would protect the other
        command = (sys.executable, "-c", WITHOUT_DESCRIPTORS, way, host, str(port), *first)
        out[way] = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert out[way].stderr == ""
    assert out["plain"].stdout.split() == ["0", "111"], "the control did not self-connect"
    assert out["guarded"].stdout.split() == ["111", "111"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_connect_that_could_not_be_guarded_fails(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It must not continue without a guard because the system lacked something."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "short")

    monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(without_range, "protect", fail)
    Trap().set()
    with tailbite.guard(), socket.socket() as sock:
        with pytest.raises(OSError) as error:
            sock.connect((HOST, PORT))
        assert error.value.errno == number
    Trap().control()


@pytest.mark.needs("MPTCP")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("binds_first", [False, True])
@pytest.mark.parametrize("host", [HOST, "::1"])
def test_an_mptcp_socket_that_can_have_no_range_is_bound_to_another_port(
    monkeypatch: pytest.MonkeyPatch, host: str, binds_first: bool
) -> None:
    """Linux 5.6 to 6.7, where TCP sockets may have the option all the same (6.1 of Debian 12)."""
    monkeypatch.setattr(steering, "_can_have_range", lambda sock: False)
    monkeypatch.setattr(facts, "supports_local_port_range", lambda: True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def connect() -> tuple[int, bool]:
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
            if binds_first:
                sock.bind((host, 0))
            answer = sock.connect_ex((host, PORT))
            is_self = answer == 0 and sock.getsockname() == sock.getpeername()
            abort(sock)
            return answer, is_self

    Trap(binds_first=binds_first).set()
    seen: list[tailbite.GuardedConnect] = []
    with tailbite.guard(events=seen.append):
        assert {connect() for _ in range(40)} == {(errno.ECONNREFUSED, False)}
        with socket.create_server((host, PORT), family=family):
            assert connect() == (0, False)
    assert {(each.means, each.source_ports) for each in seen} == {(Means.BIND, None)}
    assert any(connect()[1] for _ in range(8)), "the control did not self-connect"


@pytest.mark.needs("MPTCP")
@pytest.mark.usefixtures("network")
def test_an_mptcp_socket_keeps_the_port_that_the_program_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "_can_have_range", lambda sock: False)
    monkeypatch.setattr(facts, "supports_local_port_range", lambda: True)
    Trap().set()
    for port, means in ((PORT, Means.CHECK), (PORT + 1, None)):
        with tailbite.guard(), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
            sock.bind((HOST, port))
            done = steering.prepare(sock, (HOST, PORT))
            assert (None if done is None else done[0]) == means
            assert sock.getsockname() == (HOST, port)
    write_ephemeral_range(PortRange(PORT, PORT))
    with tailbite.guard(), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
        with pytest.raises(OSError) as left:
            sock.connect((HOST, PORT))
        assert left.value.errno == errno.EADDRNOTAVAIL
