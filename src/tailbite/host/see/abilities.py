"""Abilities of this kernel against self-connects, asked of the kernel itself wherever it answers without harm."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint, FourTuple
from tailbite.core.selection import Selection
from tailbite.kernel import namespace
from tailbite.kernel.capabilities import CAP_NET_ADMIN, CAP_SYS_ADMIN, has_capability
from tailbite.kernel.end_socket import LACKS_DESTROY
from tailbite.kernel.release import kernel_release, kernel_version, parse_version
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import supports_local_port_range

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Ability",
    "SocketAbilities",
    "can_destroy",
    "kernel_abilities",
    "lists_bound_sockets",
    "port_selection",
    "run_options",
    "socket_abilities",
]

_IP_FREEBIND = 15  # include/uapi/linux/in.h
_PAUSES = (0.0, 0.001, 0.01, 0.1, 1.0, 4.0)
"""Seconds to wait for a TIME-WAIT before the ability to destroy it is called unknown."""


@dataclass(frozen=True, slots=True)
class Ability:
    """Something a kernel may be able to do.

    Attributes:
        name: its name.
        since: the first Linux that has it, or the option it must be built with.
        present: True or False; None if the kernel does not say.
        use: its purpose, in a few words.
    """

    name: str
    since: str
    present: bool | None
    use: str


@dataclass(frozen=True, slots=True)
class SocketAbilities:
    """The abilities that decide which remedies help against a socket; None for one that is not known.

    Attributes:
        destroy: SOCK_DESTROY ends a connection (``ss -K``, ``tailbite fix --kill``).
        destroy_time_wait: SOCK_DESTROY ends a TIME-WAIT as well.
        repair: this process may end a TIME-WAIT from a port to itself by TCP_REPAIR (CAP_NET_ADMIN).
        run: the options with which ``tailbite run`` guards a client, see :func:`run_options`.
    """

    destroy: bool | None = True
    destroy_time_wait: bool | None = True
    repair: bool = True
    run: str | None = ""


def kernel_abilities() -> tuple[Ability, ...]:
    """Return what the running kernel can do. Needs no privilege, and changes nothing on the host."""
    return (
        Ability(
            "IP_LOCAL_PORT_RANGE",
            "Linux 6.3, and 6.1 of Debian 12",
            supports_local_port_range(),
            "tailbite steers a socket's source port with it",
        ),
        Ability("SOCK_DESTROY", "CONFIG_INET_DIAG_DESTROY", can_destroy(), "tailbite fix --kill, ss -K"),
        Ability(
            "SOCK_DESTROY of TIME-WAIT",
            "a Linux between 5.10 and 6.1",
            _can_destroy_time_wait(),
            "tailbite fix --kill after a self-connect was closed; else it uses TCP_REPAIR, as root",
        ),
        Ability("xt_bpf", "CONFIG_NETFILTER_XT_MATCH_BPF", _has_xt_bpf(), "tailbite host-guard"),
    )


def socket_abilities(states: Iterable[TcpState] = ()) -> SocketAbilities:
    """Return the abilities that matter for sockets in these states; the others are not asked for."""
    wanted = set(states)
    return SocketAbilities(
        can_destroy() if wanted else None,
        _can_destroy_time_wait() if TcpState.TIME_WAIT in wanted else None,
        has_capability(CAP_NET_ADMIN) or os.geteuid() != 0,  # root has it
        run_options(),
    )


@cache
def run_options() -> str | None:
    """Return the options with which ``tailbite run`` guards any program here; once.

    Returns:
        "" if it needs none, " --port PORT" if it can only hold ports that are named, None if it can do neither.
    """
    from tailbite.guards.program.mechanism import Mechanism, choose, read_capabilities

    found = read_capabilities()
    if choose(found).mechanism is not Mechanism.NONE:
        return ""
    can_name = found.holds and choose(found, names_ports=True).mechanism is Mechanism.NAMED_PORTS
    return " --port PORT" if can_name else None


@cache
def lists_bound_sockets() -> bool:
    """Tell whether this kernel lists sockets that are only bound (Linux 6.8); once.

    A socket of our own is bound to a port that the kernel chooses, on an address of TEST-NET-1 (RFC 5737): no server
    uses that, so none is disturbed. That is done on older releases only, which may have the feature by a backport.
    Without a descriptor for it, the kernel's release decides.
    """
    if kernel_version() >= (6, 8):
        return True
    try:
        with socket.socket() as held, SockDiag() as diag:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            held.bind(("192.0.2.1", 0))
            return bool(diag.listing((TcpState.BOUND_INACTIVE,), local_port=held.getsockname()[1]).sockets)
    except OSError:
        return False


def port_selection(of: str | None = None) -> Selection:
    """Return how a Linux of this release chooses source ports; the running one if none is given."""
    version = parse_version(of if of is not None else kernel_release()) or (99, 0)
    if version >= (5, 18):
        return Selection.STRIDES
    return Selection.BY_TWO if version >= (4, 2) else Selection.ONE_BY_ONE


@cache
def can_destroy() -> bool | None:
    """Tell whether SOCK_DESTROY ends connections here; None if the kernel does not say."""
    # Port 0 belongs to nobody. A kernel that can destroy looks for the socket before it checks the privilege.
    nobody = Endpoint("127.0.0.1", 0)
    target = TcpSocket(socket.AF_INET, TcpState.ESTABLISHED, FourTuple(nobody, nobody), 0, 0, 0, 0, 0, (0, 0))
    try:
        with SockDiag() as diag:
            diag.destroy(target)
    except OSError as error:
        return True if error.errno == errno.ENOENT else False if error.errno in LACKS_DESTROY else None
    return True


@cache
def _can_destroy_time_wait() -> bool | None:
    """Make a TIME-WAIT in a network namespace of our own and destroy it; None where there can be no such namespace.

    Kernels up to at least 5.10 answer EOPNOTSUPP (seen on 5.4.119 and 5.10.262), 6.1 and later do it.
    """
    if can_destroy() is False:
        return False
    if has_capability(CAP_SYS_ADMIN):
        with contextlib.suppress(OSError), namespace.fresh_network():
            return _try_time_wait()
        return None
    return _try_in_child()


def _try_in_child() -> bool | None:
    child = os.fork()  # a user namespace is entered by a process that has one thread
    if child == 0:
        answer = 2
        try:
            namespace.enter_private_network()
            answer = {True: 1, False: 0, None: 2}[_try_time_wait()]
        finally:
            os._exit(answer)
    return {1: True, 0: False}.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _try_time_wait() -> bool | None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 9))
        sock.connect(("127.0.0.1", 9))
    with SockDiag() as diag:
        for one in _awaited_time_wait(diag):
            try:
                diag.destroy(one)
            except OSError as error:
                return False if error.errno in LACKS_DESTROY else None
            return True
    return None


def _awaited_time_wait(diag: SockDiag) -> tuple[TcpSocket, ...]:
    """List what is in TIME-WAIT; a busy loopback delivers the segments that lead to it after close(2) returned."""
    for pause in _PAUSES:
        time.sleep(pause)
        if found := diag.listing((TcpState.TIME_WAIT,)).sockets:
            return found
    return ()


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
