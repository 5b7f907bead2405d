"""The end of a watch: the verdict depends on what a client does, not on the moment at which the audit looks away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tailbite.audit import trap
from tailbite.audit.enough import Watched, is_enough
from tailbite.audit.observe import SelfConnects
from tailbite.audit.records import Allocator, Limits
from tailbite.core.address import Endpoint
from tailbite.kernel.packets import TcpFlags, TcpOptions, TcpSegment

PHASE = trap.phase("127.0.0.1", Allocator.CONNECT)
LIMITS = Limits(dial=10, watch=2, hold=1.8, patience=20, total=100)
SYN, ACK, FIN, RST = TcpFlags.SYN, TcpFlags.ACK, TcpFlags.FIN, TcpFlags.RST
OWN, OTHER = Endpoint("127.0.0.1", PHASE.port), Endpoint("127.0.0.1", PHASE.port + 1)


def recorded(*events: tuple[float, str]) -> SelfConnects:
    """Return what was recorded of a client that does these things at these seconds."""
    found = SelfConnects(PHASE.port)
    for at, kind in events:
        for flags in {"refused": [SYN], "itself": [SYN, SYN | ACK], "closes": [FIN | ACK], "resets": [RST]}[kind]:
            source = OTHER if kind == "refused" else OWN
            found.feed(TcpSegment(int(at * 1e9), source, OWN, flags, 7, 0, 0, 0, b"", TcpOptions()))
    return found


def over(now: float, found: SelfConnects, *, must_come_back: bool = True, limits: Limits = LIMITS) -> bool:
    return is_enough(Watched(now, now, False, None, found), limits, PHASE, must_come_back=must_come_back)


FLAPPING = recorded((1, "itself"), (1.01, "closes"), (4.7, "itself"))


@pytest.mark.parametrize(("now", "expected"), [(4.81, False), (6.4, False), (6.51, True)])
def test_a_connection_to_itself_that_began_in_time_is_watched_until_it_is_held(now: float, expected: bool) -> None:
    assert over(now, FLAPPING) is expected


def test_one_that_began_late_is_not_waited_for_unless_the_client_must_come_back() -> None:
    late = recorded((1, "itself"), (1.01, "resets"), (4.85, "itself"))
    assert over(4.9, late, must_come_back=False)
    assert not over(4.9, late)
    assert over(6.7, late)
    often = [event for at in (1, 2, 3, 4) for event in ((at, "itself"), (at + 0.01, "resets"))]
    assert over(5, recorded(*often, (4.9, "itself")))


@pytest.mark.parametrize(("now", "expected"), [(2.5, False), (2.9, False), (3.01, True)])
def test_a_client_that_closed_is_given_time_to_say_what_it_makes_of_it(now: float, expected: bool) -> None:
    assert over(now, recorded((1, "itself"), (1.4, "closes"))) is expected


def test_a_client_that_reset_its_first_one_is_watched_until_it_came_back_or_patience_is_over() -> None:
    once = recorded((1, "itself"), (1.01, "resets"))
    assert not over(20.9, once)
    assert over(21.1, once)
    assert over(5, once, must_come_back=False)
    assert not over(9, recorded((1, "itself"), (1.01, "resets"), (6, "refused")))
    assert over(14, recorded((1, "itself"), (1.01, "resets"), (6, "refused"), (12, "itself"), (12.01, "resets")))


def test_a_client_that_did_harm_is_not_watched_until_it_came_back() -> None:
    assert over(4, recorded((1, "itself"), (1.01, "closes")))
    assert over(5, recorded((1, "itself"), (2.6, "resets")))


def test_a_client_that_is_refused_is_watched_until_it_came_back_or_patience_is_over() -> None:
    assert not over(20.9, recorded((1, "refused")))
    assert over(21.1, recorded((1, "refused")))
    assert over(4, recorded((1, "refused"), (2, "refused"), (3, "refused")))
    assert over(4, recorded((1, "refused")), must_come_back=False)
    assert not over(25, recorded((1, "refused")), limits=replace(LIMITS, watch=30))


def test_a_pass_takes_as_long_with_the_limits_of_quick() -> None:
    often = recorded(*((1 + 0.3 * number, "refused") for number in range(6)))
    assert not over(2.9, often, limits=Limits.of_quick())
    assert over(3.1, often, limits=Limits.of_quick())
    assert over(1.6, often, limits=Limits.of_quick(), must_come_back=False)


def test_nothing_is_waited_for_when_the_client_is_gone_or_never_dials() -> None:
    assert is_enough(Watched(1, 1, True, None, recorded()), LIMITS, PHASE, must_come_back=True)
    assert not over(9.9, recorded())
    assert over(10, recorded())
    crowded = Watched(4, 4, False, 1.5, recorded())
    assert is_enough(crowded, LIMITS, PHASE, must_come_back=True)
    assert not is_enough(crowded, LIMITS, trap.phase("::1", Allocator.CONNECT), must_come_back=True)
    assert over(102, FLAPPING, limits=replace(LIMITS, hold=200))
