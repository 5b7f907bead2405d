"""Sentences about a firewall rule that cannot be installed: the reason, and what does work on this kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.guards.host.firewall import present_versions
from tailbite.guards.host.trial import can_install

if TYPE_CHECKING:
    from tailbite.errors import FirewallError

__all__ = ["explain_refusal", "installing_command"]

_NEEDS = (
    "This needs root (CAP_NET_ADMIN), or a network namespace of your own: "
    "unshare -Urn sh -c 'ip link set lo up; tailbite host-guard install --apply; ...'"
)
_INSTALL = "tailbite host-guard install --apply"
_ALONE = "Nftables alone cannot compare two fields of a packet."


def explain_refusal(error: FirewallError) -> str:
    """Return why a command of iptables failed, and what to do."""
    said = error.said.lower()
    if "permission denied" in said or "not permitted" in said or "lock file" in said:
        return f"{_sentence(error)} {_NEEDS}"
    if any(text in said for text in ("couldn't load match", "no such file", "extension bpf", "target/match by that")):
        missing = "The kernel or iptables has no 'bpf' match here (xt_bpf, CONFIG_NETFILTER_XT_MATCH_BPF)."
        return f"{_sentence(error)} {missing} {_ALONE} {_what_works()}"
    if "not supported" in said or "table does not exist" in said:
        missing = "The kernel lacks what this variant of iptables needs (nf_tables and nft_compat, or ip_tables)."
        return f"{_sentence(error)} {missing} {_ALONE} {_what_works()}"
    if error.status == 127:
        return f"{_sentence(error)} {_ALONE} {_what_works()}"
    return str(error)


def installing_command(variant: str | None) -> str:
    """Return the command that installs the rule here, or what works in its place.

    The other variant is tried only where the first one fails: a trial of iptables-legacy loads its tables into the
    kernel.
    """
    if can_install(variant, present_versions()) is not False:
        return _command_for(variant)
    if (other := _working_variant()) is not None:
        return _command_for(other)
    return f"and cannot be on this kernel. {_what_works()}"


def _command_for(variant: str | None) -> str:
    return f"tailbite host-guard install --variant {variant} --apply" if variant else _INSTALL


def _working_variant() -> str | None:
    return next((one for one in ("nft", "legacy") if can_install(one, present_versions())), None)


def _what_works() -> str:
    from tailbite.host.see.abilities import can_destroy, run_options

    ways = ["reserve the ports of your servers (tailbite fix --reserve PORT --apply)"]
    if (options := run_options()) is not None:
        ways.append(f"start clients under tailbite run{options}")
    if can_destroy():
        ways.append("end self-connects as they come (tailbite watch --kill)")
    if (variant := _working_variant()) is not None:
        ways.insert(0, f"use the other variant (--variant {variant})")
    return f"What works here: {', or '.join(ways)}"


def _sentence(error: FirewallError) -> str:
    """Return what the program said as a sentence with a full stop."""
    return f"{str(error).strip().rstrip('.')}."
