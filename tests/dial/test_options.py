"""Plain words become socket options; what makes no sense is refused."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest

from tailbite.connect.target import Target
from tailbite.dial.options import Options

DB = Target("db", 5432)
UNIX = Target("/run/db.sock")


@pytest.mark.parametrize("seconds", [*range(2, 40), 60, 300, 7200, 65534])
def test_a_vanished_peer_is_noticed_within_the_time_given(seconds: int) -> None:
    """The silence before the first probe, and the probes, take no longer, and not much less."""
    with socket.socket() as sock:
        Options(keepalive=seconds).apply(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, probes = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert seconds - interval < idle + interval * probes <= seconds


def test_what_is_not_asked_for_stays_the_kernels() -> None:
    with socket.socket() as plain, socket.socket() as sock:
        Options(nodelay=False).apply(sock)
        for name in ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT"):
            option = getattr(socket, name)
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == plain.getsockopt(socket.IPPROTO_TCP, option)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("seconds", [2, 5, 7, 13, 30, 65534])
def test_keepalive_counts_for_data_under_way_too_unless_user_timeout_is_given(seconds: int) -> None:
    with socket.socket() as sock:
        Options(keepalive=seconds).apply(sock)
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, probes = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == (idle + interval * probes) * 1000
        Options(keepalive=seconds, user_timeout=1.5).apply(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


def test_a_unix_socket_gets_no_option_of_tcp() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        Options.of(UNIX).apply(sock)


def test_the_name_to_check_is_the_host_unless_given() -> None:
    assert Options.of(DB, ssl=True).name_to_check(DB) == "db"
    assert Options.of(DB, ssl=True, server_hostname="other").name_to_check(DB) == "other"
    context = ssl.create_default_context()
    assert Options.of(DB, ssl=context).ssl is context
    assert Options.of(DB, ssl=False).ssl is None


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        (UNIX, {"ssl": True}, "needs server_hostname"),
        (UNIX, {"keepalive": 10}, "keepalive is for TCP"),
        (UNIX, {"source_address": ("", 1)}, "source_address is for TCP"),
        (DB, {"keepalive": 70000}, "2 to 65534"),
        (DB, {"user_timeout": 0}, "user_timeout must be 0.001 to 2000000 seconds, not 0"),
        (DB, {"user_timeout": 2147484}, "user_timeout must be 0.001 to 2000000 seconds, not 2147484"),
        (DB, {"happy_eyeballs_delay": float("nan")}, "0 or more seconds"),
        (DB, {"server_hostname": "db"}, "only meaningful with ssl"),
        (DB, {"source_address": ("", 70000)}, "70000 is not a valid source port"),
    ],
)
def test_what_makes_no_sense_is_refused(target: Target, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Options.of(target, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"keepalive": "10"},
        {"keepalive": True},
        {"user_timeout": [1]},
        {"happy_eyeballs_delay": None},
        {"server_hostname": b"db", "ssl": True},
        {"ssl": "yes"},
        {"ssl": 0},
        {"source_address": ("127.0.0.1",)},
        {"source_address": "127.0.0.1"},
        {"source_address": ("127.0.0.1", "0")},
        {"source_address": (1, 2)},
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be"):
        Options.of(DB, **options)
