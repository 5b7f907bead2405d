"""A filter program of sock_diag, checked and run in Python as the kernel does both.

After inet_diag_bc_audit and inet_diag_bc_run in net/ipv4/inet_diag.c, for the operations tailbite uses.
"""

from __future__ import annotations

import struct

JMP, COMPARISONS = 1, (2, 3, 4, 5)


def is_well_formed(program: bytes) -> bool:
    """Tell whether the kernel takes the program."""
    length = len(program)
    chain = set()
    at = 0
    while at < length:
        code, yes, _ = struct.unpack_from("=BBH", program, at)
        if yes < (8 if code in COMPARISONS else 4) or yes % 4 or at + yes > length:
            return False
        chain.add(at)
        at += yes
    for place in chain:
        code, _, no = struct.unpack_from("=BBH", program, place)
        least = 8 if code in COMPARISONS else 4
        if code != JMP and code not in COMPARISONS:
            return False
        if no < least or no % 4 or place + no > length + 4:
            return False
        if place + no < length and place + no not in chain:
            return False
    return at == length


def accepts(program: bytes, local: int, remote: int) -> bool:
    """Run the program on a socket with these ports."""
    at = steps = 0
    while at < len(program):
        steps += 1
        assert steps <= len(program), "a program that does not end"
        code, yes, no = struct.unpack_from("=BBH", program, at)
        if code == JMP:
            at += no
            continue
        (port,) = struct.unpack_from("=H", program, at + 6)
        true = {2: local >= port, 3: local <= port, 4: remote >= port, 5: remote <= port}[code]
        at += yes if true else no
    return at == len(program)
