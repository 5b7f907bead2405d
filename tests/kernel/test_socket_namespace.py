"""A socket's network namespace has a name, with the cookie of Linux 5.14 and without it."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tailbite.kernel import socket_namespace, sockopt
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.socket_namespace import is_namespace_of_thread, namespace_of

pytestmark = pytest.mark.usefixtures("network")


@pytest.fixture(params=["cookie", "no cookie"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no cookie":
        monkeypatch.setattr(sockopt, "SO_NETNS_COOKIE", 9999)  # Linux before 5.14: ENOPROTOOPT
    monkeypatch.setattr(socket_namespace, "_opaque", set())
    return str(request.param)


def test_sockets_of_one_namespace_have_one_name_and_others_another() -> None:
    with socket.socket() as one, socket.socket(socket.AF_INET6) as other:
        home = namespace_of(one)
        assert home is not None
        assert namespace_of(other) == home
        assert is_namespace_of_thread(home)
        with fresh_network(), socket.socket() as foreign:
            away = namespace_of(foreign)
            assert away not in (home, None)
            assert is_namespace_of_thread(away)
            assert not is_namespace_of_thread(home)
            assert namespace_of(one) == home
        assert not is_namespace_of_thread(away)


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_closed_socket_has_no_name() -> None:
    sock = socket.socket()
    sock.close()
    assert namespace_of(sock) is None
    assert not is_namespace_of_thread(None)


def test_no_descriptor_stays_open() -> None:
    with socket.socket() as sock:
        before = open_files()
        for _ in range(20):
            assert is_namespace_of_thread(namespace_of(sock))
        assert open_files() <= before  # the collector may close what other tests left


def forbid(monkeypatch: pytest.MonkeyPatch, opened: Any) -> None:
    monkeypatch.setattr(sockopt, "SO_NETNS_COOKIE", 9999)
    monkeypatch.setattr(socket_namespace, "_opened", opened)


def test_without_permission_a_socket_counts_as_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's process made its sockets itself, where it is."""

    def never(_: Any) -> bytes:
        raise OSError(errno.EPERM, "Operation not permitted")

    forbid(monkeypatch, never)
    monkeypatch.setattr(socket_namespace, "_MOST_OPAQUE", 2)
    for _ in range(5):
        with fresh_network(), socket.socket() as sock:
            assert is_namespace_of_thread(namespace_of(sock))
            assert len(socket_namespace._opaque) <= 2


def test_permission_for_the_threads_own_namespace_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has moved to a user namespace of its own, and keeps sockets from before."""
    opened = socket_namespace._opened
    with socket.socket() as before:
        inode = Path("/proc/thread-self/ns/net").stat().st_ino

        def allowed(sock: Any) -> bytes:
            name = opened(sock)
            if name == inode.to_bytes(8, "little"):
                raise OSError(errno.EPERM, "Operation not permitted")
            return name

        forbid(monkeypatch, allowed)
        with fresh_network(), socket.socket() as here:
            assert is_namespace_of_thread(namespace_of(here))
            assert namespace_of(before) is None


def test_another_error_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    forbid(monkeypatch, full)
    with socket.socket() as sock:
        assert namespace_of(sock) is None
