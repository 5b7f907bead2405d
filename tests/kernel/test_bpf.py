"""The assembler's bytes, and programs that the verifier takes or refuses with its reason."""

from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.limits import without
from support.users import python_as_nobody
from tailbite.kernel import bpf
from tailbite.kernel.bpf import (
    BpfError,
    EbpfInstruction,
    MapType,
    add_value,
    assemble,
    create_map,
    end,
    jump_if_value,
    load_memory,
    load_program,
    load_value,
    move,
    place_label,
    read_map,
    store_value,
    write_map,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_each_instruction_is_8_bytes_as_the_kernel_defines_them() -> None:
    """Compared with what a disassembler prints: Documentation/bpf/standardization/instruction-set.rst."""
    code = assemble((load_memory(3, 6, 24, 2), move(1, 10), add_value(1, -8), *load_value(0, 7), end()))
    assert code == bytes.fromhex(
        "6963180000000000 bfa1000000000000 07010000f8ffffff b700000007000000 9500000000000000"
    )


def test_a_jump_counts_from_the_next_instruction_and_a_long_constant_as_two() -> None:
    code = assemble((jump_if_value(1, 0, "end"), *load_value(2, 1 << 40), place_label("end"), end()))
    assert struct.unpack_from("=h", code, 2) == (2,)
    assert code[8:24] == struct.pack("=BBhIxxxxI", 0x18, 2, 0, 0, 1 << 8)


@given(st.integers(0, (1 << 64) - 1))
def test_any_constant_fits(value: int) -> None:
    code = assemble(load_value(4, value))
    low = struct.unpack_from("=I", code, 4)[0]
    high = struct.unpack_from("=I", code, 12)[0] if len(code) == 16 else 0
    assert low | high << 32 == value


@pytest.mark.parametrize(
    "lines", [(jump_if_value(1, 0, "nowhere"), end()), (place_label("back"), end(), jump_if_value(1, 0, "back"))]
)
def test_a_jump_to_nowhere_or_backwards_is_refused(lines: tuple[EbpfInstruction, ...]) -> None:
    with pytest.raises(ValueError):
        assemble(lines)


@pytest.mark.needs("BPF_TRACEPOINT")
def test_a_map_keeps_what_is_written() -> None:
    descriptor = create_map(MapType.ARRAY, 4, 8, 2)
    try:
        write_map(descriptor, struct.pack("=I", 1), b"tailbite")
        assert read_map(descriptor, struct.pack("=I", 1), 8) == b"tailbite"
        assert read_map(descriptor, struct.pack("=I", 0), 8) == bytes(8)
        with pytest.raises(BpfError):
            read_map(descriptor, struct.pack("=I", 2), 8)
    finally:
        os.close(descriptor)


@pytest.mark.needs("BPF_TRACEPOINT")
def test_the_verifier_takes_a_sound_program_and_says_what_is_wrong_with_another() -> None:
    os.close(load_program(assemble((*load_value(0, 0), end()))))
    with pytest.raises(BpfError) as caught:
        load_program(assemble((store_value(10, 8, 1, 8), *load_value(0, 0), end())))
    assert caught.value.errno == errno.EACCES
    assert "stack" in caught.value.log
    assert "stack" in str(caught.value)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_the_limit_on_locked_memory_is_lifted_while_something_is_created(
    monkeypatch: pytest.MonkeyPatch, is_allowed: bool
) -> None:
    """Before Linux 5.11 either call is EPERM when the user's locked memory, perf buffers included, is used up."""
    limits = [(65536, 65536)]

    def call(_command: int, _attributes: bytes, purpose: str) -> int:
        if limits[-1][0] != resource.RLIM_INFINITY:
            raise bpf.BpfError(errno.EPERM, purpose)
        return 99

    def set_limit(_which: int, pair: tuple[int, int]) -> None:
        if not is_allowed:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(pair)

    monkeypatch.setattr(bpf, "_call", call)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    creations: tuple[Callable[[], int], ...] = (
        lambda: create_map(MapType.ARRAY, 4, 8, 2),
        lambda: load_program(bytes(16)),
    )
    for create in creations:
        if is_allowed:
            assert create() == 99
        else:
            with pytest.raises(BpfError) as caught:
                create()
            assert caught.value.errno == errno.EPERM
        assert limits[-1] == (65536, 65536)


ASK = """
from tailbite.kernel.bpf import *
try:
    create_map(2, 4, 8, 1)
    load_program(assemble((*load_value(0, 0), end())))
except BpfError as error:
    print(error.errno)
"""


@pytest.mark.needs("BPF_TRACEPOINT")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_without_capability_and_under_lockdown_it_is_a_permission_error() -> None:
    nobody = subprocess.run(python_as_nobody("-c", ASK), capture_output=True, text=True)
    locked = subprocess.run([*without("BPF"), sys.executable, "-c", ASK], capture_output=True, text=True)
    assert (nobody.stdout, nobody.stderr) == (f"{errno.EPERM}\n", "")
    assert (locked.stdout, locked.stderr) == (f"{errno.EPERM}\n", "")
