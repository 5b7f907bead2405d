"""System calls are made by number on machines whose numbers are known, and never by another machine's numbers."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tailbite.guards.program.mechanism import choose, read_capabilities
from tailbite.kernel import bpf, fork, kcmp, libc, perf_event

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
