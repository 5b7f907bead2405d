"""The manager of a process, by the path of its cgroup: containers, one in another, the unit, and whose it is. Pure.

A program that a manager runs is restarted by that manager: a pid that is killed comes back, or it stays away although
the service is wanted. The path tells all of it (cgroups(7); "unit file names in cgroups" of systemd). Names of units
are left as the path has them: ``a\\x2db.service`` and ``a-b.service`` are two units (systemd.unit(5)).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from tailbite.host.see.records import Container
from tailbite.kernel import procfs

__all__ = ["Manager", "manager_of"]

_UNIT = re.compile(r"/([^/]+\.(?:service|socket|mount|swap))(?=/|$)")
_USER = re.compile(r"/user@(\d+)\.service(?=/|$)")
_QUADLET = "/libpod-payload-"  # --cgroups=split: the container lies in the unit that runs it
_RUNTIMES = (
    ("kubepods", "kubernetes"),
    ("cri-containerd", "kubernetes"),
    ("crio-", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
    ("/lxc", "lxc"),
    ("/machine-", "machinectl"),
    ("/systemd-nspawn@", "machinectl"),
)


@dataclass(frozen=True, slots=True)
class Manager:
    """The unit and the container that restart a process.

    Attributes:
        unit: the systemd unit; empty if none. In a container, one of the systemd that runs there.
        container: the innermost container, by short id or name; empty if none.
        runtime: the program that manages it: docker, podman, lxc, machinectl, kubernetes, or empty.
        within: the containers in which ``unit`` or ``container`` is known, the outermost first; empty if that is
            here.
        uid: the user whose own systemd or container engine it is; None for that of the system.
        is_instance: True for a user's systemd itself.
    """

    unit: str = ""
    container: str = ""
    runtime: str = ""
    within: tuple[Container, ...] = ()
    uid: int | None = None
    is_instance: bool = False


def manager_of(cgroup: str, own: str = "") -> Manager:
    """Return what manages the process with this ``/proc/PID/cgroup``.

    A login session (``session-3.scope``) and a transient scope are not units that can be restarted.

    Args:
        cgroup: the text.
        own: the text of the process that asks: containers that both are in do not count.
    """
    lines = [line.split(":", 2)[-1] for line in cgroup.splitlines()]
    mine = max((procfs.containers_in(line.split(":", 2)[-1]) for line in own.splitlines()), key=len, default=())
    # With cgroups v1 the hierarchies differ: the one that tells most is that of systemd or of the container engine.
    return max((_of_path(path, mine) for path in lines), key=_told, default=Manager())


def _told(found: Manager) -> tuple[bool, bool, bool]:
    return bool(found.container), bool(found.unit), found.is_instance


def _of_path(path: str, own: tuple[tuple[str, int], ...]) -> Manager:
    found = _without_pods(path)
    shared = sum(one[0] == other[0] for one, other in zip(found, own, strict=False))
    starts = [0, *(end for _, end in found)]
    around = tuple(
        Container(name, _runtime(path[start:end])) for (name, end), start in zip(found, starts, strict=False)
    )[shared:]
    inside, last = path[starts[-1] :], path[starts[-2] if found else 0 :]
    unit = _unit(inside)
    if not unit and around and _QUADLET in last:
        unit = _unit(last)  # its restart makes a new container; the engine would only stop and start the old one
        within = around[:-1]
    else:
        within = around if unit else around[:-1]
    users = _USER.findall(inside if unit and within == around else last)
    return Manager(
        unit,
        *((around[-1].name, around[-1].runtime) if around else ("", "")),
        within,
        int(users[-1]) if users else None,
        bool(users) and inside.endswith("/init.scope"),
    )


def _without_pods(path: str) -> list[tuple[str, int]]:
    """Return the containers in a path without the pods of podman: /libpod_parent/POD/CONTAINER."""
    found = procfs.containers_in(path)
    starts = [0, *(end for _, end in found)]
    inner = [path[start:end] for start, end in pairwise(starts)][1:]
    return [
        one
        for one, start, next_one in zip(found, starts, [*inner, ""], strict=False)
        if _runtime(path[start : one[1]]) != "podman" or not re.fullmatch("/[0-9a-f]{64}", next_one)
    ]


def _unit(path: str) -> str:
    """Return the innermost unit; systemd puts ``_`` before a name that cgroups use themselves (cg_escape)."""
    units = [name for name in _UNIT.findall(path) if not name.startswith("user@")]
    return units[-1].removeprefix("_") if units else ""


def _runtime(segment: str) -> str:
    return next((runtime for sign, runtime in _RUNTIMES if sign in segment), "")
