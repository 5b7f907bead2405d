"""guard(): in the trap, whatever connects through Python's sockets never reaches itself; a control does."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import select
import socket
import threading
from time import sleep
from typing import TYPE_CHECKING

import pytest

import tailbite
from support.descriptors import no_descriptor_left
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.connect import facts
from tailbite.core.plan import Means
from tailbite.core.ports import PortRange
from tailbite.guards.python import guard, steering
from tailbite.kernel.sockopt import abort, local_port_range, set_local_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.guards.python.guard import GuardedConnect

MANY = 1000


@pytest.fixture(params=[pytest.param("steered", marks=pytest.mark.needs("IP_LOCAL_PORT_RANGE")), "early"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both preventions: with IP_LOCAL_PORT_RANGE, and the one for kernels before 6.3."""
    if request.param == "early":
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
        monkeypatch.setattr(facts, "_known", {})
    return str(request.param)


@pytest.fixture(autouse=True)
def _all_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may leave the guard on, or its namespace to the next; what was bound here counts for nobody else."""
    monkeypatch.setattr(steering, "_is_plain", True)
    monkeypatch.setattr(steering, "_named_ports", set())
    steering._known_ports.clear()
    yield
    assert guard._holds == 0
    assert guard._listeners == {}


def plainly(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=5)


def binding_first(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=5, source_address=("", 0))


def binding_its_address(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=5, source_address=(host, 0))


def by_connect_ex(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    number = sock.connect_ex((host, port))
    if number == errno.EINPROGRESS:
        select.select([], [sock], [], 30)
        number = sock.connect_ex((host, port))
    if number:
        sock.close()
        raise OSError(number, "connect_ex")
    return sock


def attempts(dial: Callable[[str, int], socket.socket], host: str, times: int) -> int:
    """Dial the dead port; count how often somebody answered, which can only be the socket itself."""
    reached = 0
    for _ in range(times):
        try:
            sock = dial(host, PORT)
        except ConnectionRefusedError:
            continue
        reached += 1
        abort(sock)
    return reached


DIALS = [plainly, binding_first, binding_its_address, by_connect_ex]
HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "localhost"]


@pytest.mark.usefixtures("network", "means")
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("dial", DIALS)
def test_the_dead_port_never_answers(dial: Callable[[str, int], socket.socket], host: str) -> None:
    own_trap = Trap(binds_first=dial in (binding_first, binding_its_address))
    # The guard may bind a socket that its program does not bind: so it meets both traps.
    for trap in (Trap(binds_first=not own_trap.binds_first), own_trap):
        trap.set()
        sleep(2.5 * facts.FRESH_FOR)  # what a change of the range is granted to be noticed
        with tailbite.guard():
            assert attempts(dial, host, MANY) == 0
            assert leftovers() == []
            assert server_can_bind()
    assert attempts(dial, host, 8) > 0, "the control did not self-connect"


@pytest.mark.usefixtures("network", "means")
@pytest.mark.parametrize("dial", DIALS)
def test_a_live_server_is_reached(dial: Callable[[str, int], socket.socket]) -> None:
    Trap(binds_first=dial in (binding_first, binding_its_address)).set()
    with tailbite.guard(), socket.create_server(("127.0.0.1", PORT), backlog=8) as server:
        for _ in range(50):
            with dial("127.0.0.1", PORT) as client, server.accept()[0] as accepted:
                accepted.sendall(b"hello")
                client.settimeout(5)
                assert client.recv(16) == b"hello"
                assert accepted.getpeername()[1] != PORT
                abort(client)


@pytest.mark.usefixtures("network", "means")
def test_every_port_of_the_range_up_to_65535(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep: each port in turn is the dead one of a range of two, as its low and as its high end."""
    monkeypatch.setattr(facts, "FRESH_FOR", -1)
    with tailbite.guard():
        for low in itertools.chain(range(1024, 1400), range(32240, 33000), range(65000, 65535)):
            write_ephemeral_range(PortRange(low, low + 1))
            for port, dial in itertools.product((low, low + 1), (plainly, binding_first)):
                with pytest.raises(ConnectionRefusedError):
                    dial("127.0.0.1", port)
    Trap().set().control()


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_every_port_of_a_range_people_have() -> None:
    """Steered within the whole range, each port's source ports leave that port out."""
    low, high = 9000, 65535
    write_ephemeral_range(PortRange(low, high))
    seen: list[GuardedConnect] = []
    with tailbite.guard(events=seen.append):
        for port in range(low, high + 1):
            with pytest.raises(ConnectionRefusedError):
                plainly("127.0.0.1", port)
    assert [connect.port for connect in seen] == list(range(low, high + 1))
    assert all(connect.source_ports and connect.port not in connect.source_ports for connect in seen)
    Trap().set().control()


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_outside_the_range_nothing_is_touched() -> None:
    seen: list[GuardedConnect] = []
    with tailbite.guard(events=seen.append), socket.create_server(("127.0.0.1", 5432)):
        with plainly("127.0.0.1", 5432) as client:
            assert local_port_range(client) == (0, 0)
    assert seen == []


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_what_was_done_is_reported() -> None:
    Trap().set()
    seen: list[GuardedConnect] = []
    with tailbite.guard(events=seen.append):
        attempts(plainly, "127.0.0.1", 1)
        attempts(plainly, "localhost", 1)
        with socket.socket() as deliberate:
            deliberate.bind(("127.0.0.1", PORT))
            deliberate.connect(("127.0.0.1", PORT))
            abort(deliberate)
    only = PortRange(PORT + 1, PORT + 1)
    assert seen[0] == tailbite.GuardedConnect("127.0.0.1", PORT, Means.STEER, only)
    assert {connect.means for connect in seen[:-1]} == {Means.STEER}
    assert seen[-1] == tailbite.GuardedConnect("127.0.0.1", PORT, Means.CHECK, None)


@pytest.mark.usefixtures("network")
def test_a_listener_that_fails_or_connects_does_not_disturb_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    Trap().set()

    def failing(connect: GuardedConnect) -> None:
        attempts(plainly, "127.0.0.1", 1)
        raise ValueError(f"about {connect.port}")

    with tailbite.guard(events=failing):
        assert attempts(plainly, "127.0.0.1", 3) == 0
    assert capsys.readouterr().err.count(f"ValueError: about {PORT}") == 3


@pytest.mark.usefixtures("network", "means")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_deliberate_bind_to_the_port_is_left_alone(host: str) -> None:
    Trap(binds_first=True).set()
    with tailbite.guard(), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, PORT))
        sock.connect((host, PORT))
        assert tailbite.is_self_connected(sock)
        sock.sendall(b"me")
        assert sock.recv(2) == b"me"
        abort(sock)


@pytest.mark.usefixtures("network", "means")
def test_a_connection_under_way_from_the_same_port_is_not_disturbed() -> None:
    """Programs ask a non-blocking connect how it went by calling connect_ex again: also after bind(P), connect(P)."""
    write_ephemeral_range(PortRange(PORT - 8, PORT + 8))
    with tailbite.guard(), socket.create_server(("127.0.0.1", PORT)) as server, socket.socket() as sock:
        sock.bind(("127.0.0.2", PORT))
        sock.setblocking(False)
        numbers = {sock.connect_ex(("127.0.0.1", PORT)) for _ in range(5)}
        assert numbers <= {0, errno.EINPROGRESS, errno.EALREADY, errno.EISCONN}
        with server.accept()[0] as accepted:
            assert accepted.getpeername() == ("127.0.0.2", PORT)
            for _ in range(5):
                assert sock.connect_ex(("127.0.0.1", PORT)) in (0, errno.EISCONN)
            sock.setblocking(True)
            sock.sendall(b"still here")
            assert accepted.recv(32) == b"still here"


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_the_programs_own_range_is_narrowed_not_replaced() -> None:
    write_ephemeral_range(PortRange(32000, 33000))
    with tailbite.guard():
        seen = set()
        for _ in range(200):
            with socket.socket() as sock:
                set_local_port_range(sock, PortRange(PORT - 1, PORT + 1))
                assert sock.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
                seen.add(sock.getsockname()[1])
        assert seen == {PORT - 1, PORT + 1}
        with socket.socket() as sock:
            set_local_port_range(sock, PortRange(32500, 32600))
            assert sock.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
            assert sock.getsockname()[1] in range(32500, 32601)
        with socket.socket() as sock:  # a range of P alone is asking for P
            set_local_port_range(sock, PortRange(PORT, PORT))
            sock.connect(("127.0.0.1", PORT))
            assert tailbite.is_self_connected(sock)
            abort(sock)


@pytest.mark.usefixtures("network", "means")
@pytest.mark.parametrize("binds", [False, True])
def test_a_socket_used_again_after_a_refusal(binds: bool) -> None:
    """The kernel chooses a port each time, although getsockname still returns the last one."""
    Trap(binds_first=binds).set()
    with tailbite.guard(), socket.socket() as sock:
        if binds:
            sock.bind(("127.0.0.1", 0))
        for _ in range(500):
            assert sock.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED


@pytest.mark.usefixtures("network", "means")
def test_a_range_without_another_port_is_an_error_not_a_self_connect() -> None:
    write_ephemeral_range(PortRange(PORT, PORT))
    with tailbite.guard():
        for dial in (plainly, binding_first):
            with pytest.raises(OSError) as nothing_left:
                dial("127.0.0.1", PORT)
            assert nothing_left.value.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
    assert server_can_bind()
    assert attempts(plainly, "127.0.0.1", 4) > 0


@pytest.mark.usefixtures("network")
def test_off_is_off_and_nested_holds_count() -> None:
    Trap().set()
    inner, outer = guard.Guard(None), guard.Guard(None)
    with outer:
        with inner:
            inner.on()
            assert inner.is_on
            assert attempts(plainly, "127.0.0.1", 100) == 0
        assert not inner.is_on
        inner.off()
        assert attempts(plainly, "127.0.0.1", 100) == 0
    assert attempts(plainly, "127.0.0.1", 8) > 0
    with inner:
        assert attempts(plainly, "127.0.0.1", 100) == 0
    assert attempts(plainly, "127.0.0.1", 8) > 0


@pytest.mark.usefixtures("network")
def test_calling_it_again_changes_nothing() -> None:
    """A thousand calls install one hook, and the same listener is called once."""
    Trap().set()
    seen: list[GuardedConnect] = []
    told = seen.append
    held = [tailbite.guard(events=told) for _ in range(1000)]
    attempts(plainly, "127.0.0.1", 1)
    assert len(seen) == 1
    for one in held:
        one.off()
    attempts(plainly, "127.0.0.1", 1)
    assert len(seen) == 1


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_the_side_that_tailbites_own_connect_chose_stays() -> None:
    """With one side exhausted, the own connect tries the other: another choice would make it fail at times."""
    write_ephemeral_range(PortRange(PORT - 1, PORT + 1))
    host = "127.0.0.1"
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_server((host, PORT), backlog=200))
        stack.enter_context(tailbite.guard())
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_local_port_range(taken, PortRange(PORT - 1, PORT - 1))
        taken.connect((host, PORT))
        # The others' connects make short cuts for this port, and may fail: nobody tries again for them.
        steering._is_plain = True
        used = set()
        for _ in range(60):
            with contextlib.suppress(OSError), plainly(host, PORT) as other:
                abort(other)
            with tailbite.create_connection((host, PORT), timeout=5) as client:
                used.add(client.getsockname()[1])
                abort(client)
        assert used == {PORT + 1}


@pytest.mark.usefixtures("network")
def test_a_guard_that_nobody_keeps_stays_on() -> None:
    Trap().set()
    tailbite.guard()
    gc.collect()
    try:
        assert attempts(plainly, "127.0.0.1", 100) == 0
    finally:
        guard._holds -= 1  # what nobody keeps nobody can switch off


@pytest.mark.usefixtures("network")
def test_threads_that_connect_at_once() -> None:
    """Each of them has a port to itself: with fewer, EADDRNOTAVAIL would be the truth."""
    write_ephemeral_range(PortRange(PORT - 32, PORT + 31))
    assert any(Trap().connects_to_itself() for _ in range(5000)), "the control did not self-connect"
    reached = []

    def dial() -> None:
        reached.append(attempts(plainly, "127.0.0.1", 500))

    with tailbite.guard():
        threads = [threading.Thread(target=dial) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert reached == [0] * 8


@pytest.mark.usefixtures("network", "means")
def test_sockets_that_are_not_tcp_and_calls_that_are_wrong_stay_as_they_are() -> None:
    Trap().set()
    with tailbite.guard():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.bind(("127.0.0.1", PORT))
            datagram.connect(("127.0.0.1", PORT))
        with socket.socket(socket.AF_UNIX) as unix, pytest.raises(FileNotFoundError):
            unix.connect("/nowhere/at/all")
        address: object
        for address in ("x", b"x", "/xy", b"/xy", ("can0",), ("can0", [])):
            with socket.socket(socket.AF_UNIX) as unix:
                assert steering.prepare(unix, address) is None
        closed = socket.socket()
        closed.close()
        with pytest.raises(OSError) as bad:
            closed.connect(("127.0.0.1", PORT))
        assert bad.value.errno == errno.EBADF
        with socket.socket() as wrong, pytest.raises(OverflowError):
            wrong.connect(("127.0.0.1", 65536))


@pytest.mark.usefixtures("network", "means")
def test_a_process_without_descriptors_left() -> None:
    Trap(binds_first=True).set()
    with tailbite.guard():
        facts._known.clear()
        for _ in range(200):
            with socket.socket() as sock:
                facts.host_facts(sock)
                with no_descriptor_left():
                    try:
                        assert sock.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
                    except OSError as error:
                        assert error.errno == errno.EADDRNOTAVAIL
