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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NO_REDIRECTS", "Redirects", "parse_iptables", "parse_ipvs", "parse_nft", "redirects_of"]

_SECONDS = 5.0  # a listing of many thousand rules takes less
_TARGETS = re.compile(r"\s-j (DNAT|REDIRECT|TPROXY|NETMAP)\b|\s-j (?!RETURN|MASQUERADE|ACCEPT)[\w-]+")
_IPTABLES_PORTS = re.compile(r"\s(! )?--dports? (\S+)")
_FOR_ALL = re.compile(r"\s-j (?:DNAT|REDIRECT|TPROXY)\b")
_NFT_PORTS = re.compile(r"\b(?:th|tcp) dport (!= )?(?:v?map )?(\{[^}]*\}|\S+)")
_NFT_SET = re.compile(r"\b(?:set|map) (\S+) \{[^{}]*elements = \{([^}]*)\}", re.DOTALL)
_NFT_VERDICT = re.compile(r"\b(?:dnat|redirect|tproxy)\b")
_EBPF = "eBPF programs that choose the socket (sk_lookup, XDP): bpftool prog"


@dataclass(frozen=True, slots=True)
class Redirects:
    """Rules about one port.

    Attributes:
        rules: each rule as the program that lists it prints it.
        not_inspected: what else can answer for a port and was not asked.
    """

    rules: tuple[str, ...] = ()
    not_inspected: tuple[str, ...] = ()


NO_REDIRECTS = Redirects()


def redirects_of(port: int) -> Redirects:
    """Return the rules about a port in the calling thread's network namespace. Starts a program only as root."""
    rules = list(parse_ipvs(_read("/proc/thread-self/net/ip_vs"), port))
    if os.geteuid() != 0:
        missed: tuple[str, ...] = ("rules of nftables and iptables: nft list ruleset (needs root)",)
    else:
        listed, missed = _firewall_rules(port)
        rules += listed
    return Redirects(tuple(dict.fromkeys(rules)), (*missed, _EBPF))


def _firewall_rules(port: int) -> tuple[list[str], tuple[str, ...]]:
    ruleset = _output("nft", "list", "ruleset")  # with those of iptables-nft
    if ruleset is None:
        tables = _output("iptables-save", "-t", "nat")
        if tables is None:
            return [], ("rules of nftables and iptables: neither nft nor iptables-save is installed",)
        return list(parse_iptables(tables, port)), ()
    rules = list(parse_nft(ruleset, port))
    if "nat" in _read("/proc/thread-self/net/ip_tables_names").split():
        rules += parse_iptables(_output("iptables-legacy-save", "-t", "nat") or "", port)
    return rules, ()


def parse_iptables(text: str, port: int) -> Iterator[str]:
    """Yield the rules of ``iptables-save -t nat`` that send a TCP port elsewhere."""
    for line in text.splitlines():
        if " -p tcp" not in line or not _TARGETS.search(line):
            continue
        match = _IPTABLES_PORTS.search(line)
        if match is None:
            answers = _FOR_ALL.search(line) is not None  # a proxy of all connections, such as a service mesh's
        else:
            answers = _covers(match[2], port, between=":") is not bool(match[1])
        if answers:
            yield f"iptables {line}"


def parse_nft(text: str, port: int) -> Iterator[str]:
    """Yield the rules of ``nft list ruleset`` that send a TCP port elsewhere."""
    sets: dict[str, str] = {f"@{name}": elements for name, elements in _NFT_SET.findall(text)}
    for line in text.splitlines():
        match = _NFT_PORTS.search(line)
        if match is None or not (_NFT_VERDICT.search(line) or "vmap" in match[0]):
            continue
        ports = (sets.get(match[2]) or match[2]).strip("{} ")
        if _covers(ports, port, between="-") is not bool(match[1]):
            yield f"nft {' '.join(line.split())}"


def parse_ipvs(text: str, port: int) -> Iterator[str]:
    """Yield the virtual TCP services of ``/proc/net/ip_vs`` on a port: ``TCP  0A090001:1F90 rr``."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == "TCP" and fields[1].upper().endswith(f":{port:04X}"):
            yield f"ipvs {' '.join(fields)}"


def _covers(text: str, port: int, *, between: str) -> bool:
    for part in text.split(","):
        # nft maps and concatenations: PORT : VERDICT, ADDRESS . PROTOCOL . PORT : VERDICT
        key = part.strip() if between == ":" else part.partition(" :")[0].strip()
        if " . udp . " in key:
            continue
        key = key.rpartition(" . ")[2]
        low, _, high = key.partition(between)
        if low.isdigit() and int(low) <= port <= int(high if high.isdigit() else low):
            return True
    return False


def _output(program: str, *arguments: str) -> str | None:
    import shutil
    import subprocess

    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        return None
    try:
        done = subprocess.run(
            (path, *arguments), capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
