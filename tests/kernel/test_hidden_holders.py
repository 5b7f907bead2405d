"""Sockets that are open without an entry in /proc/PID/fd: their processes are found all the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from support.abilities import ring_with
from tailbite.kernel.hidden_holders import hidden_holders
from tailbite.kernel.libc import architecture
from tailbite.kernel.procfs import socket_holders

_LISTEN = """
import ctypes, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def listen():
    sock = socket.create_server(("127.0.0.1", 0))
    print(os.fstat(sock.fileno()).st_ino, flush=True)
    return sock
"""
OWN_TABLE = """
def work():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    sock = listen()
    os.read(0, 1)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
ENDED_LEADER = """
def work():
    while ") Z " not in open(f"/proc/{os.getpid()}/stat").read():
        time.sleep(0.001)
    sock = listen()
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=work).start()
libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2): the main thread alone
"""
MANY_THREADS = """
stop = threading.Event()
for _ in range(50):
    threading.Thread(target=stop.wait, daemon=True).start()
sock = listen()
os.read(0, 1)
"""


def ask(code: str) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Return the pid, the inode of its listener, and who shows it in the usual place and in the others."""
    child = subprocess.Popen(
        [sys.executable, "-c", _LISTEN + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        inode = int(child.stdout.readline())
        plain = socket_holders([inode]).by_inode.get(inode, ())
        hidden = hidden_holders([inode]).get(inode, ())
        child.communicate("\n", timeout=60)
    return child.pid, inode, plain, hidden


def test_a_thread_with_a_descriptor_table_of_its_own_is_found() -> None:
    pid, _, plain, hidden = ask(OWN_TABLE)
    assert (plain, hidden) == ((), (pid,))


@pytest.mark.skipif(architecture() not in ("x86_64", "aarch64"), reason="the number of exit(2) is not known")
def test_a_process_whose_main_thread_has_ended_is_found() -> None:
    pid, inode, _, hidden = ask(ENDED_LEADER)
    assert hidden == (pid,), inode


@pytest.mark.needs("KCMP")
def test_a_table_that_all_threads_share_is_not_read_again() -> None:
    pid, _, plain, hidden = ask(MANY_THREADS)
    assert (plain, hidden) == ((pid,), ())


@pytest.mark.needs("IO_URING_NAMES_SOCKETS")
def test_a_socket_that_is_registered_with_io_uring_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        inode = os.fstat(sock.fileno()).st_ino
        ring = ring_with(sock)
    assert ring is not None
    try:
        assert socket_holders([inode]).by_inode == {}
        assert hidden_holders([inode]) == {inode: (os.getpid(),)}
    finally:
        os.close(ring)


def test_nothing_is_read_for_nothing() -> None:
    assert hidden_holders([0], "/no-such-proc") == {}
