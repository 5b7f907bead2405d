"""TCP_REPAIR ends the TIME-WAIT of a self-connect; beside it, the control: the port is blocked before."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from support.trap import leftovers, server_can_bind, wait_for_time_wait
from support.users import python_as_nobody
from tailbite.core.address import Endpoint
from tailbite.kernel.tcp_repair import replace_time_wait

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
PORT = 7000


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_port_is_free_at_once(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, PORT))
        sock.connect((host, PORT))
    wait_for_time_wait(PORT)
    server = "::1" if host == "::1" else "127.0.0.1"
    assert not server_can_bind(server, PORT, reuse=True)
    replace_time_wait(Endpoint(server, PORT), family)
    assert leftovers(PORT) == []
    assert server_can_bind(server, PORT)


@pytest.mark.usefixtures("network")
def test_without_the_capability_it_is_refused() -> None:
    code = (
        "from tailbite.core.address import Endpoint; from tailbite.kernel.tcp_repair import replace_time_wait\n"
        f"try: replace_time_wait(Endpoint('127.0.0.1', {PORT}), 2)\nexcept OSError as error: print(error.errno)"
    )
    done = subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True)
    assert (done.stdout, sys.platform) == (f"{errno.EPERM}\n", "linux"), done.stderr
