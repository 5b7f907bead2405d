"""The program that knows a self-connect by its SYN: classic BPF, for iptables' ``bpf`` match. Pure.

A self-connect's first segment is a SYN whose source address and port equal its destination's. iptables compares
each of them with constants only, so the comparison is a classic BPF program (Linux
Documentation/networking/filter.rst): two registers A and X, sixteen words of memory M, forward jumps, and a
result that is 0 for "no match". The match ``bpf`` (iptables-extensions(8)) runs it with the packet from its IP
header on.

Ports are compared first: on loopback nearly every connection has equal addresses, and hardly any equal ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["MatchInstruction", "bytecode", "listing", "self_connect_filter"]

IpVersion = Literal[4, 6]

# include/uapi/linux/bpf_common.h: class | size | mode, or class | operation | source.
LD_BYTE: Final = 0x30  # A = P[k:1]
LD_HALF: Final = 0x28  # A = P[k:2]
LD_WORD: Final = 0x20  # A = P[k:4]
LD_HALF_X: Final = 0x48  # A = P[X+k:2]
LDX_MEMORY: Final = 0x61  # X = M[k]
LDX_HEADER: Final = 0xB1  # X = 4 * (P[k:1] & 0xf), the length of an IPv4 header
STORE: Final = 0x02  # M[k] = A
TAX: Final = 0x07  # X = A
JEQ: Final = 0x15  # A == k
JEQ_X: Final = 0x1D  # A == X
RETURN: Final = 0x06  # the result is k

_TCP = 6
_IPV6_HEADER = 40
_MATCH = 65535
_NO_MATCH = 0


@dataclass(frozen=True, slots=True)
class MatchInstruction:
    """One instruction: struct sock_filter.

    Attributes:
        code: the operation.
        if_true: number of instructions that a comparison that holds skips.
        if_false: number of instructions that a comparison that does not hold skips.
        operand: an offset into the packet, an index of M, a constant or the result.
    """

    code: int
    if_true: int = 0
    if_false: int = 0
    operand: int = 0

    def __str__(self) -> str:
        k = self.operand
        jump = f"or else skip {self.if_false}"
        return {
            LD_BYTE: f"A = byte at {k}",
            LD_HALF: f"A = half word at {k}",
            LD_WORD: f"A = word at {k}",
            LD_HALF_X: f"A = half word at X + {k}",
            LDX_MEMORY: f"X = M[{k}]",
            LDX_HEADER: f"X = length of the IPv4 header at {k}",
            STORE: f"M[{k}] = A",
            TAX: "X = A",
            JEQ: f"A must be {k}, {jump}",
            JEQ_X: f"A must be X, {jump}",
            RETURN: "match" if k else "no match",
        }[self.code]


def self_connect_filter(version: IpVersion) -> tuple[MatchInstruction, ...]:
    """Return the program that matches a TCP segment whose source equals its destination, address and port.

    The rule around it must ensure that the packet is a TCP SYN. With IPv6 the TCP header must follow the IPv6
    header at once; a segment with extension headers, which only CAP_NET_RAW can send, does not match.

    Args:
        version: 4 or 6.
    """
    if version == 4:
        steps = [
            MatchInstruction(LDX_HEADER, operand=0),
            MatchInstruction(LD_HALF_X, operand=0),  # source port
            MatchInstruction(STORE, operand=0),
            MatchInstruction(LD_HALF_X, operand=2),  # destination port
            MatchInstruction(LDX_MEMORY, operand=0),
            MatchInstruction(JEQ_X),
            *_same_words(source=12, destination=16, count=1),
        ]
    else:
        steps = [
            MatchInstruction(LD_BYTE, operand=6),  # next header
            MatchInstruction(JEQ, operand=_TCP),
            MatchInstruction(LD_HALF, operand=_IPV6_HEADER),
            MatchInstruction(TAX),
            MatchInstruction(LD_HALF, operand=_IPV6_HEADER + 2),
            MatchInstruction(JEQ_X),
            *_same_words(source=8, destination=24, count=4),
        ]
    no_match = len(steps) + 1
    program = [
        MatchInstruction(step.code, 0, no_match - number - 1, step.operand) if step.code in (JEQ, JEQ_X) else step
        for number, step in enumerate(steps)
    ]
    return (*program, MatchInstruction(RETURN, operand=_MATCH), MatchInstruction(RETURN, operand=_NO_MATCH))


def _same_words(source: int, destination: int, count: int) -> list[MatchInstruction]:
    """Compare ``count`` words at two places; every comparison must hold."""
    return [
        step
        for word in range(count)
        for step in (
            MatchInstruction(LD_WORD, operand=source + 4 * word),
            MatchInstruction(TAX),
            MatchInstruction(LD_WORD, operand=destination + 4 * word),
            MatchInstruction(JEQ_X),
        )
    ]


def bytecode(program: tuple[MatchInstruction, ...]) -> str:
    """Return the program as iptables' ``--bytecode`` takes it: the count, then ``code jt jf k`` for each."""
    steps = (f"{step.code} {step.if_true} {step.if_false} {step.operand}" for step in program)
    return ",".join([str(len(program)), *steps])


def listing(program: tuple[MatchInstruction, ...]) -> str:
    """Return the program in words, one numbered instruction to a line."""
    return "\n".join(f"{number:2}  {step}" for number, step in enumerate(program))
