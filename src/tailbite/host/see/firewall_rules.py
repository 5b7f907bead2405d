"""Rules of iptables and nftables about one TCP port: those that send its packets elsewhere, and those that drop them.

A listing is walked as packets go: from the chains that the kernel calls for packets to this host or from it, along
every jump. What a rule asks beside protocol, port and destination address (an interface, a mark, a source) is not
evaluated, so a rule may be for some packets only. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Rule", "RuleEffect", "parse_iptables", "parse_nft"]

_DEEPEST = 16  # jumps; iptables and nftables allow as many
_HOOKS = frozenset({"prerouting", "input", "output", "ingress"})
_QUOTED = re.compile(r'"[^"]*"')

_NFT_PORTS = re.compile(r"\b(?:th|tcp) dport (!= )?(?:v?map )?(\{[^}]*\}|\S+)")
_NFT_SET = re.compile(r"\b(?:set|map) (\S+) \{[^{}]*elements = \{([^}]*)\}", re.DOTALL)
_NFT_OTHER = re.compile(r"\b(?:udp|udplite|sctp|dccp|icmp|icmpv6) \w|\b(?:l4proto|protocol|nexthdr) (?!tcp|6\b|\{)\w")
_NFT_ELSEWHERE = re.compile(r"\b(?:dnat|redirect|tproxy)\b")
_NFT_DROPS = re.compile(r"\b(?:drop|reject)\b")
_NFT_REFUSAL = re.compile(r"\breject with .*")
_NFT_JUMP = re.compile(r"\b(?:jump|goto) ([^\s,}]+)")
_NFT_TO = re.compile(r"\bip6? daddr (?!!=|@|\{)([0-9a-fA-F.:]+(?:/\d+)?)(?=\s|$)")
_NFT_BASE = re.compile(r"type \w+ hook (\w+)")

_IPT_PORTS = re.compile(r"\s(! )?--dports? (\S+)")
_IPT_OTHER = re.compile(r"(?<!!)\s-p (?!tcp\b|all\b)\S+|! -p tcp\b")
_IPT_TARGET = re.compile(r"\s-[jg] (\S+)")
_IPT_TO = re.compile(r"(?<!!)\s-d (\S+)")
_IPT_ELSEWHERE = frozenset({"DNAT", "REDIRECT", "TPROXY", "NETMAP"})
_IPT_DROPS = frozenset({"DROP", "REJECT"})
_IPT_ENDS = frozenset({"ACCEPT", "RETURN", "QUEUE", "NFQUEUE", "MASQUERADE", "SNAT", "LOG", "MARK", "CONNMARK", "CT"})


class RuleEffect(Enum):
    """The effect of a rule on the packets of a port."""

    ELSEWHERE = "elsewhere"
    """They go to another port, address or process."""
    DROPPED = "dropped"
    """They are dropped, or the client gets a refusal."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about a port.

    Attributes:
        text: the rule as the program that lists it prints it, after the program's name.
        effect: its effect.
        destination: the address or network that it is for; empty for all, or for several.
    """

    text: str
    effect: RuleEffect = RuleEffect.ELSEWHERE
    destination: str = ""


@dataclass(frozen=True, slots=True)
class _Line:
    """One rule of a chain; ``covers`` tells whether it is for the port, None if it is for every port."""

    text: str
    effect: RuleEffect | None
    covers: bool | None
    jumps: tuple[str, ...]
    destination: str


@dataclass(slots=True)
class _Table:
    """The chains of one table, and those that the kernel calls."""

    chains: dict[str, list[_Line]] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)

    def rules(self) -> Iterator[Rule]:
        """Yield the rules that a packet to the port meets; of a jump, the rule that named the port."""
        met = (rule for name in self.called for rule in self._walk(name, None, "", _DEEPEST))
        yield from dict.fromkeys(met)

    def _walk(self, chain: str, named: _Line | None, destination: str, deepest: int) -> Iterator[Rule]:
        for line in self.chains.get(chain, ()):
            if line.covers is False:
                continue
            by = named or (line if line.covers else None)
            to = destination or line.destination
            if line.effect is RuleEffect.ELSEWHERE or (line.effect is RuleEffect.DROPPED and by is not None):
                yield Rule((by or line).text, line.effect, to)
            for target in line.jumps if deepest else ():
                yield from self._walk(target, by, to, deepest - 1)


def parse_iptables(text: str, port: int) -> Iterator[Rule]:
    """Yield the rules about a TCP port from the output of ``iptables-save`` or ``ip6tables-save``."""
    table = _Table()
    for line in text.splitlines():
        if line.startswith("*"):
            yield from table.rules()
            table = _Table()
        elif line.startswith("-A "):
            name = line.split(" ", 2)[1]
            if name not in table.chains and name.lower() in _HOOKS:
                table.called.append(name)
            table.chains.setdefault(name, []).append(_iptables_line(line, port))
    yield from table.rules()


def _iptables_line(line: str, port: int) -> _Line:
    plain = _QUOTED.sub('""', line)
    target = found[1] if (found := _IPT_TARGET.search(plain)) else ""
    ports = _IPT_PORTS.search(plain)
    covers = None if ports is None else _port_element(ports[2], port, between=":") is not None
    if ports is not None and ports[1]:
        covers = not covers
    if _IPT_OTHER.search(plain):
        covers = False
    effect = (
        RuleEffect.ELSEWHERE if target in _IPT_ELSEWHERE else RuleEffect.DROPPED if target in _IPT_DROPS else None
    )  # every other target is a chain, or lets the packet pass
    to = found[1] if (found := _IPT_TO.search(plain)) and "," not in found[1] else ""
    jumps = () if effect is not None or target in _IPT_ENDS else (target,)
    return _Line(f"iptables {line}", effect, covers, jumps, to)


def parse_nft(text: str, port: int) -> Iterator[Rule]:
    """Yield the rules about a TCP port from the output of ``nft list ruleset``."""
    for block in re.split(r"^(?=table )", text, flags=re.MULTILINE):
        yield from _nft_table(block, port).rules()


def _nft_table(text: str, port: int) -> _Table:
    sets = {f"@{name}": elements for name, elements in _NFT_SET.findall(text)}
    table, chain = _Table(), ""
    for line in _nft_statements(text):
        if line.startswith("chain "):
            chain = line.split()[1]
        elif line == "}":
            chain = ""
        elif chain and (base := _NFT_BASE.match(line)):
            if base[1] in _HOOKS:
                table.called.append(chain)
        elif chain:
            table.chains.setdefault(chain, []).append(_nft_line(line, port, sets))
    return table


def _nft_statements(text: str) -> Iterator[str]:
    """Yield the lines of a table; nft continues long lists on the next line."""
    begun = ""
    for line in map(str.strip, text.splitlines()):
        begun = f"{begun} {line}".strip()
        if begun.count("{") > begun.count("}") and not begun.endswith("{"):
            continue
        yield begun
        begun = ""


def _nft_line(line: str, port: int, sets: dict[str, str]) -> _Line:
    plain = _NFT_REFUSAL.sub("reject", _QUOTED.sub('""', line))
    ports = _NFT_PORTS.search(plain)
    verdicts = plain
    covers = None
    if ports is not None:
        element = _port_element((sets.get(ports[2]) or ports[2]).strip("{} \n\t"), port, between="-")
        covers = (element is None) is bool(ports[1])
        if "vmap" in ports[0]:  # the verdict stands in the element
            verdicts = element or ""
    elif "vmap @" in plain:
        verdicts = sets.get(plain.partition("vmap ")[2].split()[0], "")
    if _NFT_OTHER.search(plain) and not (ports is not None and ports[0].startswith("tcp")):
        covers = False
    effect = (
        RuleEffect.ELSEWHERE
        if _NFT_ELSEWHERE.search(verdicts)
        else RuleEffect.DROPPED
        if _NFT_DROPS.search(verdicts)
        else None
    )
    to = found[1] if (found := _NFT_TO.search(plain)) else ""
    return _Line(f"nft {' '.join(line.split())}", effect, covers, tuple(_NFT_JUMP.findall(verdicts)), to)


def _port_element(text: str, port: int, *, between: str) -> str | None:
    """Return the element of a list that has the port, or None.

    nft has maps and concatenations as well: PORT : VERDICT, ADDRESS . PROTOCOL . PORT : VERDICT.
    """
    for part in text.split(","):
        key = part.strip() if between == ":" else part.partition(" :")[0].strip()
        if " . udp . " in key:
            continue
        low, _, high = key.rpartition(" . ")[2].partition(" ")[0].partition(between)  # behind a blank: counters
        if low.isdigit() and int(low) <= port <= int(high if high.isdigit() else low):
            return part.strip()
    return None
