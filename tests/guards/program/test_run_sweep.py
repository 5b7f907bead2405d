"""Every port of several ranges, up to 65535, is kept from being the source port."""

from __future__ import annotations

import pytest

from support.guarded import PYTHON, guarded, run
from support.trap import wait_for_release
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

pytestmark = pytest.mark.usefixtures("network")

# In a range of two ports, for each port of FIRST to LAST; prints how often it was itself, and how often refused.
NARROW = """
import socket, sys, time
itself = refused = 0
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    low = min(port, 65534)
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write(f"{low} {low + 1}")
    time.sleep(0.012)  # a range that was read is believed for 10 ms
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        sock = socket.socket(family)
        number = sock.connect_ex((host, port))
        itself += number == 0
        refused += number == 111
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        sock.close()
print(itself, refused)
"""

# For each port of the ephemeral range: prints how many sockets had no range of their own, or one with the port in it.
WIDE = """
import socket, sys
first, last = int(sys.argv[1]), int(sys.argv[2])
wrong = 0
sides = [0, 0]
for port in range(first, last + 1):
    sock = socket.socket()
    assert sock.connect_ex(("127.0.0.1", port)) == 111, port
    value = sock.getsockopt(socket.IPPROTO_IP, 51) & 0xFFFFFFFF
    low, high = value & 0xFFFF, value >> 16
    wrong += not (first <= low <= high <= last) or low <= port <= high
    sides[low > port] += 1
    sock.close()
print(wrong, *sides)
"""


@pytest.mark.parametrize(
    ("first", "last"), [(1024, 1087), (9000, 9063), (32736, 32799), (46852, 46915), (65472, 65535)]
)
def test_in_a_range_of_two_ports_none_of_these_is_its_own_source(first: int, last: int) -> None:
    """The control: the same client without the guard."""
    sweep = [PYTHON, "-c", NARROW, str(first), str(last)]
    done = run(guarded(sweep))
    assert done.stdout.split() == ["0", str(2 * (last - first + 1))], done.stderr
    wait_for_release()
    control = run(sweep)
    assert int(control.stdout.split()[0]) > (last - first) / 2


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")
@pytest.mark.parametrize("ports", [PortRange(1024, 3000), PortRange(32700, 34000), PortRange(60000, 65535)], ids=str)
def test_every_single_port_of_a_range_is_left_out_of_the_range_its_socket_gets(ports: PortRange) -> None:
    """Both sides are used, in proportion, so no source port is given up."""
    write_ephemeral_range(ports)
    done = run(guarded([PYTHON, "-c", WIDE, str(ports.low), str(ports.high)]), timeout=100)
    wrong, lower, upper = map(int, done.stdout.split())
    assert wrong == 0
    assert lower + upper == len(ports)
    assert 0.45 < lower / len(ports) < 0.55
