"""Texts that the kernel takes for the two port settings, asked of the kernel itself."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tailbite.core.ports import HIGHEST_PORT, PortRange
from tailbite.host.sysctl.value import EPHEMERAL, RESERVED, lower_end_value, range_value, reserved_value
from tailbite.kernel.sysctl import (
    read_ephemeral_range,
    read_reserved_ports,
    write_ephemeral_range,
    write_sysctl,
)

IN_ONE_NAMESPACE = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.one_of(
    st.integers(0, 70_000).map(str),
    st.sampled_from(["0", "010", "09", "0x10", "0X1f", "65535", "65536", "+1", "-1", "99999999999"]),
)
lists = st.lists(st.tuples(numbers, st.sampled_from(["", ",", "-", " ", ", ", ",,", "\t", ";"]))).map(
    lambda parts: "".join(number + between for number, between in parts)
)


@pytest.mark.usefixtures("network")
@IN_ONE_NAMESPACE
@given(text=lists)
@example(text="")
@example(text="3-1")
@example(text="8080 # web")
def test_a_list_of_ports_is_taken_or_refused_as_the_kernel_does(text: str) -> None:
    write_sysctl("ip_local_reserved_ports", "\n")
    try:
        write_sysctl("ip_local_reserved_ports", f"{text}\n")
    except OSError:
        assert reserved_value(text) is None
    else:
        assert reserved_value(text) == read_reserved_ports()


@pytest.mark.usefixtures("network")
@IN_ONE_NAMESPACE
@given(
    text=st.lists(numbers, min_size=1, max_size=3).flatmap(
        lambda n: st.sampled_from([" ", "\t", ",", "-"]).map(lambda s: s.join(n))
    )
)
@example(text="40000")
@example(text="1023 2000")
@example(text="2000 2000")
@example(text="  1024   65535  ")
@example(text="32768 60999 # the default")
def test_a_range_is_taken_or_refused_as_the_kernel_does(text: str) -> None:
    write_ephemeral_range(PortRange(32768, 60999))
    try:
        write_sysctl("ip_local_port_range", f"{text}\n")
    except OSError:
        assert range_value(text) is None
        assert (lower_end_value(text) or HIGHEST_PORT) > 60999
    else:
        low = lower_end_value(text)
        assert (range_value(text) or PortRange(low or 0, 60999)) == read_ephemeral_range()


def test_a_setting_has_the_name_of_its_file() -> None:
    assert (RESERVED.name, EPHEMERAL.name) == ("ip_local_reserved_ports", "ip_local_port_range")
