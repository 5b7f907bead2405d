"""The trial of seccomp user notification says what this kernel can do, whatever its release number says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.abilities import has_ability
from support.guarded import run
from support.limits import without
from tailbite.guards.program.probe import reports_end

PROBE = "from tailbite.guards.program.probe import reports_end; print(reports_end())"


def test_this_kernel_lets_calls_run_and_reports_the_end() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    assert reports_end()
    assert set(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_where_no_filter_may_listen_the_answer_is_no() -> None:
    assert run([*without("NEW_LISTENER"), sys.executable, "-c", PROBE]).stdout == "False\n"


def test_a_kernel_that_is_older_by_its_release_is_guarded_if_the_trial_succeeds() -> None:
    code = (
        "from tailbite.kernel import release; release.kernel_version = lambda: (4, 18)\n"
        "from tailbite.guards.program.mechanism import choose, read_capabilities\n"
        "print(choose(read_capabilities()).mechanism)"
    )
    steers = has_ability("IP_LOCAL_PORT_RANGE") and has_ability("PIDFD_GETFD")
    assert run([sys.executable, "-c", code]).stdout == f"Mechanism.{'STEER' if steers else 'HOLD'}\n"
