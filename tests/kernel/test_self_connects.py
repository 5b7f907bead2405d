"""Every self-connected socket is found, whatever its kind; errors of the kernel are raised, not hidden."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.trap import server_can_bind, wait_for_time_wait
from tailbite.core.ports import PortRange
from tailbite.errors import NetlinkError
from tailbite.kernel import sock_diag
from tailbite.kernel.end_socket import end_self_connect
from tailbite.kernel.inet_diag import decode, self_connect_offsets
from tailbite.kernel.netlink import NLM_F_DUMP_INTR, Netlink, encode
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RANGE = PortRange(32768, 60999)


@contextlib.contextmanager
def self_connected(host: str, port: int, *, device: str = "") -> Iterator[socket.socket]:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind((host, port))
        sock.connect((host, port))
        yield sock
    finally:
        abort(sock)


def self_connects_found() -> list[TcpSocket]:
    with SockDiag() as diag:
        listing = diag.self_connects(RANGE)
    assert listing.complete
    return list(listing.sockets)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("port", [1, 80, 32767, 32768, 46884, 60999, 61000, 65535])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_it_finds_a_self_connect_on_any_port_of_any_family(host: str, port: int) -> None:
    with self_connected(host, port), socket.create_server(("127.0.0.9", port)) as server:
        with socket.create_connection(("127.0.0.9", port)):
            abort(server.accept()[0])
        (one,) = self_connects_found()
    assert one.endpoints.local.port == port
    assert one.endpoints.local.host == host.removeprefix("::ffff:")
    assert one.state is TcpState.ESTABLISHED
    assert one.is_self_connected


@pytest.mark.needs("MPTCP")
@pytest.mark.usefixtures("network")
def test_it_finds_a_self_connect_of_multipath_tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
        sock.bind(("127.0.0.1", 5000))
        sock.connect(("127.0.0.1", 5000))
        assert [str(one.endpoints.local) for one in self_connects_found()] == ["127.0.0.1:5000"]


@pytest.mark.usefixtures("network")
def test_equal_ports_on_two_addresses_are_no_self_connect() -> None:
    with socket.create_server(("127.0.0.2", 5000)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 5000))
        client.connect(("127.0.0.2", 5000))
        with server.accept()[0]:
            assert self_connects_found() == []
            with self_connected("127.0.0.3", 5000):
                assert len(self_connects_found()) == 1


@pytest.mark.needs("IPTABLES")
@pytest.mark.usefixtures("network")
def test_it_finds_every_state_a_self_connect_can_be_in(peer: Callable[[str], str]) -> None:
    with contextlib.ExitStack() as stack:
        for port in (2001, 2002, 2003):
            sock = stack.enter_context(self_connected("127.0.0.1", port))
            if port == 2001:
                sock.close()
                wait_for_time_wait(port)
        # From here on nothing arrives: a SYN and a FIN stay unanswered.
        subprocess.run([peer("iptables"), "-A", "INPUT", "-i", "lo", "-j", "DROP"], check=True)
        sock.shutdown(socket.SHUT_WR)
        waiting = stack.enter_context(contextlib.closing(socket.socket()))
        waiting.setblocking(False)
        waiting.bind(("127.0.0.1", 2004))
        assert waiting.connect_ex(("127.0.0.1", 2004)) == errno.EINPROGRESS
        states = {one.endpoints.local.port: one.state for one in self_connects_found()}
    assert states == {
        2001: TcpState.TIME_WAIT,
        2002: TcpState.ESTABLISHED,
        2003: TcpState.FIN_WAIT1,
        2004: TcpState.SYN_SENT,
    }


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("device", ["", "lo"])
def test_it_counts_the_bytes_that_came_back(device: str) -> None:
    with self_connected("127.0.0.1", 3000, device=device) as sock, SockDiag() as diag:
        sock.sendall(b"hello")
        assert select.select([sock], [], [], 10)[0], "loopback delivers in a softirq, perhaps later"
        (one,) = self_connects_found()
        traffic = diag.traffic(one)
        assert traffic is not None
        assert traffic.bytes_received == 5
        assert traffic.idle_ms < 100_000
        assert one.receive_queue == 5
        assert sock.recv(10) == b"hello"
        sock.close()
        wait_for_time_wait(3000)
        (one,) = self_connects_found()
        assert diag.traffic(one) is None
        end_self_connect(diag, one)
        assert diag.traffic(one) is None
    assert self_connects_found() == []


@pytest.mark.needs("SOCK_DESTROY", "BOUND_SOCKETS_LISTED")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("device", ["", "lo"])
def test_a_client_that_bound_its_port_keeps_it_after_its_connection_was_destroyed(device: str) -> None:
    with self_connected("127.0.0.1", 3000, device=device) as sock, SockDiag() as diag:
        diag.destroy(self_connects_found()[0])
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)
        (left,) = diag.listing(local_port=3000).sockets
        assert left.state is TcpState.BOUND_INACTIVE
        assert not left.is_self_connected
        assert not server_can_bind(port=3000)
    assert server_can_bind(port=3000)


@pytest.mark.needs("SOCK_DESTROY")
@pytest.mark.usefixtures("network")
def test_a_socket_that_took_the_place_of_another_is_not_destroyed() -> None:
    with SockDiag() as diag:
        with self_connected("127.0.0.1", 3000):
            (gone,) = self_connects_found()
        with self_connected("127.0.0.1", 3000) as sock:
            with pytest.raises(NetlinkError) as refused:
                diag.destroy(gone)
            assert refused.value.errno in (errno.ENOENT, errno.ESTALE)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.usefixtures("network")
def test_one_port_is_listed_with_all_that_uses_it() -> None:
    with (
        socket.create_server(("127.0.0.1", 4000)) as server,
        socket.create_connection(("127.0.0.1", 4000)) as client,
        server.accept()[0],
        socket.socket() as bound,
        socket.create_server(("::", 4001), family=socket.AF_INET6),
        SockDiag() as diag,
    ):
        bound.bind(("127.0.0.2", 4000))
        here = diag.listing(local_port=4000)
        source = diag.listing(local_port=client.getsockname()[1])
        six = diag.listing(local_port=4001)
    assert sorted(one.state for one in here.sockets) == [
        TcpState.ESTABLISHED,
        TcpState.LISTEN,
        TcpState.BOUND_INACTIVE,
    ]
    assert [one.endpoints.remote.port for one in source.sockets] == [4000]
    assert [(one.endpoints.local.host, one.v6_only) for one in six.sockets] == [("::", True)]


class Scripted(Netlink):
    """A netlink socket whose answers are written down."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.interrupted = False
        self.closed = 0

        class Mouth:
            @staticmethod
            def send(data: bytes) -> None: ...

        self._socket = Mouth()  # type: ignore[assignment]

    def close(self) -> None:
        self.closed += 1

    def _receive_into(self, buffer: bytearray, request: str) -> int:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise NetlinkError(answer.errno or 0, request)
        buffer[: len(answer)] = answer
        return len(answer)


def answer(local: int, remote: int, flags: int = 2) -> bytes:
    address = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    body = bytes([socket.AF_INET, TcpState.ESTABLISHED, 0, 0]) + struct.pack("!HH", local, remote) + address * 2
    return encode(sock_diag.TCPDIAG_GETSOCK, flags, body.ljust(72, b"\0"))


DONE = encode(3, 2, struct.pack("=i", 0))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    def script(*answers: bytes | OSError) -> Scripted:
        fake = Scripted(*answers)
        monkeypatch.setattr(sock_diag, "Netlink", lambda _: fake)
        return fake

    return script


def test_a_dump_the_kernel_calls_interrupted_is_repeated(scripted: Callable[..., Scripted]) -> None:
    fake = scripted(answer(5, 6, NLM_F_DUMP_INTR) + encode(3, 2 | NLM_F_DUMP_INTR, bytes(4)), answer(5, 5) + DONE)
    with SockDiag() as diag:
        listing = diag.self_connects()
    assert (listing.complete, [one.endpoints.local.port for one in listing.sockets]) == (True, [5])
    assert fake.answers == []


def test_a_table_that_never_rests_is_called_incomplete(scripted: Callable[..., Scripted]) -> None:
    scripted(*[answer(5, 5, NLM_F_DUMP_INTR) + DONE] * 4)
    with SockDiag() as diag:
        listing = diag.self_connects()
    assert (listing.complete, len(listing.sockets)) == (False, 1)


def test_an_overrun_dump_is_repeated_on_a_fresh_socket(scripted: Callable[..., Scripted]) -> None:
    fake = scripted(answer(5, 5), OSError(errno.ENOBUFS, ""), answer(5, 5) + answer(6, 7), DONE)
    with SockDiag() as diag:
        listing = diag.self_connects()
        assert fake.closed == 1
    assert [one.endpoints.local.port for one in listing.sockets] == [5]


def test_endless_overruns_are_an_error(scripted: Callable[..., Scripted]) -> None:
    scripted(*[OSError(errno.ENOBUFS, "")] * 4)
    with SockDiag() as diag, pytest.raises(NetlinkError) as lost:
        diag.self_connects()
    assert lost.value.errno == errno.ENOBUFS


def test_a_kernel_without_old_request_or_filter_is_asked_the_plain_way(
    scripted: Callable[..., Scripted],
) -> None:
    refusal = encode(2, 0, struct.pack("=i", -errno.EINVAL) + bytes(16))
    plain = answer(5, 6) + answer(7, 7)
    plain = plain.replace(
        struct.pack("=H", sock_diag.TCPDIAG_GETSOCK) + b"\2\0", struct.pack("=HH", sock_diag.SOCK_DIAG_BY_FAMILY, 2)
    )
    fake = scripted(refusal, refusal, plain + DONE, DONE)
    with SockDiag() as diag:
        listing = diag.self_connects()
    assert [one.endpoints.local.port for one in listing.sockets] == [7]
    assert fake.answers == []


def test_what_the_kernel_forbids_is_an_error(scripted: Callable[..., Scripted]) -> None:
    scripted(encode(2, 0, struct.pack("=i", -errno.EPERM) + bytes(16)))
    with SockDiag() as diag, pytest.raises(NetlinkError) as refused:
        diag.self_connects()
    assert refused.value.errno == errno.EPERM


def test_garbage_from_the_kernel_is_an_error_not_a_loop() -> None:
    kind = sock_diag.TCPDIAG_GETSOCK
    for length in (0, 15, 20, 1 << 20):
        bad = bytearray(answer(5, 5))
        struct.pack_into("=I", bad, 0, length)
        with pytest.raises(ValueError, match="claims"):
            self_connect_offsets(memoryview(bad), kind)
    with pytest.raises(ValueError, match="too few"):
        decode(bytes(71))


def test_the_fast_loop_stops_before_what_is_no_socket() -> None:
    data = memoryview(answer(5, 6) + answer(7, 7) + answer(0, 0) + DONE)
    offsets, rest = self_connect_offsets(data, sock_diag.TCPDIAG_GETSOCK)
    assert (offsets, rest) == ([len(answer(0, 0))], len(data) - len(DONE))
