"""Bytes read from another process are those it has there."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from tailbite.kernel.memory import MemoryReader, can_read_memory, yama_scope

pytestmark = pytest.mark.skipif(not can_read_memory(), reason="this system forbids process_vm_readv(2)")

CODE = """
import ctypes
buffer = ctypes.create_string_buffer(b"sockaddr", 8)
print(ctypes.addressof(buffer), flush=True)
input()
"""


def test_a_child_s_buffer() -> None:
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address = int(child.stdout.readline())
        reader = MemoryReader(16)
        assert reader.read(child.pid, address, 8) == 8
        assert bytes(reader.buffer[:8]) == b"sockaddr"
        assert reader.read(child.pid, address, 4711) == 16  # no more than fit into it
        with pytest.raises(OSError, match="process_vm_readv") as caught:
            reader.read(child.pid, 8, 8)
        assert caught.value.errno == errno.EFAULT
        child.stdin.write("\n")


def test_a_process_that_is_gone_is_said_to_be_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
        with pytest.raises(ProcessLookupError):
            MemoryReader(8).read(child.pid, 4096, 8)


def test_yama_has_a_scope() -> None:
    assert yama_scope() in (0, 1, 2, 3)
