"""The offset of the monotonic clock is that which the kernel applies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import find_peer
from tailbite.kernel.time_namespace import monotonic_offset, parse_offset


def test_the_text_of_the_kernel_is_read() -> None:
    assert parse_offset("monotonic           0         0\nboottime            0         0\n") == 0
    assert parse_offset("monotonic    -1000000 500000000\nboottime          7         0\n") == -999999.5
    assert parse_offset("?") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set the clock of a time namespace")
@pytest.mark.skipif(not Path("/proc/self/timens_offsets").exists(), reason="this kernel has no time namespaces")
def test_the_offset_makes_the_clocks_of_two_namespaces_equal() -> None:
    before = time.monotonic() - monotonic_offset()
    script = "import time; from tailbite.kernel.time_namespace import *; print(time.monotonic() - monotonic_offset())"
    command = [find_peer("unshare"), "-T", "--monotonic", "1000000", "--fork", sys.executable, "-c", script]
    inside = float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert before <= inside <= time.monotonic() - monotonic_offset()
