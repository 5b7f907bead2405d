"""eBPF (bpf(2)): an assembler, which is pure, and the calls that create maps and load programs.

No compiler, no BTF, no library: a program is a list of instructions with labels, and :func:`assemble` turns it into
``struct bpf_insn[]`` (Documentation/bpf/standardization/instruction-set.rst)::

    code: 8 bits    destination: 4 bits, source: 4 bits    offset: 16 bits    immediate: 32 bits

Registers: r0 is the result of a call and of the program; r1 to r5 are the arguments of a call, lost after it; r6 to
r9 survive calls; r10 is the end of the stack of 512 bytes, which grows down. The verifier refuses a program that
could read what was not written, leave its stack, or run forever; :class:`BpfError` carries its log.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tailbite.kernel.libc import architecture, last_error, libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "BpfError",
    "EbpfInstruction",
    "Helper",
    "MapType",
    "add_to_memory",
    "add_value",
    "assemble",
    "call_helper",
    "create_map",
    "end",
    "jump_if_different",
    "jump_if_value",
    "jump_unless_value",
    "load_map",
    "load_memory",
    "load_program",
    "load_value",
    "move",
    "place_label",
    "read_map",
    "read_misses",
    "store_register",
    "store_value",
    "write_map",
]

_BPF_CALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}
"""The number of bpf(2), by :func:`~tailbite.kernel.libc.architecture`."""

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD = 0, 1, 2, 5  # enum bpf_cmd, include/uapi/linux/bpf.h
_PROG_TYPE_TRACEPOINT = 5
_LOG_SIZE = 1 << 16
_LICENSE = b"Dual MIT/GPL"  # the kernel lends its tracing helpers to GPL-compatible programs (linux/license.h)

# Instruction classes, sizes and modes: include/uapi/linux/bpf_common.h, bpf.h
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_LDX_MEM, _ST_MEM, _STX_MEM, _STX_ATOMIC_ADD = 0x61, 0x62, 0x63, 0xDB
_MOV64_X, _MOV64_K, _MOV32_K, _ADD64_K, _LD_IMM64 = 0xBF, 0xB7, 0xB4, 0x07, 0x18
_JEQ_K, _JNE_K, _JNE_X, _CALL, _EXIT = 0x15, 0x55, 0x5D, 0x85, 0x95
_PSEUDO_MAP_FD = 1


class MapType:
    """Kinds of maps (enum bpf_map_type)."""

    ARRAY: Final = 2
    PERF_EVENT_ARRAY: Final = 4


class Helper:
    """Functions of the kernel that programs may call (bpf-helpers(7))."""

    MAP_LOOKUP: Final = 1
    KTIME: Final = 5
    CURRENT_PID_TGID: Final = 14
    CURRENT_COMM: Final = 16
    PERF_EVENT_OUTPUT: Final = 25
    CURRENT_PID_TGID_IN_NAMESPACE: Final = 120
    """Linux 5.7."""


class BpfError(OSError):
    """The kernel refused a map or a program.

    Attributes:
        log: the verifier's log; empty if the program did not get as far as the verifier.
    """

    def __init__(self, number: int, text: str, log: str = "") -> None:
        super().__init__(number, text)
        self.log = log

    def __str__(self) -> str:
        last = self.log.strip().splitlines()[-2:]
        return f"{self.strerror}{': ' + ' / '.join(last) if last else ''}"


@dataclass(frozen=True, slots=True)
class EbpfInstruction:
    """One instruction.

    Attributes:
        code: operation, and where its operands are.
        destination: number of a register.
        source: number of a register.
        offset: of memory from a register, or of a jump from the next instruction.
        immediate: a constant.
        target: the label that a jump leads to; :func:`assemble` turns it into an offset.
        label: the name of this place; such an entry is not an instruction itself.
    """

    code: int
    destination: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: str = ""
    label: str = ""

    @property
    def slots(self) -> int:
        """Its length in the program, in units of 8 bytes."""
        return 0 if self.label else 2 if self.code == _LD_IMM64 else 1


def place_label(name: str) -> EbpfInstruction:
    """Name the place of the next instruction, for jumps."""
    return EbpfInstruction(0, label=name)


def load_memory(register: int, base: int, offset: int, size: int) -> EbpfInstruction:
    """Set ``register`` to ``size`` bytes of memory at ``base + offset``."""
    return EbpfInstruction(_LDX_MEM | _SIZES[size], register, base, offset)


def store_register(base: int, offset: int, register: int, size: int) -> EbpfInstruction:
    """Write the low ``size`` bytes of a register to memory at ``base + offset``."""
    return EbpfInstruction(_STX_MEM | _SIZES[size], base, register, offset)


def store_value(base: int, offset: int, value: int, size: int) -> EbpfInstruction:
    """Write a constant to memory at ``base + offset``."""
    return EbpfInstruction(_ST_MEM | _SIZES[size], base, 0, offset, value)


def add_to_memory(base: int, offset: int, register: int) -> EbpfInstruction:
    """Add a register to 8 bytes of memory, atomically between CPUs."""
    return EbpfInstruction(_STX_ATOMIC_ADD, base, register, offset)


def move(register: int, source: int) -> EbpfInstruction:
    """Copy a register."""
    return EbpfInstruction(_MOV64_X, register, source)


def load_value(register: int, value: int) -> tuple[EbpfInstruction, ...]:
    """Set a register to an unsigned number of at most 64 bits."""
    if value < 1 << 31:
        return (EbpfInstruction(_MOV64_K, register, immediate=value),)
    if value < 1 << 32:  # the upper half becomes 0
        return (EbpfInstruction(_MOV32_K, register, immediate=value - (1 << 32)),)
    return (EbpfInstruction(_LD_IMM64, register, immediate=value),)


def load_map(register: int, descriptor: int) -> EbpfInstruction:
    """Set a register to the address of a map, by its descriptor; the kernel fills it in when it loads the program."""
    return EbpfInstruction(_LD_IMM64, register, _PSEUDO_MAP_FD, immediate=descriptor)


def add_value(register: int, value: int) -> EbpfInstruction:
    """Add a signed constant to a register."""
    return EbpfInstruction(_ADD64_K, register, immediate=value)


def jump_if_value(register: int, value: int, target: str) -> EbpfInstruction:
    """Go to a label if a register has this value."""
    return EbpfInstruction(_JEQ_K, register, immediate=value, target=target)


def jump_unless_value(register: int, value: int, target: str) -> EbpfInstruction:
    """Go to a label if a register has another value."""
    return EbpfInstruction(_JNE_K, register, immediate=value, target=target)


def jump_if_different(register: int, other: int, target: str) -> EbpfInstruction:
    """Go to a label if two registers differ."""
    return EbpfInstruction(_JNE_X, register, other, target=target)


def call_helper(number: int) -> EbpfInstruction:
    """Call a function of the kernel; see :class:`Helper`."""
    return EbpfInstruction(_CALL, immediate=number)


def end() -> EbpfInstruction:
    """End the program; r0 is its result."""
    return EbpfInstruction(_EXIT)


def assemble(program: Iterable[EbpfInstruction]) -> bytes:
    """Return the program as ``struct bpf_insn[]``.

    Raises:
        ValueError: a jump leads to a label that the program does not have, or backwards.
    """
    lines = tuple(program)
    places: dict[str, int] = {}
    place = 0
    for line in lines:
        if line.label:
            places[line.label] = place
        place += line.slots
    code = bytearray()
    for line in lines:
        if line.target:
            if line.target not in places:
                raise ValueError(f"the program has no label {line.target!r}")
            distance = places[line.target] - len(code) // 8 - 1
            if distance < 0:
                raise ValueError(f"the jump to {line.target!r} leads backwards")
            line = replace(line, offset=distance)
        if not line.label:
            code += _encode(line)
    return bytes(code)


def _encode(line: EbpfInstruction) -> bytes:
    low, high = line.source, line.destination
    registers = low << 4 | high if sys.byteorder == "little" else high << 4 | low  # bit fields follow the byte order
    if line.slots == 2:
        value = line.immediate & 0xFFFFFFFFFFFFFFFF
        return struct.pack("=BBhIxxxxI", line.code, registers, line.offset, value & 0xFFFFFFFF, value >> 32)
    return struct.pack("=BBhi", line.code, registers, line.offset, line.immediate)


def create_map(kind: int, key_size: int, value_size: int, entries: int) -> int:
    """Create a map and return its descriptor.

    Raises:
        BpfError: EPERM without CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN); ENOSYS on an unknown machine.
    """
    attributes = struct.pack("=5I", kind, key_size, value_size, entries, 0)
    return _create(_MAP_CREATE, attributes, "create a BPF map")


def _create(command: int, attributes: bytes, purpose: str) -> int:
    """Make a call of bpf(2) whose result counts against RLIMIT_MEMLOCK before Linux 5.11, and lift that meanwhile.

    The limit is one of the user's: the pages of perf buffers count as well, so either kind of call can meet it.
    """
    try:
        return _call(command, attributes, purpose)
    except BpfError as error:
        if error.errno != errno.EPERM:
            raise
        with _memory_limit_lifted() as is_lifted:
            if is_lifted:
                return _call(command, attributes, purpose)
        raise


@contextlib.contextmanager
def _memory_limit_lifted() -> Iterator[bool]:
    """Lift RLIMIT_MEMLOCK until the context ends; the value tells whether it was in the way and could be lifted."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limits[0] == resource.RLIM_INFINITY:
        yield False
        return
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        yield False
        return
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def read_map(descriptor: int, key: bytes, value_size: int) -> bytes:
    """Return the value of a key.

    Raises:
        BpfError: ENOENT, the map does not have the key.
    """
    import ctypes

    where = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_size)
    _call(_MAP_LOOKUP, struct.pack("=IxxxxQQQ", descriptor, *_addresses(where, value), 0), "read a BPF map")
    return value.raw


def write_map(descriptor: int, key: bytes, value: bytes) -> None:
    """Set the value of a key.

    Raises:
        BpfError: E2BIG, the map has no such entry.
    """
    import ctypes

    where = ctypes.create_string_buffer(key, len(key))
    what = ctypes.create_string_buffer(value, len(value))
    _call(_MAP_UPDATE, struct.pack("=IxxxxQQQ", descriptor, *_addresses(where, what), 0), "write a BPF map")


def read_misses(program: int) -> int:
    """Return how often the kernel did not run a program because another one ran on that CPU (Linux 5.12).

    On a preemptible kernel a task that is inside bpf(2) can be preempted by one that reaches the tracepoint.

    Args:
        program: descriptor of the program.

    Returns:
        0 as well where the kernel does not tell.
    """
    try:
        with open(f"/proc/self/fdinfo/{program}", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            return next((int(line.split()[1]) for line in lines if line.startswith("recursion_misses:")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def load_program(code: bytes) -> int:
    """Load a program for a tracepoint and return its descriptor.

    Raises:
        BpfError: EPERM without CAP_BPF and CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN); EINVAL or EACCES, the
            verifier refused it, and says in ``log`` why.
    """
    import ctypes

    text, license_text, log = (
        ctypes.create_string_buffer(code, len(code)),
        ctypes.create_string_buffer(_LICENSE),
        ctypes.create_string_buffer(_LOG_SIZE),
    )
    code_at, license_at, log_at = _addresses(text, license_text, log)
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version
    attributes = struct.pack(
        "=IIQQIIQI", _PROG_TYPE_TRACEPOINT, len(code) // 8, code_at, license_at, 1, _LOG_SIZE, log_at, 0
    )
    try:
        return _create(_PROG_LOAD, attributes, "load a BPF program")
    except BpfError as error:
        raise BpfError(
            error.errno or errno.EINVAL, error.strerror or "", log.value.decode("ascii", "replace")
        ) from None


def _addresses(*buffers: object) -> tuple[int, ...]:
    import ctypes

    return tuple(ctypes.addressof(buffer) for buffer in buffers)  # type: ignore[arg-type]


def _call(command: int, attributes: bytes, purpose: str) -> int:
    import ctypes

    number = _BPF_CALL.get(architecture())
    if number is None:
        raise BpfError(errno.ENOSYS, f"{purpose}: the system call number of {architecture()} is not known")
    # Bytes past those that a kernel knows must be zero; fewer are taken as zero (bpf_check_uarg_tail_zero).
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    descriptor = libc().syscall(number, command, buffer, len(attributes))
    if descriptor < 0:
        error = last_error(purpose)
        raise BpfError(error.errno or errno.EIO, error.strerror or purpose)
    return int(descriptor)
