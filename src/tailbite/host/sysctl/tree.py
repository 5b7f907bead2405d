"""The sysctl.d(5) files of a system: which there are, in which order they are applied, and what they say.

Every path is one *inside* ``root``: that is how a test, or an image that is not booted, has a tree of its own.
Symbolic links are followed inside it as well.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.see.records import NotVisible
from tailbite.host.sysctl.text import BootOrder, ConfigFile
from tailbite.host.sysctl.value import RESERVED
from tailbite.kernel.procfs import is_in_pid_namespace
from tailbite.kernel.sockopt import netns_cookie

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.see.records import Namespace

__all__ = ["DIRECTORIES", "ENCODING", "HOST", "Tree", "is_host_namespace", "path_below", "read_tree", "resolve_links"]

DIRECTORIES = (
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
)
"""The directories, the highest rank first (sysctl.d(5); /usr/local/lib and /lib as in sysctl(8))."""

HOST = Path("/")
_LAST = "/etc/sysctl.conf"
_INITS = ("systemd", "init", "openrc-init", "runit", "s6-svscan", "dinit", "procd", "finit")
"""Names of init programs: each applies the files, or starts a service that does."""
_MOST_UNREAD = 1000
_LARGEST_UNREAD = 1 << 20
_MOST_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True, slots=True)
class Tree:
    """The files that would be applied at the next boot.

    Attributes:
        orders: for each program that may do it, the files in its order.
        unread: files in these directories that no program reads, because of their names or their place; or, if
            the name begins with a dot, that systemd does not read.
        masked: files that are not read because one of the same name in a directory of higher rank is.
        not_files: paths of directories, links to nothing and the like, that have the name of a file.
        kernel_ports: the ports that the kernel's command line reserves, unless a file sets the list (Linux 5.8).
        uses_systemd: True if the system has systemd-sysctl, which does not read /etc/sysctl.conf.
        not_visible: what could not be read.
        not_inspected: what could not be read of the files that no program reads.
        root: where the files are.
    """

    orders: tuple[BootOrder, ...]
    unread: tuple[ConfigFile, ...] = ()
    masked: tuple[ConfigFile, ...] = ()
    not_files: frozenset[str] = frozenset()
    kernel_ports: PortSet = PortSet()  # noqa: RUF009 - a frozen value
    uses_systemd: bool = False
    not_visible: tuple[NotVisible, ...] = ()
    not_inspected: tuple[NotVisible, ...] = ()
    root: Path = HOST


def read_tree(root: Path = HOST) -> Tree:
    """Read every file that is applied at boot. One that cannot be read becomes ``not_visible``."""
    not_visible: list[NotVisible] = []
    chosen: dict[str, ConfigFile | None] = {}
    masked: list[ConfigFile] = []
    not_files: list[str] = []
    for directory in DIRECTORIES:
        for name in sorted(_names(root, directory, not_visible)):
            file = _read(root, f"{directory}/{name}", not_visible)
            # What is not a file, say a directory or a link to nothing, hides those of its name all the same.
            first = chosen.setdefault(name, file)
            if file is None:
                not_files.append(f"{directory}/{name}")
            elif first is None or file.target != first.target:
                masked.append(file)
    named = tuple(file for name in sorted(chosen) if (file := chosen[name]) is not None)
    last = _read(root, _LAST, not_visible)
    not_inspected: list[NotVisible] = []
    unread = tuple(file for directory in DIRECTORIES for file in _unread(root, directory, not_inspected))
    return Tree(
        (
            BootOrder("systemd-sysctl", tuple(file for file in named if not file.name.startswith("."))),
            BootOrder("sysctl --system", (*named, last) if last else named, _LAST, in_turn=True),
        ),
        unread,
        tuple(masked),
        frozenset(not_files),
        _kernel_ports() if root == HOST else PortSet(),
        any(path_below(root, f"{folder}/systemd-sysctl").exists() for folder in ("/usr/lib/systemd", "/lib/systemd")),
        tuple(not_visible),
        tuple(not_inspected),
        root,
    )


def _kernel_ports() -> PortSet:
    """Return the ports of ``sysctl.net.ipv4.ip_local_reserved_ports=...`` on the kernel's command line."""
    try:
        words = Path("/proc/cmdline").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return PortSet()
    found = [word.partition("=")[2] for word in words if word.replace("/", ".").startswith(f"sysctl.{RESERVED.key}=")]
    return (RESERVED.parse(found[-1]) if found else None) or PortSet()


def _unread(root: Path, folder: str, not_inspected: list[NotVisible]) -> Iterator[ConfigFile]:
    """Yield small files in a directory that are not applied: another ending, a hidden name, a sub-folder."""
    try:
        base = path_below(root, resolve_links(root, folder))
        entries = sorted(base.glob("**/*"))[:_MOST_UNREAD]
    except OSError:
        return
    for entry in entries:
        name = str(entry.relative_to(base))
        if (name.endswith(".conf") and not name.startswith(".") and "/" not in name) or name.endswith(".tmp"):
            continue
        try:
            if stat.S_ISREG(entry.lstat().st_mode) and entry.stat().st_size <= _LARGEST_UNREAD:
                yield ConfigFile(f"{folder}/{name}", f"{folder}/{name}", entry.read_bytes().decode(**ENCODING))
        except PermissionError as error:
            not_inspected.append(NotVisible.of(f"{folder}/{name}, which is not read at boot", error))
        except OSError:
            continue


def is_host_namespace(namespace: Namespace) -> bool:
    """Tell whether what the next boot sets will be this namespace's: whether it is that of process 1.

    Where process 1 cannot be inspected, the kernel's cookie decides: it numbers network namespaces from 1, which is
    the first one (SO_NETNS_COOKIE, Linux 5.14; net/core/net_namespace.c). In doubt it is not the host's: process 1 of
    a PID namespace reads the files of sysctl.d(5) at its start only if it is an init.
    """
    try:
        if namespace.inode != Path("/proc/1/ns/net").stat().st_ino:
            return False
        return not is_in_pid_namespace() or Path("/proc/1/comm").read_text(encoding="utf-8").strip() in _INITS
    except OSError:
        return namespace.is_own and _has_first_cookie()


def _has_first_cookie() -> bool:
    try:
        with socket.socket() as sock:
            return int.from_bytes(netns_cookie(sock), sys.byteorder) == 1
    except OSError:
        return False


def _names(root: Path, directory: str, not_visible: list[NotVisible]) -> Iterator[str]:
    try:
        entries = [entry.name for entry in path_below(root, resolve_links(root, directory)).iterdir()]
    except FileNotFoundError:
        return
    except OSError as error:
        not_visible.append(NotVisible.of(f"what {directory} sets at boot", error))
        return
    yield from (name for name in entries if name.endswith(".conf"))


def _read(root: Path, path: str, not_visible: list[NotVisible]) -> ConfigFile | None:
    """Return a file, empty if it is a link to /dev/null (which masks those of its name), None if it is absent."""
    try:
        target = resolve_links(root, path)
        file = path_below(root, target)
        if target == "/dev/null":
            return ConfigFile(path, target, "")
        if not stat.S_ISREG(file.stat().st_mode):
            return None  # a directory; or a FIFO, whose open(2) would wait for a writer
        return ConfigFile(path, target, file.read_bytes().decode(**ENCODING))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None  # nobody can read it, so nobody applies it
        not_visible.append(NotVisible.of(f"what {path} sets at boot", error))
        return None


def resolve_links(root: Path, path: str) -> str:
    """Follow the symbolic links of ``path`` as a system that runs in ``root`` would; the last part need not exist.

    Raises:
        OSError: too many links (ELOOP), or not permitted.
    """
    done: list[str] = []
    todo = path.strip("/").split("/")[::-1]
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            link = str(path_below(root, "/".join((*done, part))).readlink())
        except FileNotFoundError:
            link = None
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is there, and no link
                raise
            link = None
        if link is None:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if link.startswith("/"):
            done.clear()
        todo.extend(link.split("/")[::-1])
    return "/" + "/".join(done)


def path_below(root: Path, path: str) -> Path:
    """Return where ``path``, without links, lies from the outside."""
    return root / path.lstrip("/")
