"""Capabilities are those in effect now, not those of the user's name."""

from __future__ import annotations

import subprocess

import pytest

from support.users import NOBODY, python_as_nobody
from tailbite.kernel.capabilities import CAP_NET_ADMIN, CAP_SYS_ADMIN, has_capability

ASK = "from tailbite.kernel.capabilities import *; print(*map(has_capability, (CAP_NET_ADMIN, CAP_SYS_ADMIN)))"


def test_root_of_the_tests_namespace_has_them() -> None:
    assert has_capability(CAP_SYS_ADMIN)
    assert has_capability(CAP_NET_ADMIN)


@pytest.mark.skipif("not __import__('os').access('/root', 7)", reason="only root can become another user")
def test_nobody_has_none_and_one_that_was_given_is_found_alone() -> None:
    plain = python_as_nobody("-c", ASK)
    assert subprocess.run(plain, capture_output=True, text=True).stdout == "False False\n"
    given = ["setpriv", *NOBODY[1:4], "--inh-caps=+net_admin", "--ambient-caps=+net_admin", *plain[len(NOBODY) :]]
    assert subprocess.run(given, capture_output=True, text=True).stdout == "True False\n"
