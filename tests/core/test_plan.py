"""The plan is certain wherever it says so, and gives up no source port but the one it must."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.address import Endpoint
from tailbite.core.plan import HostFacts, Means, Plan, plan, would_be_self
from tailbite.core.ports import PortRange
from tailbite.core.sub_ranges import lower_share

ports = st.integers(1, 65535)
ranges = st.tuples(ports, ports).map(lambda pair: PortRange(min(pair), max(pair)))
draws = st.floats(0, 1, exclude_max=True)


@given(ephemeral=ranges.filter(lambda ports: len(ports) > 1), where=st.floats(0, 1), draw=draws)
def test_no_sub_range_of_a_steering_plan_holds_the_port_and_together_they_are_all_the_rest(
    ephemeral: PortRange, where: float, draw: float
) -> None:
    port = ephemeral.low + round(where * (len(ephemeral) - 1))
    made = plan(port, 0, HostFacts(ephemeral, True))
    assert made.means is Means.STEER
    order = made.order(draw)
    assert all(port not in sub_range for sub_range in order)
    assert sum(map(len, order)) == len(ephemeral) - 1
    assert set(order) == set(made.sub_ranges)


@given(low=st.integers(1, 40000), below=st.integers(1, 12000), above=st.integers(1, 12000))
def test_the_lower_sub_range_comes_first_for_its_share_of_the_draws(low: int, below: int, above: int) -> None:
    port = low + below
    made = plan(port, 0, HostFacts(PortRange(low, port + above), True))
    lower, upper = made.sub_ranges
    assert (len(lower), len(upper)) == (below, above)
    assert made.lower_share == lower_share(made.sub_ranges)
    assert made.order(made.lower_share)[0] == upper
    if made.lower_share > 0:
        assert made.order(made.lower_share - 1e-9)[0] == lower


@given(port=ports, ephemeral=ranges, steerable=st.booleans(), bound=st.integers(0, 65535))
def test_each_means_is_chosen_where_it_is_enough(
    port: int, ephemeral: PortRange, steerable: bool, bound: int
) -> None:
    made = plan(port, bound, HostFacts(ephemeral, steerable))
    if bound:
        assert made.means is (Means.CHECK if bound == port else Means.NOTHING)
    elif port not in ephemeral:
        assert made.means is Means.NOTHING
    elif steerable and len(ephemeral) > 1:
        assert made.means is Means.STEER
    else:
        assert made.means is Means.RESET
    assert made.is_certain == (made.means in (Means.NOTHING, Means.STEER))
    assert made.has_other_port == (bound != 0 or ephemeral != PortRange(port, port))


@given(port=ports, steerable=st.booleans())
def test_an_unknown_range_is_never_trusted(port: int, steerable: bool) -> None:
    assert plan(port, 0, HostFacts(None, steerable)).means is Means.RESET


def test_what_would_be_to_itself() -> None:
    here, there, anywhere = Endpoint("127.0.0.1", 80), Endpoint("127.0.0.2", 80), Endpoint("0.0.0.0", 80)
    assert would_be_self(here, here)
    assert would_be_self(anywhere, there), "the route may choose the destination's own address"
    assert would_be_self(there, anywhere), "0.0.0.0 as a destination is this host"
    assert not would_be_self(there, here)
    assert not would_be_self(Endpoint("127.0.0.1", 81), here)
    assert not would_be_self(Endpoint("127.0.0.1", 0), here)


@given(low=ports.filter(lambda port: port < 65000), port=st.integers(1, 60))
def test_without_the_option_a_self_connect_is_reset(low: int, port: int) -> None:
    made = plan(low + port, 0, HostFacts(PortRange(low, low + 100), False))
    assert made == Plan(Means.RESET, is_certain=False)
