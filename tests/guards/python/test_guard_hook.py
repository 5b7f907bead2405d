"""``guard()`` is on, or raises: it does not rely on an audit hook that Python did not install."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from support.trap import PORT, Trap
from tailbite.errors import GuardError, TailbiteError

FORBIDDING = f"""
import socket, sys, tailbite
def forbid(event, args):
    if event == "sys.addaudithook":
        raise {{error}}("no more hooks")
sys.addaudithook(forbid)
guard = tailbite.guards.python.guard
try:
    tailbite.guard()
except BaseException as error:
    print(type(error).__name__, isinstance(error, RuntimeError), guard._holds, guard.Guard(None).is_on, error)
sock = socket.socket()
print(sock.connect_ex(("127.0.0.1", {PORT})))
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("error", ["RuntimeError", "PermissionError", "KeyboardInterrupt"])
def test_a_hook_that_forbids_further_hooks_makes_guard_raise(error: str) -> None:
    """Python hides the refusal of any Exception; a BaseException it passes on itself."""
    Trap().set()
    source = "import tailbite.guards.python.guard\n" + FORBIDDING.format(error=error)
    done = subprocess.run((sys.executable, "-c", source), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    raised, connected = done.stdout.splitlines()
    assert connected == "0", "the control did not self-connect"
    if error == "KeyboardInterrupt":
        assert raised.startswith("KeyboardInterrupt False 0 False")
    else:
        assert raised.startswith("GuardError True 0 False guard() is not on: an audit hook of this process forbids")
        assert "tailbite run" in raised


def test_the_error_is_what_users_catch_and_survives_pickling() -> None:
    assert issubclass(GuardError, TailbiteError)
    assert issubclass(GuardError, RuntimeError)
    assert str(pickle.loads(pickle.dumps(GuardError()))) == str(GuardError())
