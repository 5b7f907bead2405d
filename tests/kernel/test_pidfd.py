"""Descriptors copied from another process refer to the same open file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from tailbite.kernel.pidfd import can_copy_descriptors, copy_descriptor, open_thread

pytestmark = pytest.mark.skipif(not can_copy_descriptors(), reason="this system forbids pidfd_getfd(2)")


def test_a_copy_is_the_same_pipe() -> None:
    code = "import os; r, w = os.pipe(); print(w, flush=True); print(os.read(r, 5).decode())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        number = int(child.stdout.readline())
        pidfd = open_thread(child.pid)
        copy = copy_descriptor(pidfd, number)
        with pytest.raises(OSError, match="pidfd_getfd") as caught:
            copy_descriptor(pidfd, 9999)
        assert caught.value.errno == errno.EBADF
        os.write(copy, b"hello")  # the child ends then
        assert child.stdout.readline() == "hello\n"
    os.close(copy)
    os.close(pidfd)


def test_a_thread_that_is_gone_is_not_found() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
        with pytest.raises(ProcessLookupError):
            open_thread(child.pid)
