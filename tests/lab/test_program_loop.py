"""The loop with a program as the client; tests/cli/lab/test_loop.py has telnet."""

from __future__ import annotations

import shlex
import sys

import pytest

from support.old_kernel import refuse_to_destroy
from support.trap import PORT
from tailbite.core.ports import PortRange
from tailbite.lab.loop import ExperimentSettings
from tailbite.lab.program_loop import run_program_loop

CLIENT = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("ipv6", [False, True])
def test_each_hit_starts_without_the_time_wait_of_the_one_before(monkeypatch: pytest.MonkeyPatch, ipv6: bool) -> None:
    """With a range of one usable port, each run connects to itself, also where no TIME-WAIT can be destroyed."""
    refuse_to_destroy(monkeypatch)
    settings = ExperimentSettings(PORT, PortRange(PORT, PORT + 1), hits=3, attempts=60, ipv6=ipv6)
    client = shlex.join([sys.executable, "-S", "-c", CLIENT, "{host}", "{port}"])
    tally = run_program_loop(settings, client, lambda hits, attempts: None)
    assert len(tally.hits) == 3
    assert sum(tally.hits) == tally.attempts
