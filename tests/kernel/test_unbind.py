"""A port that the kernel chose can be released; a port that the program named cannot."""

from __future__ import annotations

import errno
import socket
import subprocess
from pathlib import Path

import pytest

from conftest import find_peer
from support.listeners import wait_for_client
from support.trap import PORT, leftovers
from tailbite.core.ports import PortRange
from tailbite.kernel.sockaddr import pack_sockaddr
from tailbite.kernel.sysctl import write_ephemeral_range, write_sysctl
from tailbite.kernel.unbind import source_address, unbind_chosen_port

HOSTS = ["127.0.0.1", "0.0.0.0", "127.0.0.9", "::1", "::", "::ffff:127.0.0.1"]


@pytest.fixture(params=["deferred connect", "listen"])
def _means(request: pytest.FixtureRequest, network: None) -> None:
    """Both ways out of CLOSED: this kernel's, and the one where TCP Fast Open is switched off."""
    if request.param == "listen":
        write_sysctl("tcp_fastopen", "0")


def bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


@pytest.mark.usefixtures("_means")
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("host", HOSTS)
def test_a_drawn_port_is_given_back_and_the_socket_can_be_bound_again(host: str, blocking: bool) -> None:
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    with bound(host, 0) as sock:
        drawn = sock.getsockname()[1]
        sock.setblocking(blocking)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unbind_chosen_port(sock)
        assert leftovers(drawn) == []
        with bound(host, drawn):  # another socket can bind it now
            sock.bind((host, 0))
            assert sock.getsockname()[:2] == (host, drawn ^ 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in (30, 34)] == [0, 0]
        with bound(host, drawn) as server:
            server.listen()
            sock.setblocking(True)
            sock.connect((host, drawn))


@pytest.mark.usefixtures("_means")
@pytest.mark.parametrize("host", HOSTS)
def test_a_named_port_stays(host: str) -> None:
    with bound(host, PORT) as sock:
        unbind_chosen_port(sock)
        with pytest.raises(OSError) as refused:
            sock.bind((host, 0))
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(OSError) as taken:
            bound(host, PORT)
        assert taken.value.errno == errno.EADDRINUSE


@pytest.mark.usefixtures("network")
def test_nothing_is_sent_on_the_way() -> None:
    """The deferred connect opens no connection: no segment leaves."""

    def segments() -> int:
        names, values = (
            line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if "Tcp:" in line
        )
        return int(values[names.index("OutSegs")])

    with bound("127.0.0.1", 0) as sock:
        before = segments()
        unbind_chosen_port(sock)
        assert segments() == before


@pytest.mark.usefixtures("network")
def test_the_programs_own_fast_open_options_survive() -> None:
    with bound("127.0.0.1", 0) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, 34, 1)
        unbind_chosen_port(sock)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in (30, 34)] == [0, 1]


def test_a_socket_of_another_protocol_is_not_touched(tmp_path: Path) -> None:
    """The last way to release a port is listen(2), which would succeed on a stream socket of another protocol."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "here"))
        with pytest.raises(OSError) as refused:
            unbind_chosen_port(other)
        assert refused.value.errno == errno.EPROTONOSUPPORT
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0


@pytest.mark.usefixtures("network")
def test_the_source_address_is_asked_without_sending_anything() -> None:
    subprocess.run([find_peer("ip"), "addr", "add", "10.93.0.1/32", "dev", "lo"], check=True)
    for host, source in (("127.0.0.1", "127.0.0.1"), ("10.93.0.1", "10.93.0.1"), ("127.0.0.9", "127.0.0.1")):
        with socket.create_server((host, PORT)) as server, socket.socket() as sock:
            server.setblocking(False)
            assert source_address(sock, pack_sockaddr(socket.AF_INET, (host, PORT))) == source
            with pytest.raises(BlockingIOError):
                server.accept()
            sock.connect((host, PORT))
            wait_for_client(server)
            server.accept()[0].close()
    with socket.socket() as sock, pytest.raises(OSError):
        source_address(sock, pack_sockaddr(socket.AF_INET, ("198.51.100.1", PORT)))
