"""The seccomp filter as bytes: what it reports and what it lets pass, whatever the registers hold."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.kernel import seccomp
from tailbite.kernel.libc import architecture
from tailbite.kernel.namespace import CLONE_FILES, CLONE_NEWNET

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
register = st.integers(0, 2**64 - 1)
abi_names = st.sampled_from(sorted(seccomp.ABIS))


def evaluate(program: bytes, number: int, arch: int, arguments: list[int]) -> int:
    """Run classic BPF over a struct seccomp_data, as the kernel does; IndexError is a jump out of the program."""
    data = struct.pack("=iIQ6Q", number, arch, 0x7F00DEADBEEF, *arguments)
    lines = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    for _ in range(len(lines)):
        code, true, false, operand = lines[at]
        at += 1
        if code == 0x20:
            assert operand % 4 == 0, "the kernel refuses unaligned loads"
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:
            return int(operand)
        else:
            met = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            at += true if met else false
    raise AssertionError("the program does not end")


@given(abi_names, register, st.lists(register, min_size=6, max_size=6))
def test_a_connect_is_reported_if_its_address_may_be_an_internet_one(
    name: str, length: int, arguments: list[int]
) -> None:
    abi = seccomp.ABIS[name]
    arguments[2] = length
    seen = length & 0xFFFFFFFF  # the kernel takes an int
    expected = NOTIFY if seen >= 16 else ALLOW
    assert evaluate(seccomp.call_filter(abi), abi.connect, abi.arch, arguments) == expected


@given(abi_names, st.sampled_from([0, 15, 16, 28, 110, 128]), register, st.lists(register, min_size=6, max_size=6))
def test_a_sendto_is_reported_only_if_it_opens_a_connection(
    name: str, length: int, flags: int, arguments: list[int]
) -> None:
    abi = seccomp.ABIS[name]
    arguments[3], arguments[5] = flags, length
    expected = NOTIFY if flags & seccomp.MSG_FASTOPEN and length >= 16 else ALLOW
    assert evaluate(seccomp.call_filter(abi), abi.sendto, abi.arch, arguments) == expected


@given(abi_names, register, st.lists(register, min_size=6, max_size=6))
def test_a_message_is_reported_only_if_it_opens_a_connection(name: str, flags: int, arguments: list[int]) -> None:
    """The filter cannot see the address, which is in memory."""
    abi = seccomp.ABIS[name]
    expected = NOTIFY if flags & seccomp.MSG_FASTOPEN else ALLOW
    for number, at in ((abi.sendmsg, 2), (abi.sendmmsg, 3)):
        given_flags = [*arguments[:at], flags, *arguments[at + 1 :]]
        assert evaluate(seccomp.call_filter(abi), number, abi.arch, given_flags) == expected


@given(abi_names, register, st.lists(register, min_size=5, max_size=5))
def test_a_move_to_another_network_namespace_or_descriptor_table_is_reported(
    name: str, first: int, others: list[int]
) -> None:
    abi = seccomp.ABIS[name]
    program = seccomp.call_filter(abi)
    assert evaluate(program, abi.setns, abi.arch, [first, *others]) == NOTIFY
    expected = NOTIFY if first & (CLONE_NEWNET | CLONE_FILES) else ALLOW
    assert evaluate(program, abi.unshare, abi.arch, [first, *others]) == expected
    expected = NOTIFY if others[1] & seccomp.CLOSE_RANGE_UNSHARE else ALLOW
    assert evaluate(program, abi.close_range, abi.arch, [first, *others]) == expected


@given(abi_names, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1), st.lists(register, min_size=6, max_size=6))
def test_no_other_call_and_no_other_abi_is_reported(name: str, number: int, arch: int, arguments: list[int]) -> None:
    abi = seccomp.ABIS[name]
    program = seccomp.call_filter(abi)
    if number not in (*abi.connecting, abi.setns, abi.unshare, abi.close_range):
        assert evaluate(program, number, abi.arch, arguments) == ALLOW
    if arch != abi.arch:
        assert evaluate(program, abi.connect, arch, arguments) == ALLOW


@given(abi_names, register, st.integers(0, 2**31 - 1), st.lists(register, min_size=6, max_size=6))
def test_a_notification_is_read_as_it_was_packed(name: str, call_id: int, tid: int, arguments: list[int]) -> None:
    abi = seccomp.ABIS[name]
    for number, address, length in ((abi.connect, 1, 2), (abi.sendto, 4, 5)):
        packed = struct.pack("=QIIiIQ6Q", call_id, tid, 0, number, abi.arch, 0, *arguments)
        assert len(packed) == seccomp.NOTIFICATION_SIZE == 80
        assert seccomp.parse_call(packed, abi) == (
            tid,
            arguments[0] & 0xFFFFFFFF,
            arguments[address],
            arguments[length] & 0xFFFFFFFF,
        )


@pytest.mark.needs("SECCOMP_LISTENER")
def test_this_kernel_accepts_the_filter_and_its_notifications_are_of_the_size_known() -> None:
    abi = seccomp.ABIS[architecture()]
    assert seccomp.is_supported(abi)
    child = os.fork()
    if child == 0:
        try:
            listener, _ = seccomp.install(abi, seccomp.call_filter(abi))
            os._exit(0 if listener > 2 and not os.get_inheritable(listener) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.needs("SECCOMP_LISTENER")
def test_a_second_listener_is_refused_with_ebusy() -> None:
    import errno

    abi = seccomp.ABIS[architecture()]
    child = os.fork()
    if child == 0:
        try:
            seccomp.install(abi, seccomp.call_filter(abi))
            with pytest.raises(OSError) as busy:
                seccomp.install(abi, seccomp.call_filter(abi))
            os._exit(0 if busy.value.errno == errno.EBUSY else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
