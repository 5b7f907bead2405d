"""System calls are made by number on machines whose numbers are known, and never by another machine's numbers."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tailbite.guards.program.mechanism import choose, read_capabilities
from tailbite.kernel import bpf, fork, kcmp, libc, perf_event, seccomp

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Be a 32-bit process of this kernel, for which uname(2) names the same machine; note the numbers of calls."""
    made: list[int] = []

    def syscall(number: int, *_: object) -> int:
        made.append(number)
        return -1

    monkeypatch.setattr(libc, "sys", SimpleNamespace(maxsize=(1 << 31) - 1))
    for module in (bpf, fork, kcmp, perf_event):
        for name in ("libc", "quick_libc"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda: SimpleNamespace(syscall=syscall))
    return made


def test_the_architecture_is_that_of_uname_for_64_bit_programs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "sys", SimpleNamespace(maxsize=(1 << 63) - 1))
    assert libc.architecture() == os.uname().machine
    monkeypatch.setattr(libc, "sys", SimpleNamespace(maxsize=(1 << 31) - 1))
    assert libc.architecture() == f"32-bit programs on {os.uname().machine}"


@pytest.mark.parametrize(
    "call",
    [
        lambda: bpf.create_map(2, 4, 4, 1),
        lambda: perf_event.open_perf_event(perf_event.PERF_TYPE_SOFTWARE, 0, cpu=0),
    ],
    ids=["bpf", "perf_event_open"],
)
def test_a_32_bit_process_makes_no_call_of_another_number(call: Callable[[], object], calls: list[int]) -> None:
    with pytest.raises(OSError, match="32-bit programs on") as refused:
        call()
    assert refused.value.errno == errno.ENOSYS
    assert calls == []


def test_in_a_32_bit_process_the_kernel_does_not_say_what_threads_share(calls: list[int]) -> None:
    assert kcmp.shares_memory(1, 2)
    assert not kcmp.shares_descriptors(1, 2)
    with pytest.raises(OSError, match="clone"):
        fork.fork_unwaited()
    assert set(calls) == {-1}


@pytest.mark.usefixtures("calls")
def test_run_says_that_a_32_bit_python_cannot_guard() -> None:
    choice = choose(read_capabilities())
    assert f"the system call numbers of 32-bit programs on {os.uname().machine} are not known" in choice.reason
    assert "--port" in choice.reason


HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h"} | dict.fromkeys(
    ("aarch64", "riscv64", "loongarch64"), "asm-generic/unistd.h"
)
"""The kernel's headers for programs; the three younger machines share their numbers."""


def header(name: str) -> str:
    path = Path("/usr/include", name)
    if not path.exists():
        assert os.environ.get("CI") != "true", f"{path} is missing"
        pytest.skip(f"{path} is not installed (Debian's linux-libc-dev, on x86_64)")
    return path.read_text(encoding="ascii", errors="replace")


@pytest.mark.parametrize("machine", sorted(HEADERS))
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header(HEADERS[machine])))
    abi = seccomp.ABIS[machine]
    numbers = {
        **{
            name: getattr(abi, name)
            for name in ("connect", "sendto", "sendmsg", "sendmmsg", "seccomp", "setns", "unshare", "setsockopt")
        },
        "close_range": abi.close_range,
        "kcmp": kcmp._NUMBER[machine],
        "clone": fork._CLONE[machine],
        "bpf": bpf._BPF_CALL[machine],
        "perf_event_open": perf_event._PERF_EVENT_OPEN[machine],
    }
    assert numbers == {name: int(defined[name]) for name in numbers}


@pytest.mark.parametrize("machine", sorted(seccomp.ABIS))
def test_the_architecture_of_a_filter_is_that_of_the_kernels_headers(machine: str) -> None:
    name = "X86_64" if machine == "x86_64" else machine.upper()
    architecture = re.search(rf"#define AUDIT_ARCH_{name}\s+\((.*)\)", header("linux/audit.h"))
    assert architecture is not None
    elf = re.search(r"EM_\w+", architecture[1])
    assert elf is not None
    number = re.search(rf"#define {elf[0]}\s+(\d+)", header("linux/elf-em.h"))
    assert number is not None
    assert "64BIT" in architecture[1] and "LE" in architecture[1]
    assert seccomp.ABIS[machine].arch == int(number[1]) | 0x8000_0000 | 0x4000_0000
