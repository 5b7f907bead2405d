"""A worker that is killed leaves its calls to its successor, and no port is free in between."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.trap import PORT, Trap
from tailbite.core.ports import PortRange
from tailbite.guards.program import port_hold
from tailbite.guards.program.beside import _Workers
from tailbite.guards.program.lookahead import LocalDestination
from tailbite.guards.program.monitor import Task, do_task
from tailbite.guards.program.port_hold import Holds, hold_calls_left
from tailbite.guards.program.shared_page import SharedPage
from tailbite.guards.program.takeover import CallTable, Deposit
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.guards.program.monitor import Watch
    from tailbite.guards.program.shared_page import WorkerSlot

CONNECT = (42,)
HERE = LocalDestination(socket.AF_INET, "127.0.0.1", PORT)
pytestmark = pytest.mark.usefixtures("network")


class Call:
    """A call that is over when a test says so."""

    over = False

    def __init__(self, tid: int, numbers: tuple[int, ...]) -> None:
        pass

    def is_over(self) -> bool:
        return self.over


@pytest.fixture(autouse=True)
def call(monkeypatch: pytest.MonkeyPatch) -> type[Call]:
    monkeypatch.setattr(port_hold, "PendingCall", Call)
    monkeypatch.setattr(Call, "over", False)
    return Call


def is_held(port: int = PORT, host: str = "100::1") -> bool:
    """Tell whether the port is held on an address: without SO_REUSEADDR it cannot be bound then."""
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        try:
            sock.bind((host, port))
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return True
        return False


def killed(slot: WorkerSlot, work: Callable[[Holds], object]) -> None:
    """Have a worker do this, and kill it (SIGKILL)."""
    child = os.fork()
    if child == 0:
        try:
            holds = Holds(CONNECT, slot)
            work(holds)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_port_stays_held_when_the_worker_is_killed_until_the_call_is_over(
    page: SharedPage, call: type[Call]
) -> None:
    killed(page.slots[0], lambda holds: holds.hold_during_call(7, PORT))
    assert is_held(), "nobody has taken over yet"
    successor = Holds(CONNECT, page.slots[0])
    assert successor.has_pending_calls
    assert successor.release_over() is not None
    assert is_held()
    call.over = True
    assert successor.release_over() is None
    assert not is_held()


def test_without_a_deposit_the_port_would_be_free(page: SharedPage) -> None:
    """The control of the test above."""
    killed(page.slots[3], lambda holds: holds.hold_during_call(7, PORT))
    assert not is_held()
    successor = Holds(CONNECT, page.slots[3])
    assert is_held(), "the successor knows of the call all the same"
    successor.close()


def test_a_successor_may_be_killed_as_well(page: SharedPage, call: type[Call]) -> None:
    killed(page.slots[0], lambda holds: holds.hold_during_call(7, PORT))
    for _ in range(3):
        killed(page.slots[0], lambda holds: holds.release_over())
        assert is_held()
    call.over = True
    killed(page.slots[0], lambda holds: holds.release_over())
    assert not is_held()
    assert not any(page.slots[0].pending)


def test_another_slot_does_not_take_over(page: SharedPage, call: type[Call]) -> None:
    killed(page.slots[0], lambda holds: holds.hold_during_call(7, PORT))
    call.over = True
    assert Holds(CONNECT, page.slots[1]).release_over() is None
    assert is_held()


def test_a_killed_worker_without_calls_leaves_nothing(page: SharedPage) -> None:
    def hold_and_release(holds: Holds) -> None:
        holds.hold_during_call(7, PORT)
        holds.hold_during_call(7, PORT + 1)
        holds.close()

    killed(page.slots[0], hold_and_release)
    assert not is_held()
    assert not is_held(PORT + 1)
    assert not Holds(CONNECT, page.slots[0]).has_pending_calls


def test_the_next_call_of_a_thread_ends_the_one_that_was_left(page: SharedPage) -> None:
    killed(page.slots[0], lambda holds: holds.hold_during_call(7, PORT))
    successor = Holds(CONNECT, page.slots[0])
    successor.hold_during_call(7, PORT + 1)
    assert not is_held()
    assert is_held(PORT + 1)
    successor.close()
    assert not is_held(PORT + 1)


class Ahead:
    """A lookahead to which everything is out of reach."""

    def count_call(self) -> None:
        pass

    def add_delay(self, seconds: float) -> None:
        pass

    def is_out_of_reach(self, destination: LocalDestination, calls: int) -> bool:
        return True

    is_still_out_of_reach = is_out_of_reach


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_hold, "Lookahead", Ahead)


def leave_unheld(holds: Holds) -> None:
    """Begin a call whose port is out of reach."""
    assert not holds.hold_during_call(7, PORT, destination=HERE)


@pytest.mark.usefixtures("ahead")
def test_a_port_that_was_out_of_reach_is_held_by_the_successor(page: SharedPage, call: type[Call]) -> None:
    """It cannot know how far the sequence has moved meanwhile."""
    killed(page.slots[0], leave_unheld)
    assert not is_held()
    successor = Holds(CONNECT, page.slots[0])
    assert is_held()
    call.over = True
    successor.close()


@pytest.mark.usefixtures("ahead")
def test_a_port_that_was_out_of_reach_is_held_although_no_successor_has_started(
    page: SharedPage, call: type[Call]
) -> None:
    """A range of two ports stands for a sequence that has come near the port; the plain client for the call."""
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    killed(page.slots[0], leave_unheld)
    assert any(Trap().connects_to_itself() for _ in range(20)), "the control did not self-connect"
    hold_calls_left(page.slots[0])
    assert not any(Trap().connects_to_itself() for _ in range(50))
    call.over = True
    assert Holds(CONNECT, page.slots[0]).release_over() is None
    assert not is_held()


@pytest.mark.usefixtures("ahead")
def test_from_the_first_takeover_on_no_port_is_left_unheld(page: SharedPage) -> None:
    """A worker that lives holds the ports of its calls under way as well, and a second kill releases nothing."""
    alive = Holds(CONNECT, page.slots[1])
    leave_unheld(alive)
    assert alive.release_over() is not None
    assert not is_held()
    page.record_takeover()
    assert alive.release_over() is not None
    assert is_held()
    killed(page.slots[0], lambda holds: holds.hold_during_call(8, PORT + 1, destination=HERE))
    assert is_held(PORT + 1)
    alive.close()


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("prepares", [True, False], ids=["run", "control"])
def test_the_monitor_holds_the_ports_of_a_killed_worker_before_it_starts_another(
    page: SharedPage, prepares: bool
) -> None:
    """The successor sees the port held before it has done anything itself."""
    end, told = socket.socketpair()
    workers = _Workers(-1, page, lambda *_: pytest.fail("not needed"), None)

    def work(number: int, _watch: Watch) -> bool:
        if any(page.slots[number].pending):
            told.send(b"held" if is_held() else b"free")
            told.shutdown(socket.SHUT_WR)
            return True
        leave_unheld(Holds(CONNECT, page.slots[number]))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    task = Task(work, end.fileno(), select.POLLRDHUP)
    if (monitor := os.fork()) == 0:
        do_task(replace(task, before_start=workers.hold_calls_left) if prepares else task)
        os._exit(0)
    assert os.waitpid(monitor, 0)[1] == 0
    with end, told:
        assert end.recv(4) == (b"held" if prepares else b"free")


@pytest.mark.usefixtures("ahead")
def test_a_slot_whose_worker_lives_is_left_to_it(page: SharedPage) -> None:
    """Two processes that put sockets into one deposit would drop each other's."""
    up, told = os.pipe()
    if (worker := os.fork()) == 0:
        leave_unheld(Holds(CONNECT, page.take_slot(0)))
        os.write(told, b".")
        signal.pause()
    assert os.read(up, 1) == b"."
    workers = _Workers(-1, page, lambda *_: pytest.fail("not needed"), None)
    workers.hold_calls_left(0)
    assert not is_held()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    workers.hold_calls_left(0)
    assert is_held()
    os.close(up)
    os.close(told)


def test_a_port_held_elsewhere_stays_held_there(page: SharedPage, call: type[Call]) -> None:
    """In the test, another address stands for another network namespace."""

    def hold_elsewhere(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)
        sock.bind(("100::2", port))
        return sock

    killed(page.slots[0], lambda holds: holds.hold_during_call(7, PORT, "elsewhere", hold_elsewhere))
    successor = Holds(CONNECT, page.slots[0])
    assert is_held(host="100::2")
    call.over = True
    assert successor.release_over() is None
    assert not is_held(host="100::2")


@pytest.fixture
def deposit() -> Iterator[Deposit]:
    deposit = Deposit()
    yield deposit
    deposit.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=40))
def test_a_deposit_keeps_exactly_what_was_added_and_not_removed(steps: list[tuple[bool, int]]) -> None:
    deposit, kept = Deposit(), set()
    for adds, number in steps:
        if adds and number not in kept:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(f"\0tailbite-deposit-{os.getpid()}-{number}")
                deposit.add(number, sock)
            kept.add(number)
        elif not adds:
            deposit.remove(number)
            kept.discard(number)
        assert {number for number in range(5) if is_bound(number)} == kept
    deposit.take_over()
    deposit.drop_left()
    assert not any(is_bound(number) for number in range(5))
    deposit.close()


def is_bound(number: int) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.bind(f"\0tailbite-deposit-{os.getpid()}-{number}")
        except OSError:
            return True
        return False


def test_a_full_deposit_keeps_what_it_has(deposit: Deposit) -> None:
    with socket.socket() as sock:
        for number in range(400):
            deposit.add(number, sock)
        for number in reversed(range(400)):
            deposit.remove(number)


def test_few_descriptors_are_left_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (20, 20))
    page = SharedPage()
    page.open_deposits(1)
    assert page.slots[0].deposit is None
    os.close(page.descriptor)


@given(st.lists(st.tuples(st.integers(1, 1 << 22), st.integers(1, 65535)), max_size=12))
def test_a_successor_reads_the_calls_that_are_in_the_table(calls: list[tuple[int, int]]) -> None:
    memory = memoryview(bytearray(8 * 8)).cast("Q")
    table = CallTable(memory)
    places = [table.add(tid, port) for tid, port in calls]
    assert [place is None for place in places] == [number >= 8 for number in range(len(calls))]
    assert sorted(CallTable(memory).calls_left()) == sorted(
        (tid, port, place) for (tid, port), place in zip(calls, places, strict=True) if place is not None
    )
    for place in places:
        table.remove(place)
    assert not any(memory)
