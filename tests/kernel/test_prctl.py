"""Attributes set by prctl(2) have the effect that the kernel promises."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tailbite.kernel.prctl import signal_when_parent_ends


def test_a_child_dies_with_its_parent() -> None:
    """The grandchild asks to die with the child; the child is killed; the pipe both hold closes."""
    code = (
        "import os, signal, sys\n"
        "from tailbite.kernel.prctl import die_with_parent\n"
        "ready, told = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    die_with_parent(); os.write(told, b'.'); signal.pause()\n"
        "os.read(ready, 1); print('ready', flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == b""  # ends only when the grandchild is gone too


def test_orphans_become_children_of_a_subreaper() -> None:
    """The child forks a grandchild and ends; the grandchild's parent is the subreaper then, not init."""
    code = (
        "import os, sys\n"
        "from tailbite.kernel.prctl import become_subreaper\n"
        "if 'subreaper' in sys.argv: become_subreaper()\n"
        "read, write = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    me = os.getpid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    while os.getppid() == me: pass\n"
        "    os.write(write, str(os.getppid()).encode()); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(int(os.read(read, 32)) == os.getpid())\n"
    )
    for argument, expected in (("subreaper", "True"), ("plain", "False")):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, timeout=60)
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_a_process_can_be_named() -> None:
    code = "from tailbite.kernel.prctl import name_process; name_process('tailbite-and-more'); input()"
    with subprocess.Popen([sys.executable, "-c", f"print(flush=True); {code}"], stdin=-1, stdout=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        name = ""
        while name != "tailbite-and-mo":  # the test's time limit ends a failure
            name = Path(f"/proc/{child.pid}/comm").read_text().strip()
        child.stdin.write(b"\n")


def test_an_invalid_signal_is_refused() -> None:
    with pytest.raises(OSError, match="PR_SET_PDEATHSIG"):
        signal_when_parent_ends(4711)
