"""Reading and writing the sysctls of a namespace, against the real kernel."""

from __future__ import annotations

import pytest

from tailbite.core.ports import HIGHEST_PORT, PortSet
from tailbite.kernel.sysctl import read_reserved_ports, write_reserved_ports


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("many", [0, 1, 680, 700, 4000, 32_000])
def test_a_list_of_reserved_ports_of_any_length_comes_back_whole(many: int) -> None:
    """The kernel takes a page of it per write, and gives all of it in one read only."""
    ports = PortSet.of(range(HIGHEST_PORT - 2 * many + 1, HIGHEST_PORT + 1, 2))
    write_reserved_ports(PortSet.parse("7"))
    write_reserved_ports(ports)
    assert read_reserved_ports() == ports
    assert len(ports) == many
