"""A trial of the firewall rule says whether it can be installed here, and leaves nothing where it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.guarded import needs_another_user, run
from support.users import python_as_nobody
from tailbite.errors import FirewallError
from tailbite.guards.host import trial
from tailbite.guards.host.firewall import find_firewall, read_state
from tailbite.guards.host.trial import can_install

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("network")]


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("nft", marks=pytest.mark.needs("XT_BPF_NFT")),
        pytest.param("legacy", marks=pytest.mark.needs("XT_BPF_LEGACY")),
    ],
)
def test_a_variant_that_works_is_found_and_nothing_is_installed_here(
    variant: str, peer: Callable[[str], str]
) -> None:
    peer(f"iptables-{variant}")
    assert can_install(variant, (4, 6))
    assert not read_state(find_firewall(4, variant)).has_chain


def test_a_variant_whose_rule_the_kernel_refuses_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise FirewallError(("iptables",), 1, "RULE_APPEND failed (Operation not supported)")

    monkeypatch.setattr(trial, "apply_commands", refuse)
    assert can_install(None, (4,)) is False


def test_a_user_who_may_not_try_gets_no_answer() -> None:
    needs_another_user()
    code = "from tailbite.guards.host.trial import can_install; print(can_install(None, (4,)))"
    assert run(python_as_nobody("-c", code)).stdout == "None\n"
