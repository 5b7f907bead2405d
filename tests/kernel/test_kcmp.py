"""Threads and processes that have descriptors or memory in common are distinguished from those that have not."""

from __future__ import annotations

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tailbite.kernel.kcmp import shares_descriptors, shares_memory
from tailbite.kernel.namespace import CLONE_FILES, unshare


@pytest.mark.needs("KCMP")
def test_a_process_shares_nothing_with_another_one() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        assert not shares_memory(os.getpid(), other.pid)
        assert not shares_descriptors(os.getpid(), other.pid)
    assert shares_memory(os.getpid(), os.getpid())
    assert shares_descriptors(os.getpid(), os.getpid())


@pytest.mark.needs("KCMP")
def test_a_thread_shares_the_descriptors_of_its_process_until_it_has_its_own() -> None:
    def compare() -> tuple[bool, bool, bool]:
        here = threading.get_native_id()
        before = shares_descriptors(here, os.getpid())
        unshare(CLONE_FILES)
        return before, shares_descriptors(here, os.getpid()), shares_memory(here, os.getpid())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(compare).result() == (True, False, True)


def test_where_the_kernel_does_not_say_the_careful_answer_is_given() -> None:
    nobody = 1 << 30
    assert shares_memory(os.getpid(), nobody)
    assert not shares_descriptors(os.getpid(), nobody)
