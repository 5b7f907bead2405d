"""Facts are read per namespace and believed for a moment only."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

import tailbite
from support.descriptors import no_descriptor_left
from support.trap import PORT, Trap
from tailbite.connect import facts
from tailbite.core.plan import HostFacts, Means
from tailbite.core.ports import PortRange
from tailbite.kernel import sockopt
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sockopt import supports_local_port_range
from tailbite.kernel.sysctl import write_ephemeral_range


def known_facts() -> HostFacts:
    with socket.socket() as sock:
        return facts.host_facts(sock)


@pytest.mark.usefixtures("network")
def test_each_namespace_has_its_own_facts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before Linux 5.14 a namespace is known by its inode, which a new one can get from one that has just ended.
    monkeypatch.setattr(facts, "_known", {})
    write_ephemeral_range(PortRange(40000, 40009))
    assert known_facts().ephemeral == PortRange(40000, 40009)
    with fresh_network():
        assert known_facts().ephemeral == PortRange(32768, 60999)
        write_ephemeral_range(PortRange(50000, 50009))
    assert known_facts().ephemeral == PortRange(40000, 40009)


@pytest.mark.usefixtures("network")
def test_a_range_is_read_once_while_it_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def read() -> PortRange:
        reads.append(1)
        return PortRange(40000, 40009)

    clock = [1000.0]
    monkeypatch.setattr(facts, "monotonic", lambda: clock[0])
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(facts, "read_ephemeral_range", read)
    known_facts(), known_facts()
    assert len(reads) == 1
    clock[0] += facts.FRESH_FOR / 2
    known_facts()
    assert len(reads) == 1
    clock[0] += facts.FRESH_FOR
    known_facts()
    assert len(reads) == 2


@pytest.fixture
def _no_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 5.14: the option is unknown to the kernel."""
    for module in (facts, sockopt):
        monkeypatch.setattr(module, "SO_NETNS_COOKIE", 9999)
    monkeypatch.setattr(facts, "_known", {})
    with socket.socket() as sock, pytest.raises(OSError) as none:
        sockopt.netns_cookie(sock)
    assert none.value.errno == errno.ENOPROTOOPT


@pytest.mark.usefixtures("network", "_no_cookie")
def test_without_the_cookie_each_namespace_has_its_own_facts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    test_each_namespace_has_its_own_facts_at_once(monkeypatch)


@pytest.mark.usefixtures("network", "_no_cookie")
def test_without_the_cookie_a_socket_of_another_namespace_is_not_given_the_threads_range() -> None:
    test_a_socket_of_another_namespace_is_not_given_the_threads_range()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("broken", [OSError(errno.ENOENT, "no /proc"), ValueError("no range")])
def test_a_range_that_cannot_be_read_is_unknown_and_still_never_itself(
    monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    def fail() -> PortRange:
        raise broken

    monkeypatch.setattr(facts, "read_ephemeral_range", fail)
    monkeypatch.setattr(facts, "_known", {})
    assert known_facts() == HostFacts(None, supports_local_port_range())
    Trap().set().control()
    for _ in range(500):
        with pytest.raises(ConnectionRefusedError):
            tailbite.create_connection(("127.0.0.1", PORT))


@pytest.mark.usefixtures("network")
def test_elsewhere_than_on_linux_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_LINUX", False)
    monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(facts, "read_ephemeral_range", lambda: pytest.fail("read"))
    assert known_facts() == HostFacts(None, False)
    with socket.socket() as sock:
        assert facts.plan_for(sock, PORT).means is Means.RESET


@pytest.mark.usefixtures("network")
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(facts, "_MOST_NAMESPACES", 3)
    monkeypatch.setattr(facts, "_MOST_PLANS", 5)
    means = Means.STEER if supports_local_port_range() else Means.RESET
    for _ in range(8):
        with fresh_network(), socket.socket() as sock:
            for port in range(40000, 40020):
                assert facts.plan_for(sock, port).means is means
            assert len(facts._known) <= 3
            assert all(len(namespace.plans) <= 5 for namespace in facts._known.values())


@pytest.mark.usefixtures("network")
def test_a_socket_of_another_namespace_is_not_given_the_threads_range() -> None:
    """The file in /proc is that of the thread's namespace; a socket of another one has an unknown range."""
    with fresh_network():
        write_ephemeral_range(PortRange(50000, 50009))
        foreign = socket.socket()
    with foreign:
        write_ephemeral_range(PortRange(40000, 40009))
        assert facts.host_facts(foreign).ephemeral is None
        assert facts.plan_for(foreign, 50000).means is Means.RESET
        assert known_facts().ephemeral == PortRange(40000, 40009)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("cookie", ["cookie", "no cookie"])
def test_the_range_of_a_namespace_that_the_thread_has_left_is_not_believed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    """It may have changed since: here to a trap, which the range of before would leave unguarded."""
    if cookie == "no cookie":
        request.getfixturevalue("_no_cookie")
    clock = [1000.0]
    monkeypatch.setattr(facts, "monotonic", lambda: clock[0])
    monkeypatch.setattr(facts, "_known", {})
    with fresh_network():
        write_ephemeral_range(PortRange(40000, 40009))
        assert known_facts().ephemeral == PortRange(40000, 40009)
        foreign = socket.socket()
        Trap().set().control()
    with foreign:
        clock[0] += 2 * facts.FRESH_FOR
        assert facts.plan_for(foreign, PORT).means is Means.RESET


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("cookie", ["cookie", "no cookie"])
def test_without_a_descriptor_no_range_of_before_is_believed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    """A range cannot be read without a descriptor, and the one that was read before may have changed."""
    if cookie == "no cookie":
        request.getfixturevalue("_no_cookie")
    clock = [1000.0]
    monkeypatch.setattr(facts, "monotonic", lambda: clock[0])
    monkeypatch.setattr(facts, "_known", {})
    write_ephemeral_range(PortRange(40000, 40009))
    with socket.socket() as sock:
        assert facts.plan_for(sock, PORT).means is Means.NOTHING
        Trap().set().control()
        clock[0] += 2 * facts.FRESH_FOR
        with no_descriptor_left():
            assert facts.plan_for(sock, PORT).means is Means.RESET
        clock[0] += 2 * facts.FRESH_FOR
        assert facts.plan_for(sock, PORT).means is not Means.NOTHING


LIMIT = "resource.setrlimit(resource.RLIMIT_NOFILE, ({}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
with_and_without_cookie = pytest.mark.parametrize(
    "kernel",
    ["", "from tailbite.kernel import sockopt; facts.SO_NETNS_COOKIE = sockopt.SO_NETNS_COOKIE = 9999\n"],
    ids=["cookie", "no cookie"],
)


@pytest.mark.usefixtures("network")
@with_and_without_cookie
def test_the_first_connect_of_a_process_takes_one_descriptor(kernel: str) -> None:
    """To find out what the kernel has takes another one, which may not be there; a plain connect needs no other."""
    program = (
        "import resource, socket, tailbite; from tailbite.connect import facts\n"
        f"{kernel}{LIMIT.format(5)}"
        "server = socket.create_server(('127.0.0.1', 9000))\n"
        "client = tailbite.create_connection(('127.0.0.1', 9000))\n"
        "print(client.fileno())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("4\n", "")


@pytest.mark.usefixtures("network")
@with_and_without_cookie
def test_the_first_self_connect_of_a_process_takes_one_descriptor(kernel: str) -> None:
    """Nothing may be loaded to recognise it: a module takes a descriptor, and the socket has the last one."""
    Trap().set().control()
    program = (
        "import resource, tailbite; from tailbite.connect import facts\n"
        f"{kernel}{LIMIT.format(4)}"
        "for host in ('127.0.0.1', '::1', '::ffff:127.0.0.1') * 5:\n"
        "    try:\n"
        f"        tailbite.create_connection((host, {PORT}))\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (set(done.stdout.split()), done.stderr) == ({str(errno.ECONNREFUSED)}, "")
