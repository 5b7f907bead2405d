"""Namespaces for pytest-xdist's workers: commands that inspect every process see only their own worker's."""

from __future__ import annotations

import shlex
import subprocess
import sys

UNSHARE = ("unshare", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
JOURNAL = "/var/lib/tailbite"
MEMORY = "/dev/shm"
OWN = f"for folder in {JOURNAL} {MEMORY}; do mkdir -p $folder && mount -t tmpfs none $folder; done 2>/dev/null"
INIT = ("sh", "-c", f'{OWN}; "$@"; exit $?', "sh")
"""The first process of a PID namespace adopts orphans; a shell that waits for its child reaps them as well.

`tailbite fix --apply` keeps its journal and its lock in one folder of the machine: each worker gets one of its own,
in the mount namespace that comes with its /proc. Servers that a test kills leave shared memory behind, System V's and
files in /dev/shm: it goes with the worker.
"""


def worker_command() -> str | None:
    """Return the command that starts a worker's Python in its own PID namespace, or None where that is not allowed.

    Containers often forbid mounting /proc; the workers then see one another's processes.
    """
    if not _allowed():
        return None
    return shlex.join([*UNSHARE, *INIT, sys.executable])


def _allowed() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
