"""The file system of a client: mounts of its own, and for an image another root.

The mounts go with the client's mount namespace. All of this runs in the forks of :mod:`tailbite.audit.jail`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from tailbite.kernel.libc import libc

__all__ = ["enter_root", "mount_own"]

_MS_REC: Final = 1 << 14
_MS_PRIVATE: Final = 1 << 18
_MS_BIND: Final = 1 << 12


def mount_own(root: str | None) -> None:
    """Mount what a client must see of its own namespaces, where the system allows it.

    - ``/proc``, since programs look up their own pid there.
    - ``/dev/shm``, where shm_open(3) and sem_open(3) make their files: they outlive the process that made them, and
      a program that is killed cannot remove them.
    - ``/dev/mqueue``, which shows the message queues of the IPC namespace it was mounted in (mq_overview(7)).

    Args:
        root: the folder that will be the client's root; None for this system's.
    """
    mount = libc().mount
    if mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return
    with contextlib.suppress(OSError):
        _own_shared_memory()
    mount(b"mqueue", b"/dev/mqueue", b"mqueue", 0, None)
    mount(b"proc", os.fsencode(f"{root or ''}/proc"), b"proc", 0, None)
    if root is not None:
        mount(b"/dev", os.fsencode(f"{root}/dev"), None, _MS_BIND | _MS_REC, None)


def _own_shared_memory() -> None:
    """Mount a /dev/shm in which what is new goes with the namespace, and what was there stays in its place.

    The audit's folder, the working directory or a script may lie there: people set TMPDIR to /dev/shm.

    Raises:
        OSError: there is no /dev/shm.
    """
    mount = libc().mount
    before = os.open("/dev/shm", os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = [entry for entry in os.scandir(before) if entry.is_dir() or entry.is_file()]
        if mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"mode=1777") != 0:
            return
        for entry in entries:
            place = Path("/dev/shm", entry.name)
            (place.mkdir if entry.is_dir() else place.touch)()
            mount(os.fsencode(f"/proc/self/fd/{before}/{entry.name}"), bytes(place), None, _MS_BIND | _MS_REC, None)
    finally:
        os.close(before)


def enter_root(root: str, user: str) -> None:
    """Change the root, and become the user that the image names, as far as this process may."""
    os.chroot(root)
    if user and os.geteuid() == 0:
        number, group = _numbers(user)
        os.setgroups([])
        os.setgid(group)
        os.setuid(number)


def _numbers(user: str) -> tuple[int, int]:
    """Return the user and group number that ``user[:group]`` means in the /etc/passwd and /etc/group of the root.

    Raises:
        OSError: no such user or group.
    """
    name, _, group = user.partition(":")
    number, own_group = _look_up("/etc/passwd", name)
    return number, _look_up("/etc/group", group)[0] if group else own_group


def _look_up(file: str, name: str) -> tuple[int, int]:
    """Return the third and fourth field of a line as numbers; the name itself, if it is a number that has no line."""
    with contextlib.suppress(FileNotFoundError), open(file, encoding="utf-8") as lines:  # noqa: PTH123
        for line in lines:
            fields = line.rstrip("\n").split(":")
            if name in (fields[0], fields[2]):
                return int(fields[2]), int(fields[3]) if fields[3].isdecimal() else int(fields[2])
    if name.isdecimal():
        return int(name), 0
    raise OSError(errno.ENOENT, f"no user or group {name!r} in the image")
