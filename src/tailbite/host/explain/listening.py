"""Findings for a port that a socket listens on: a server, a silent one, or a socket without a process. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.bind_forecast import Overlap
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.held import holder_of, not_visible_remedy, owners_of
from tailbite.host.explain.phrases import join_words, spell_forecasts, verb_for
from tailbite.host.explain.remedies import restart_holders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.host.explain.evaluation import Evaluation, Group
    from tailbite.host.see.port import PortUse

__all__ = ["listening_finding"]


def listening_finding(found: Evaluation, groups: Sequence[Group]) -> Finding:
    """Return the finding about the listeners of a port; those that serve the address come first."""
    uses = tuple(use for group in groups for use in group.uses)
    serving = tuple(use for use in uses if found.host is None or _serves(use, found.host))
    if found.host is not None and not serving:
        make = _elsewhere
    elif _is_ownerless(found, serving or uses):
        make = _without_process
    elif _does_not_accept(found, serving):
        make = _silent
    elif found.host is None and all(_is_v6_only(use) for use in uses):
        make = _only_v6
    else:
        make = _server
    finding = make(found, serving or uses)
    return replace(finding, ports=PortSet.of([found.port]))


def _base(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return Finding(
        "TB106",
        Severity.FINE,
        Confidence.CERTAIN,
        "",
        "",
        (),
        found.shot.namespace,
        uses[0].socket.endpoints.local,
        owners_of(uses),
        tuple(_queue(use) for use in uses),
    )


def _server(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    owners = owners_of(uses)
    uids = sorted({use.socket.uid for use in uses})
    inherited = (
        " Several processes have the listener open, so it lasts until the last of them closes it."
        if len(owners) > 1
        else ""
    )
    return replace(
        _base(found, uses),
        what=f"{_listens(found, uses)} on {_ends(uses)}: a server. No client can be given its port.",
        why=f"{spell_forecasts(found.forecasts, found.port)} A second server needs SO_REUSEPORT, on both, and must "
        f"run as the same user (uid {uids[0]}).{inherited}",
        remedies=_if_not_yours(found, uses),
    )


def _only_v6(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on {_ends(uses)}, for IPv6 clients "
        "only: a client that dials 127.0.0.1 is refused.",
        why=spell_forecasts(found.forecasts, found.port),
        remedies=(
            Remedy("let the server bind :: without IPV6_V6ONLY, or 0.0.0.0 as well"),
            *_if_not_yours(found, uses),
        ),
    )


def _elsewhere(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    family = "on IPv6: " if all(":" in use.socket.endpoints.local.host for use in uses) else ""
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on port {found.port}, but only "
        f"{family or 'on '}{_ends(uses)}. A client that dials {found.host} is refused.",
        why="A server has the addresses that it bound, and no others; localhost may mean 127.0.0.1 or ::1. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        remedies=(
            Remedy(f"dial {_ends(uses)} instead"),
            Remedy(f"or let the server bind {found.host} as well, or 0.0.0.0 or ::"),
        ),
    )


def _silent(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    count = len(found.waiting) or max(use.socket.receive_queue for use in uses)
    longest = max((use.traffic.idle_ms for use in found.waiting if use.traffic), default=0) / 1000
    waits = f" for up to {longest:.0f} s" if longest else ""
    return replace(
        _base(found, uses),
        code="TB115",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on {_ends(uses)} and does not accept: "
        f"{count} connection{'' if count == 1 else 's'} wait{'s' if count == 1 else ''} in the queue{waits}.",
        why="Clients are connected by the kernel and get no answer. The server is stopped or overloaded, or it ended "
        f"and a child process inherited its listener. {spell_forecasts(found.forecasts, found.port)}",
        remedies=(*restart_holders(owners_of(uses)), *not_visible_remedy(found, uses)),
    )


def _without_process(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB114",
        severity=Severity.WARNING,
        what=f"A socket listens on {_ends(uses)}, and no process has it open.",
        why="It is a socket of the kernel itself (NFS lockd or callbacks, DRBD, iSCSI, an MPTCP endpoint), or it is "
        "in flight over a Unix socket (SCM_RIGHTS), or a process of another PID namespace has it. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        remedies=(
            Remedy("check NFS and other RPC services", ("rpcinfo -p",)),
            Remedy("check MPTCP endpoints that have a port", (found.shot.namespace.enter("ip mptcp endpoint show"),)),
            Remedy("check the port parameters of kernel modules such as lockd, drbd and iscsi_target_mod"),
        ),
    )


def _listens(found: Evaluation, uses: tuple[PortUse, ...]) -> str:
    return f"{holder_of(found, uses)} {verb_for(owners_of(uses), 'listens', 'listen')}"


def _if_not_yours(found: Evaluation, uses: tuple[PortUse, ...]) -> tuple[Remedy, ...]:
    """Return what to do about a server that is not the expected one; nothing has to be done about one that is."""
    stops = restart_holders(owners_of(uses), verb="stop")
    return (
        *(replace(one, text=f"if it is not the server that you expect: {one.text}") for one in stops),
        *not_visible_remedy(found, uses),
    )


def _queue(use: PortUse) -> Fact:
    waiting, limit = use.socket.receive_queue, use.socket.send_queue
    name = f"queue of {use.socket.endpoints.local}"
    return Fact(name, waiting, "connections", f"{waiting} of {limit} waiting")


def _ends(uses: Sequence[PortUse]) -> str:
    return join_words(str(use.socket.endpoints.local) for use in uses)


def _is_ownerless(found: Evaluation, uses: Sequence[PortUse]) -> bool:
    return found.shot.sees_processes and not owners_of(uses)


def _does_not_accept(found: Evaluation, uses: Sequence[PortUse]) -> bool:
    if any(use.socket.receive_queue > use.socket.send_queue for use in uses):  # full: the next SYN is dropped
        return True
    waits_here = [use for use in found.waiting if found.host is None or found.overlap(use) is not Overlap.NO]
    return bool(waits_here) and any(use.socket.receive_queue for use in uses)


def _is_v6_only(use: PortUse) -> bool:
    host = use.socket.endpoints.local.host
    return ":" in host and (bool(use.socket.v6_only) or host != "::")


def _serves(use: PortUse, host: str) -> bool:
    theirs = use.socket.endpoints.local.host
    if theirs == "::":
        return ":" in host or not use.socket.v6_only
    return theirs == host or (theirs == "0.0.0.0" and ":" not in host)
