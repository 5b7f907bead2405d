"""Abilities of the running kernel that tests need, each asked of the kernel itself and never read off its release.

``@pytest.mark.needs("SOCK_DESTROY")`` skips a test visibly where the kernel lacks the ability; with ``CI=true`` it
fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from support.trap import PORT, wait_for_time_wait
from tailbite.core.selection import Selection
from tailbite.guards.program.probe import reports_end
from tailbite.host.see.port_selection import running_selection
from tailbite.kernel import namespace
from tailbite.kernel.libc import architecture
from tailbite.kernel.pidfd import can_copy_descriptors, can_watch_processes
from tailbite.kernel.seccomp import ABIS
from tailbite.kernel.sock_diag import SockDiag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ABILITIES", "SLOW_LOOPBACK", "has_ability"]

SLOW_LOOPBACK = (
    *("qdisc", "add", "dev", "lo", "root", "tbf"),
    *("rate", "4kbit", "burst", "100", "latency", "10s"),
)
"""Words of tc(8): half a kilobyte a second, of which 100 bytes at once."""


def has_ability(name: str) -> bool:
    """Tell whether the running kernel has an ability of :data:`ABILITIES`.

    Raises:
        LookupError: there is no ability of that name; the error lists them.
    """
    if name not in ABILITIES:
        raise LookupError(f"{name!r} is not an ability; there are {', '.join(sorted(ABILITIES))}")
    return ABILITIES[name]()


@cache
def _ip_local_port_range() -> bool:
    with socket.socket() as sock:
        return _allowed(lambda: sock.setsockopt(socket.IPPROTO_IP, 51, 0))


@cache
def _both_parities_of_range() -> bool:
    """Draw ports for sockets with a range of their own: of both parities since Linux 6.8."""
    if not _ip_local_port_range():
        return False
    with namespace.fresh_network():
        ports = set()
        for _ in range(64):
            with socket.socket() as sock:
                sock.setsockopt(socket.IPPROTO_IP, 51, struct.pack("=I", 40000 | 40007 << 16))
                sock.connect_ex(("127.0.0.1", 9))
                ports.add(sock.getsockname()[1] % 2)
        return ports == {0, 1}


@cache
def _random_strides() -> bool:
    """Measure the way to choose source ports: in random strides since Linux 5.18 and the stable kernels of 2022."""
    with namespace.fresh_network():
        return running_selection().selection is Selection.STRIDES


@cache
def _port_step_width() -> bool:
    return Path("/proc/sys/net/ipv4/ip_local_port_step_width").exists()


@cache
def _so_netns_cookie() -> bool:
    with socket.socket() as sock:
        return _allowed(lambda: sock.getsockopt(socket.SOL_SOCKET, 71, 8))


@cache
def _sock_destroy() -> bool:
    """Destroy an established self-connect."""
    with namespace.fresh_network(), _self_connected():
        return _allowed(_destroy_all)


@cache
def _sock_destroy_time_wait() -> bool:
    """Destroy the TIME-WAIT that an ordinary close leaves; Linux refuses it up to 5.10 at least."""
    with namespace.fresh_network():
        with _self_connected():
            pass
        wait_for_time_wait()
        return _allowed(_destroy_all)


@cache
def _bound_sockets_listed() -> bool:
    """Find a socket that is bound and does not listen in a dump (Linux 6.8)."""
    with namespace.fresh_network(), socket.socket() as sock, SockDiag() as diag:
        sock.bind(("127.0.0.1", PORT))
        return any(listed.endpoints.local.port == PORT for listed in diag.dump())


def ring_with(sock: socket.socket) -> int | None:
    """Return an io_uring in which a socket is registered; None where the system has none or allows none."""
    libc = ctypes.CDLL(None)
    ring: int = libc.syscall(425, 8, (ctypes.c_uint8 * 120)())  # io_uring_setup(2), the same number everywhere
    if ring < 0:
        return None
    if libc.syscall(427, ring, 2, (ctypes.c_int * 1)(sock.fileno()), 1) != 0:  # IORING_REGISTER_FILES
        os.close(ring)
        return None
    return ring


@cache
def _io_uring_names_sockets() -> bool:
    """Register a socket with io_uring, and find its name in fdinfo; Linux 5.10 prints none."""
    with socket.socket() as sock:
        ring = ring_with(sock)
        if ring is None:
            return False
        try:
            return f"socket:[{os.fstat(sock.fileno()).st_ino}]" in Path(f"/proc/self/fdinfo/{ring}").read_text()
        finally:
            os.close(ring)


@cache
def _kcmp() -> bool:
    """Compare this process's table of descriptors with itself by kcmp(2)."""
    number = {"x86_64": 312, "aarch64": 272}.get(architecture())
    return number is not None and ctypes.CDLL(None).syscall(number, os.getpid(), os.getpid(), 2, 0, 0) == 0


@cache
def _pidfd_getfd() -> bool:
    return can_copy_descriptors()


@cache
def _seccomp_listener() -> bool:
    """Ask for the sizes of seccomp's notifications (SECCOMP_GET_NOTIF_SIZES, Linux 5.0)."""
    sizes = ctypes.create_string_buffer(6)
    abi = ABIS.get(architecture())
    return abi is not None and bool(ctypes.CDLL(None).syscall(abi.seccomp, 3, 0, sizes) == 0)


@cache
def _seccomp_reports_end() -> bool:
    """Let a call run through a listener, and learn that its process has ended (Linux 5.8)."""
    return _seccomp_listener() and reports_end()


@cache
def _duplicate_sack() -> bool:
    """Capture a self-connect: newer kernels put a SACK option (RFC 2883) into its third segment."""
    with namespace.fresh_network(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as capture:
        with _self_connected(abort=True):
            pass
        capture.settimeout(30)
        packets = [capture.recv(200) for _ in range(6)]  # each of three segments, as it leaves and as it arrives
        return any(_has_sack_option(packet[20:]) for packet in packets)


@cache
def _xt_bpf() -> bool:
    return _takes_bpf_rule("iptables")


@cache
def _xt_bpf_through_nftables() -> bool:
    return _takes_bpf_rule("iptables-nft")


@cache
def _xt_bpf_through_legacy() -> bool:
    return _takes_bpf_rule("iptables-legacy")


@cache
def _iptables() -> bool:
    """Add a plain rule with the default iptables of this machine; the nftables variant needs nft_compat."""
    return _takes_rule("iptables", "-j", "ACCEPT")


@cache
def _mptcp() -> bool:
    return _allowed(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP).close())


@cache
def _nftables() -> bool:
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if nft is None:
        return True  # the test asks for the program, and says that it is missing
    with namespace.fresh_network():
        return subprocess.run([nft, "add", "table", "ip", "probe"], check=False, capture_output=True).returncode == 0


@cache
def _sch_tbf() -> bool:
    """Give ``lo`` a token bucket (tc-tbf(8)), so that packets wait."""
    tc = shutil.which("tc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if tc is None:
        return True  # the test asks for the program, and says that it is missing
    with namespace.fresh_network():
        return subprocess.run([tc, *SLOW_LOOPBACK], check=False, capture_output=True).returncode == 0


@cache
def _pidfd_open() -> bool:
    return can_watch_processes()


@cache
def _proc_syscall() -> bool:
    """Read the call that this process makes; User Mode Linux has no such file (CONFIG_HAVE_ARCH_TRACEHOOK)."""
    return _allowed(lambda: Path("/proc/self/syscall").read_bytes())


@cache
def _bpf_tracepoint() -> bool:
    """Attach an eBPF program to a tracepoint: root of the machine may, where no lockdown or profile forbids it."""
    from tailbite.kernel.established_events import EstablishedEvents

    return _allowed(lambda: EstablishedEvents().close())


ABILITIES: dict[str, Callable[[], bool]] = {
    "BPF_TRACEPOINT": _bpf_tracepoint,
    "BOUND_SOCKETS_LISTED": _bound_sockets_listed,
    "BOTH_PARITIES_OF_RANGE": _both_parities_of_range,
    "DUPLICATE_SACK": _duplicate_sack,
    "IO_URING_NAMES_SOCKETS": _io_uring_names_sockets,
    "IPTABLES": _iptables,
    "IP_LOCAL_PORT_RANGE": _ip_local_port_range,
    "KCMP": _kcmp,
    "MPTCP": _mptcp,
    "NFTABLES": _nftables,
    "PIDFD_GETFD": _pidfd_getfd,
    "PIDFD_OPEN": _pidfd_open,
    "PORT_STEP_WIDTH": _port_step_width,
    "PROC_SYSCALL": _proc_syscall,
    "RANDOM_STRIDES": _random_strides,
    "SCH_TBF": _sch_tbf,
    "SECCOMP_LISTENER": _seccomp_listener,
    "SECCOMP_REPORTS_END": _seccomp_reports_end,
    "SOCK_DESTROY": _sock_destroy,
    "SOCK_DESTROY_TIME_WAIT": _sock_destroy_time_wait,
    "SO_NETNS_COOKIE": _so_netns_cookie,
    "XT_BPF": _xt_bpf,
    "XT_BPF_LEGACY": _xt_bpf_through_legacy,
    "XT_BPF_NFT": _xt_bpf_through_nftables,
}


def _allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def _has_sack_option(segment: bytes) -> bool:
    """Look for the option of kind 5 (SACK, RFC 2018) in a TCP header."""
    options = segment[20 : (segment[12] >> 4) * 4]
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 5:
            return True
        at += 1 if options[at] == 1 else max(options[at + 1], 2)
    return False


@contextlib.contextmanager
def _self_connected(*, abort: bool = False) -> Iterator[None]:
    """Hold a connection of PORT to itself."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        if abort:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        yield


def _destroy_all() -> None:
    with SockDiag() as diag:
        for listed in list(diag.dump()):
            if listed.endpoints.local.port == PORT:
                diag.destroy(listed)


def _takes_bpf_rule(program: str) -> bool:
    return _takes_rule(program, "-m", "bpf", "--bytecode", "1,6 0 0 0", "-j", "ACCEPT")


def _takes_rule(program: str, *rule: str) -> bool:
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        return True  # the test asks for the program, and says that it is missing
    with namespace.fresh_network():
        environment = {**os.environ, "XTABLES_LOCKFILE": "/dev/null"}
        command = [path, "-w", "5", "-I", "INPUT", *rule]
        return subprocess.run(command, check=False, capture_output=True, env=environment).returncode == 0
