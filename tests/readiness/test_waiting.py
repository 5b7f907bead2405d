"""Waiting for servers, blocking and in asyncio: opens for the real server only, and says what it saw instead."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from support.abilities import has_ability
from support.descriptors import no_descriptor_left
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite import verify
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.readiness.gate import next_readiness
from tailbite.readiness.status import Readiness, TargetStatus, describe_error
from tailbite.verifiers.verification import Conversation, Receive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Waits = Callable[..., tuple[Readiness, ...]]


def in_asyncio(*targets: Any, **options: Any) -> tuple[Readiness, ...]:
    return asyncio.run(tailbite.aio.wait(*targets, **options))


@pytest.fixture(params=[tailbite.wait, in_asyncio], ids=["blocking", "asyncio"])
def wait(request: pytest.FixtureRequest) -> Waits:
    return request.param  # type: ignore[no-any-return]


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], object], address: Any = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    """A server that does ``answer`` with each connection, in this thread's namespace."""
    # Without SO_REUSEADDR: the least forgiving server.
    listener = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in (listener, *kept):
            sock.close()


def echo(connection: socket.socket) -> None:
    connection.sendall(connection.recv(1000))


def port_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def nobody_there() -> set[TargetStatus]:
    """Return what an attempt in the trap can see: without a port range, a self-connect that is reset at once."""
    refused = {TargetStatus.REFUSED}
    return refused if has_ability("IP_LOCAL_PORT_RANGE") else refused | {TargetStatus.ITSELF}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("verifier", [None, verify.redis, verify.ssh], ids=["plain", "redis", "ssh"])
def test_in_the_trap_it_opens_for_the_real_server_which_binds_at_the_first_try(
    wait: Waits, verifier: verify.Verifier | None
) -> None:
    trap = Trap().set()
    trap.control()
    greeting = b"SSH-2.0-x\r\n" if verifier is verify.ssh else b"+PONG\r\n"
    with contextlib.ExitStack() as servers:
        started: list[object] = []

        def saw(readiness: Readiness) -> None:
            if readiness.attempts >= 30 and not started:
                assert readiness.status in nobody_there()
                server = serving(lambda sock: sock.sendall(greeting), ("127.0.0.1", PORT))
                started.append(servers.enter_context(server))

        (readiness,) = wait(f"127.0.0.1:{PORT}", verify=verifier, interval=0.005, timeout=60, on_attempt=saw)
        assert readiness.ready
        assert readiness.attempts > 30
        assert started, "the server could not bind at the first try"


@pytest.mark.usefixtures("network")
def test_in_the_trap_nothing_opens_and_nothing_stays_behind(wait: Waits) -> None:
    trap = Trap().set()
    trap.control()
    with pytest.raises(tailbite.NotReadyError) as missed:
        wait(("127.0.0.1", PORT), timeout=2, interval=0.001)
    (readiness,) = missed.value.targets
    assert isinstance(readiness, Readiness)
    assert readiness.status in nobody_there()
    assert readiness.attempts >= 4  # the control needs no more
    assert leftovers() == []
    assert server_can_bind()
    trap.control()


LAST_SEEN = [
    *("SILENT", "CLOSED", "ECHO", "WRONG_PROTOCOL", "NOT_READY", "READY", "READY", "READY"),
    *("REFUSED", "REFUSED", "NAME_UNKNOWN", "REFUSED", "NAME_UNKNOWN"),
]


@pytest.mark.usefixtures("network")
def test_each_target_is_told_what_was_seen_last_and_they_are_waited_for_together(wait: Waits, tmp_path: Path) -> None:
    silent, closes = (lambda _: None), socket.socket.close
    path = str(tmp_path / "greeter.sock")
    with (
        serving(silent) as mute,
        serving(closes) as closer,
        serving(echo) as echoer,
        serving(lambda sock: sock.sendall(b"SSH-2.0-x\r\n")) as ssh,
        serving(lambda sock: sock.sendall(b"-LOADING Redis is loading\r\n")) as loading,
        serving(lambda sock: sock.sendall(b"220 x ESMTP\r\n"), path),
    ):
        start = time.monotonic()
        with pytest.raises(tailbite.NotReadyError) as missed:
            wait(
                f"redis://{port_of(mute)}",
                f"redis://{port_of(closer)}",
                f"redis://{port_of(echoer)}",
                f"redis://{port_of(ssh)}",
                f"redis://{port_of(loading)}",
                f"ssh://{port_of(ssh)}",
                f"tcp://{port_of(mute)}",
                path,
                str(tmp_path / "nobody.sock"),
                "redis://127.0.0.1:1",
                "tcp://no.such.name.invalid:1",
                str(tmp_path),
                "[fe80::1%nosuch]:1",
                verify=verify.smtp,
                timeout=5,
                patience=4,
                interval=0.1,
            )
        assert time.monotonic() - start < 20  # one after the other, they would take longer
    seen = [readiness for readiness in missed.value.targets if isinstance(readiness, Readiness)]
    assert [readiness.status.name for readiness in seen] == LAST_SEEN
    assert seen[3].detail.startswith("looks like SSH: ")
    assert seen[4].detail == "LOADING Redis is loading"
    assert [one.detail for one in seen[-2:]] == ["the file is not a socket", "this host has no interface nosuch"]
    text = str(missed.value)
    assert text.startswith("not ready after 5 s: 127.0.0.1:")
    assert text.count("; ") == 9
    assert "(redis): own echo" in text
    copy = pickle.loads(pickle.dumps(missed.value))
    assert (str(copy), copy.targets) == (text, missed.value.targets)
    assert isinstance(missed.value, TimeoutError)


@pytest.mark.usefixtures("network")
def test_no_probe_leaves_time_wait_on_a_port_that_another_target_needs(wait: Waits) -> None:
    """The source port of a connection to one server may be the port that another one is about to bind."""
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    with serving(lambda _: None, ("127.0.0.1", 5000)):
        control = socket.create_connection(("127.0.0.1", 5000))
        taken = control.getsockname()[1]
        control.close()
        assert taken in (PORT, PORT + 1)
        assert not server_can_bind(port=taken), "the control left nothing behind"
    # A fresh pair of ports, and with the control's TIME-WAIT out of the way.
    write_ephemeral_range(PortRange(PORT + 10, PORT + 11))
    with serving(lambda _: None, ("127.0.0.1", 5001)):
        with pytest.raises(tailbite.NotReadyError) as missed:
            wait("127.0.0.1:5001", f"127.0.0.1:{PORT + 10}", f"127.0.0.1:{PORT + 11}", timeout=0, patience=60)
        assert [readiness.ready for readiness in missed.value.targets] == [True, False, False]
        assert all(server_can_bind(port=port) for port in (PORT + 10, PORT + 11))


@pytest.mark.usefixtures("network")
def test_zero_seconds_is_one_try_with_its_full_patience(wait: Waits) -> None:
    def late(sock: socket.socket) -> None:
        time.sleep(0.3)
        sock.sendall(b"SSH-2.0-x\r\n")

    with serving(late) as server:
        (readiness,) = wait(f"ssh://{port_of(server)}", timeout=0, patience=60)
        assert readiness.attempts == 1
    with pytest.raises(tailbite.NotReadyError, match=r"^\[?not ready: 127\.0\.0\.1:1: refused$") as missed:
        wait("127.0.0.1:1", timeout=0)
    assert missed.value.targets[0].attempts == 1  # type: ignore[attr-defined]


@pytest.mark.usefixtures("network")
def test_it_waits_for_ever_if_asked_to(wait: Waits) -> None:
    tries = []

    def saw(readiness: Readiness) -> None:
        tries.append(readiness)
        if len(tries) == 5:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        wait("127.0.0.1:1", timeout=None, interval=0.01, on_attempt=saw)


@pytest.mark.usefixtures("network")
def test_a_bug_in_a_users_verifier_is_raised_and_not_waited_out(wait: Waits) -> None:
    class Buggy:
        name, timeout, spends = "buggy", 60.0, False

        def talk(self, target: object) -> Conversation:
            yield Receive()
            raise ZeroDivisionError("a bug")

    with serving(lambda sock: sock.sendall(b"x")) as server, pytest.raises(ZeroDivisionError):
        wait(port_of(server), verify=Buggy(), timeout=60)


@pytest.mark.usefixtures("network")
def test_the_same_target_twice_is_one_and_any_verifier_will_do(wait: Waits) -> None:
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    with serving(lambda sock: sock.sendall(answer)) as server:
        unhashable = verify.http("/", {200, 204})
        assert len(wait(port_of(server), port_of(server), verify=unhashable)) == 1


@pytest.mark.usefixtures("network")
def test_without_descriptors_it_says_so() -> None:
    with serving(lambda _: None) as server:
        port = port_of(server)
        with (
            no_descriptor_left(),
            pytest.raises(tailbite.NotReadyError, match=r"failed \(Too many open files") as missed,
        ):
            tailbite.wait(port, timeout=0.5)
    assert missed.value.targets[0].status is TargetStatus.FAILED  # type: ignore[attr-defined]


@pytest.mark.usefixtures("network")
def test_a_cancelled_wait_ends_at_once() -> None:
    async def main() -> None:
        with serving(lambda _: None) as server:
            task = asyncio.create_task(tailbite.aio.wait(f"ssh://{port_of(server)}", patience=60))
            await asyncio.sleep(0.2)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - start < 40  # patience lasts for a minute

    asyncio.run(main())


@pytest.mark.parametrize("options", [{"timeout": -1}, {"interval": 0}, {"patience": 0}, {"timeout": float("nan")}])
def test_times_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be .* seconds"):
        tailbite.wait("db:1", **options)  # type: ignore[arg-type]


def test_the_old_names_work_for_one_release() -> None:
    with pytest.warns(DeprecationWarning, match=r"tailbite\.Sighting is now called tailbite\.Readiness"):
        assert tailbite.Sighting is Readiness
    with pytest.warns(DeprecationWarning, match="TargetStatus"):
        assert tailbite.Saw is TargetStatus
    with pytest.warns(DeprecationWarning, match="status"):
        assert Readiness("db:1").saw is TargetStatus.NOTHING
    heard: list[Readiness] = []
    with pytest.warns(DeprecationWarning, match="on_attempt"), pytest.raises(tailbite.NotReadyError) as missed:
        tailbite.wait("127.0.0.1:1", timeout=0, on_sighting=heard.append)
    assert len(heard) == 1
    with pytest.warns(DeprecationWarning, match="targets"):
        assert missed.value.sightings == missed.value.targets
    with pytest.raises(TypeError, match="unexpected keyword argument 'until'"):
        tailbite.wait("db:1", until=3)


def test_every_error_is_described() -> None:
    cases: list[tuple[Exception, TargetStatus]] = [
        (ConnectionRefusedError(111, "x"), TargetStatus.REFUSED),
        (tailbite.SelfConnectError(tailbite.Endpoint("::1", 1), tailbite.Endpoint("::1", 1)), TargetStatus.ITSELF),
        (socket.gaierror(-2, "Name or service not known"), TargetStatus.NAME_UNKNOWN),
        (UnicodeError("label too long"), TargetStatus.NAME_UNKNOWN),
        (TimeoutError(), TargetStatus.NO_ANSWER),
        (OSError(113, "No route to host"), TargetStatus.UNREACHABLE),
        (OSError(24, "Too many open files"), TargetStatus.FAILED),
        (tailbite.VerifyError("silent", "x"), TargetStatus.SILENT),
    ]
    for error, saw in cases:
        assert describe_error(error)[0] is saw
    assert describe_error(OSError(24, "Too many open files"))[1] == "Too many open files"


def test_a_hurried_last_try_does_not_hide_what_was_seen_before() -> None:
    before = Readiness("db:1", TargetStatus.WRONG_PROTOCOL, "looks like SSH", 3, 1.0)
    after = next_readiness(before, TargetStatus.SILENT, "", 2.0, hurried=True)
    assert (after.status, after.detail, after.attempts) == (TargetStatus.WRONG_PROTOCOL, "looks like SSH", 4)
    assert next_readiness(before, TargetStatus.REFUSED, "", 2.0, hurried=True).status is TargetStatus.REFUSED
    assert next_readiness(before, TargetStatus.SILENT, "", 2.0, hurried=False).status is TargetStatus.SILENT
    assert next_readiness(before, TargetStatus.INCOMPLETE, "HT", 2.0, hurried=True).status is before.status
