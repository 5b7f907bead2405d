"""Rules that answer for a port in front of all sockets: NAT of iptables and nftables, and IPVS.

Docker's published ports and kube-proxy's node ports are such rules: a client that dials the port is answered although
no socket has it, and a server that binds the port may never be reached. The programs ``iptables-save`` and ``nft``
list the rules; both need root. :attr:`Redirects.not_inspected` names what was not asked.
"""
# ruff: noqa: PTH123

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tailbite.host.see.firewall_rules import Rule, parse_iptables, parse_nft

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NO_REDIRECTS", "Redirects", "parse_ipvs", "redirects_of"]

_SECONDS = 5.0  # a listing of many thousand rules takes less
_EBPF = "eBPF programs that choose the socket (sk_lookup, XDP): bpftool prog"
_LEGACY = (("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save"))


@dataclass(frozen=True, slots=True)
class Redirects:
    """Rules about one port.

    Attributes:
        rules: the rules.
        not_inspected: what else can answer for a port and was not asked.
    """

    rules: tuple[Rule, ...] = ()
    not_inspected: tuple[str, ...] = ()


NO_REDIRECTS = Redirects()


class _NotListedError(Exception):
    """A program that lists rules is not installed, or did not list them; the message says which."""


def redirects_of(port: int) -> Redirects:
    """Return the rules about a port in the calling thread's network namespace. Starts a program only as root."""
    rules = list(parse_ipvs(_read("/proc/thread-self/net/ip_vs"), port))
    missed: list[str] = []
    if os.geteuid() != 0:
        missed.append("rules of nftables and iptables: nft list ruleset (needs root)")
    else:
        for listed in (_current_rules, _legacy_rules):
            try:
                rules += listed(port)
            except _NotListedError as error:
                missed.append(str(error))
    return Redirects(tuple(dict.fromkeys(rules)), (*missed, _EBPF))


def _current_rules(port: int) -> Iterator[Rule]:
    """Yield the rules that nft lists, with those of iptables-nft; without nft, those that iptables lists."""
    if _path_of("nft") is not None:
        yield from parse_nft(_output("nft", "list", "ruleset"), port)
        return
    if _path_of("iptables-save") is None:
        raise _NotListedError("rules of nftables and iptables: neither nft nor iptables-save is installed")
    for program in ("iptables-save", "ip6tables-save"):
        yield from parse_iptables(_output(program), port)


def _legacy_rules(port: int) -> Iterator[Rule]:
    for names, program in _LEGACY:
        if _read(f"/proc/thread-self/net/{names}").split():
            yield from parse_iptables(_output(program), port)


def parse_ipvs(text: str, port: int) -> Iterator[Rule]:
    """Yield the virtual TCP services of ``/proc/net/ip_vs`` on a port: ``TCP  0A090001:1F90 rr``."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == "TCP" and fields[1].upper().endswith(f":{port:04X}"):
            yield Rule(f"ipvs {' '.join(fields)}", destination=_ipvs_address(fields[1].rpartition(":")[0]))


def _ipvs_address(text: str) -> str:
    """Return the address of a virtual service: eight hexadecimal digits, or IPv6 in brackets."""
    return str(ip_address(int(text, 16))) if re.fullmatch("[0-9a-fA-F]{8}", text) else text.strip("[]")


def _path_of(program: str) -> str | None:
    import shutil

    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _output(program: str, *arguments: str) -> str:
    import subprocess

    line = " ".join((program, *arguments))
    if (path := _path_of(program)) is None:
        raise _NotListedError(f"rules of iptables: {program} is not installed")
    try:
        done = subprocess.run(
            (path, *arguments), capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _NotListedError(f"rules of the packet filter: {line} took longer than {_SECONDS:.0f} s") from None
    except OSError as error:
        raise _NotListedError(f"rules of the packet filter: {line}: {error.strerror}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise _NotListedError(f"rules of the packet filter: {line}: {reason}")
    return done.stdout


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
