"""Descriptors copied from another process refer to the same open file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from support.guarded import run
from support.limits import without
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


@pytest.mark.needs("KCMP")  # without it, no thread but the first is copied from
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_before_linux_6_9_a_thread_with_descriptors_of_its_own_cannot_be_copied_from() -> None:
    """Its process's table has other descriptors under the same numbers."""
    code = (
        "import errno, os, sys, threading\n"
        "from tailbite.kernel.namespace import CLONE_FILES, unshare\n"
        "from tailbite.kernel.pidfd import open_thread\n"
        "def open_from_another(go, tids):\n"
        "    if go: unshare(CLONE_FILES)\n"
        "    tids.append(threading.get_native_id()); ready.set(); leave.wait()\n"
        "for own in (False, True):\n"
        "    ready, leave, tids = threading.Event(), threading.Event(), []\n"
        "    thread = threading.Thread(target=open_from_another, args=(own, tids)); thread.start(); ready.wait()\n"
        "    try: os.close(open_thread(tids[0])); print('copied')\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
        "    leave.set(); thread.join()\n"
    )
    done = run([*without("PIDFD_THREAD"), sys.executable, "-c", code])
    assert done.stdout.split() == ["copied", "ENOTSUP"], done.stderr
