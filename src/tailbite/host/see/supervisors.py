"""The supervisor of a process, other than systemd and container engines: supervisord, runit, s6, daemontools, OpenRC.

Such a program starts a service again when it ends, so that a pid that is killed comes back. It is an ancestor of the
process; OpenRC has none, and puts its services into control groups of their own (rc-cgroup.sh). What a person
started from a terminal or a session does not belong to the service that the session came from.
"""
# ruff: noqa: PTH115, PTH123

from __future__ import annotations

import os
import re

from tailbite.host.see.records import Supervisor
from tailbite.kernel import procfs

__all__ = ["supervisor_of"]

_FOLDERS = {"runsv": "runit", "s6-supervise": "s6", "supervise": "daemontools"}
"""Names of programs that supervise one service, in whose folder they run, by the project that they belong to."""
_SUPERVISORD = "supervisord"
_OPENRC = re.compile(r"^(?:\d+:name=openrc:/|0::/openrc\.)([^/\n]+)", re.MULTILINE)
_GROUP, _NAME = "SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME"  # supervisord sets both (subprocess.py)
_MOST_ANCESTORS = 32
_PARENT, _TERMINAL = 1, 4  # fields of /proc/PID/stat behind the name (proc(5))
_STARTERS = frozenset({"sshd", "sshd-session", "login", "cron", "crond", "atd", "tmux: server", "screen"})
"""Services whose children are sessions and jobs of people, which a restart of the service does not restart."""


def supervisor_of(pid: int, cgroup: str) -> Supervisor | None:
    """Return what supervises a process; None if nothing that is known here does.

    Args:
        pid: the process.
        cgroup: the text of its ``/proc/PID/cgroup``.
    """
    if _has_terminal(pid):
        return None
    ancestor = pid
    for _ in range(_MOST_ANCESTORS):
        ancestor = _stat(ancestor, _PARENT)
        name = _read(ancestor, "comm").removesuffix("\n") if ancestor > 0 else ""
        if not name or name in _STARTERS or _has_terminal(ancestor):
            break
        if project := _FOLDERS.get(name):
            return Supervisor(project, folder) if (folder := _folder(ancestor)) else None
        if name == _SUPERVISORD:
            return Supervisor(_SUPERVISORD, service) if (service := _program(pid)) else None
    if name in _STARTERS:
        return None
    found = _OPENRC.search(cgroup)
    return Supervisor("openrc", found[1]) if found else None


def _program(pid: int) -> str:
    """Return the name of a program of supervisord, GROUP:NAME where these differ; "" if it does not say."""
    variables = dict(part.partition("=")[::2] for part in _read(pid, "environ").split("\0"))
    group, name = variables.get(_GROUP, ""), variables.get(_NAME, "")
    return name if group == name else f"{group}:{name}".strip(":")


def _has_terminal(pid: int) -> bool:
    """Tell whether a process belongs to a terminal, from which a person started it."""
    return _stat(pid, _TERMINAL) != 0


def _stat(pid: int, field: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[field]) if len(fields) > field else 0


def _folder(pid: int) -> str:
    try:
        return os.readlink(f"{procfs.PROC}/{pid}/cwd")
    except OSError:
        return ""


def _read(pid: int, name: str) -> str:
    try:
        with open(f"{procfs.PROC}/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
