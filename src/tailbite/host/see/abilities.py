"""What this kernel can do against self-connects. Asked of the kernel itself wherever it answers without harm."""

from __future__ import annotations

import errno
import gzip
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from tailbite.core.address import Endpoint, FourTuple
from tailbite.core.selection import Selection
from tailbite.kernel.release import kernel_release, parse_version
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import supports_local_port_range

__all__ = ["Ability", "kernel_abilities", "port_selection"]


@dataclass(frozen=True, slots=True)
class Ability:
    """Something a kernel may be able to do.

    Attributes:
        name: what it is called.
        since: the first Linux that has it, or the option it must be built with.
        present: True or False; None if the kernel does not say.
        use: what it is good for, in a few words.
    """

    name: str
    since: str
    present: bool | None
    use: str


def kernel_abilities() -> tuple[Ability, ...]:
    """Return what the running kernel can do. Needs no privilege, and changes nothing."""
    return (
        Ability(
            "IP_LOCAL_PORT_RANGE",
            "Linux 6.3",
            supports_local_port_range(),
            "tailbite steers a socket's source port with it; without, it binds and looks first",
        ),
        Ability("SOCK_DESTROY", "CONFIG_INET_DIAG_DESTROY", _can_destroy(), "tailbite fix --kill, ss -K"),
        Ability("xt_bpf", "CONFIG_NETFILTER_XT_MATCH_BPF", _has_xt_bpf(), "tailbite host-guard"),
    )


def port_selection(of: str | None = None) -> Selection:
    """Return how a Linux of this release draws source ports; the running one if none is given."""
    version = parse_version(of if of is not None else kernel_release()) or (99, 0)
    if version >= (5, 18):
        return Selection.STRIDES
    return Selection.BY_TWO if version >= (4, 2) else Selection.ONE_BY_ONE


def _can_destroy() -> bool | None:
    # Port 0 belongs to nobody. A kernel that can destroy looks for the socket before it asks who wants that.
    nobody = Endpoint("127.0.0.1", 0)
    target = TcpSocket(socket.AF_INET, TcpState.ESTABLISHED, FourTuple(nobody, nobody), 0, 0, 0, 0, 0, (0, 0))
    try:
        with SockDiag() as diag:
            diag.destroy(target)
    except OSError as error:
        return {errno.ENOENT: True, errno.EOPNOTSUPP: False}.get(error.errno or 0)
    return True


def _has_xt_bpf() -> bool | None:
    try:
        if "bpf" in Path("/proc/net/ip_tables_matches").read_text(encoding="ascii").split():
            return True
    except OSError:
        pass  # not root, or no iptables used yet
    wanted = _configured("CONFIG_NETFILTER_XT_MATCH_BPF")
    if wanted == "m":  # built as a module, which must be there
        modules = Path("/lib/modules") / kernel_release() / "modules.dep"
        try:
            return "/xt_bpf.ko" in modules.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    return None if wanted is None else wanted == "y"


def _configured(option: str) -> str | None:
    """Return "y", "m" or "n" as the kernel was built; None if its configuration is not published here."""
    for read in (_config_of_running, _config_in_boot):
        try:
            match = re.search(rf"^{option}=([ym])$", read(), re.MULTILINE)
        except (OSError, EOFError):
            continue
        return match[1] if match else "n"
    return None


def _config_of_running() -> str:
    return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode("ascii", "replace")


def _config_in_boot() -> str:
    return Path(f"/boot/config-{kernel_release()}").read_text(encoding="ascii", errors="replace")
