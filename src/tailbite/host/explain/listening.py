"""Findings for a port that a socket listens on: a server, a silent one, or a socket without a process. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.bind_forecast import Overlap
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.held import holder_of, owners_of
from tailbite.host.explain.phrases import (
    as_beginning,
    first_words,
    holder_name,
    join_words,
    spell_forecasts,
    verb_for,
)
from tailbite.host.explain.remedies import find_holder, restart_holders
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tailbite.core.address import Endpoint
    from tailbite.host.explain.bind_forecast import BindAddress
    from tailbite.host.explain.evaluation import Evaluation, Group
    from tailbite.host.see.port import PortUse

__all__ = ["listening_finding"]

_MOST_HOLDERS = 3
_MOST_QUEUES = 5
_LOOPBACK = 1  # the index of lo in every network namespace (LOOPBACK_IFINDEX)
_DEVICE_RULE = (
    "A server that is bound to a device (SO_BINDTODEVICE) gets only what arrives there, and what this host sends to "
    "itself arrives on lo."
)


def listening_finding(found: Evaluation, groups: Sequence[Group]) -> Finding:
    """Return the finding about the listeners of a port; those that serve the address come first."""
    uses = tuple(use for group in groups for use in group.uses)
    serving = tuple(use for use in uses if found.host is None or _serves(use, found.addresses[0]))
    if found.host is not None and not serving:
        make = _elsewhere
    elif _is_ownerless(found, serving or uses):
        make = _without_process
    elif silent := _silent_ones(found, serving):
        make, serving = _silent, silent
    elif all(use.socket.endpoints.local.host in found.shot.absent for use in serving):
        make = _on_absent_address
    elif found.host is None and all(map(_is_for_device, uses)):
        make = _only_device
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
        tuple(_queues(uses)),
    )


def _server(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    inherited = (
        " Several processes have the listener open, so it lasts until the last of them closes it."
        if any(len(use.owners) > 1 for use in uses)
        else ""
    )
    return replace(
        _base(found, uses),
        what=f"{_each_listens(found, uses)}: a server. No client can be given its port.",
        why=f"{spell_forecasts(found.forecasts, found.port)} A second server needs SO_REUSEPORT, on both, and must "
        f"run as the same user ({_users(found, uses)}).{inherited}",
        remedies=_if_not_yours(found, uses),
    )


def _only_v6(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on {_ends(found, uses)}, for IPv6 clients "
        "only: a client that dials 127.0.0.1 is refused.",
        why=spell_forecasts(found.forecasts, found.port),
        remedies=(
            Remedy("let the server bind :: without IPV6_V6ONLY, or 0.0.0.0 as well"),
            *_if_not_yours(found, uses),
        ),
    )


def _only_device(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.NOTICE,
        what=f"{_listens(found, uses)} on {_ends(found, uses)}, bound to a device: a client on this host that dials "
        "127.0.0.1 is refused.",
        why=f"{_DEVICE_RULE} {spell_forecasts(found.forecasts, found.port)}",
        remedies=_if_not_yours(found, uses),
    )


def _on_absent_address(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.NOTICE,
        what=f"{_listens(found, uses)} on {_ends(found, uses)}, and this host does not have that address: no client "
        "reaches the server.",
        why="The address was removed since, or the server bound it in advance (IP_FREEBIND, ip_nonlocal_bind) and "
        f"gets it later, as a standby does. {spell_forecasts(found.forecasts, found.port)}",
        remedies=_if_not_yours(found, uses),
    )


def _elsewhere(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    family = "on IPv6: " if all(":" in use.socket.endpoints.local.host for use in uses) else ""
    if all(not _receives_from_here(use, found.addresses[0]) for use in uses):
        return _on_another_device(found, uses)
    there = [use for use in uses if use.socket.endpoints.local.host not in found.shot.absent]
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on port {found.port}, but only "
        f"{family or 'on '}{_ends(found, uses)}. A client that dials {found.host} is refused.",
        why="A server has the addresses that it bound, and no others; localhost may mean 127.0.0.1 or ::1. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        remedies=(
            *(
                (Remedy(f"dial {first_words((str(_dialled(use)) for use in there), 'addresses')} instead"),)
                if there
                else ()
            ),
            Remedy(f"{'or ' if there else ''}let the server bind {_wider(found)}"),
        ),
    )


def _wider(found: Evaluation) -> str:
    """Name the addresses that a server may bind so that it is reached, as far as no other socket is in the way."""
    if not found.is_free:
        return f"{found.host} as well, once nothing else holds it (see below)"
    others = any(use.socket.state is not TcpState.LISTEN for use in found.shot.uses)
    return f"{found.host} as well{'' if others else ', or 0.0.0.0 or ::'}"


def _on_another_device(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB107",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on {_ends(found, uses)}, bound to a device: a client on this host that dials "
        f"{found.addresses[0].spell(found.port)} is refused.",
        why=f"{_DEVICE_RULE} {spell_forecasts(found.forecasts, found.port)}",
        remedies=(Remedy("let the server listen without SO_BINDTODEVICE, or on lo as well"),),
    )


def _silent(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    count = sum(use.socket.receive_queue for use in uses)
    longest = max((use.traffic.idle_ms for use in found.waiting if use.traffic), default=0) / 1000
    waits = f" for up to {longest:.0f} s" if longest else ""
    return replace(
        _base(found, uses),
        code="TB115",
        severity=Severity.WARNING,
        what=f"{_listens(found, uses)} on {_ends(found, uses)} and "
        f"{verb_for(uses, 'does', 'do')} not accept: "
        f"{count} connection{'' if count == 1 else 's'} wait{'s' if count == 1 else ''} in the queue{waits}.",
        why="Clients are connected by the kernel and get no answer. The server is stopped or overloaded, or it ended "
        f"and a child process inherited its listener. {spell_forecasts(found.forecasts, found.port)}",
        remedies=(*restart_holders(owners_of(uses), port=found.port), *find_holder(found, uses)),
    )


def _without_process(found: Evaluation, uses: tuple[PortUse, ...]) -> Finding:
    return replace(
        _base(found, uses),
        code="TB114",
        severity=Severity.WARNING,
        what=f"A socket listens on {_ends(found, uses)}, and no process"
        f"{' of this PID namespace' if found.shot.in_pid_namespace else ''} has it open.",
        why="It is a socket of the kernel itself (NFS lockd or callbacks, DRBD, iSCSI, an MPTCP endpoint), or it is "
        "in flight over a Unix socket (SCM_RIGHTS)"
        f"{', or a process outside this PID namespace has it' if found.shot.in_pid_namespace else ''}. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        remedies=(
            Remedy("check NFS and other RPC services", ("rpcinfo -p",)),
            Remedy("check MPTCP endpoints that have a port", (found.shot.namespace.enter("ip mptcp endpoint show"),)),
            Remedy("check the port parameters of kernel modules such as lockd, drbd and iscsi_target_mod"),
            *find_holder(found, uses),
        ),
    )


def _listens(found: Evaluation, uses: tuple[PortUse, ...]) -> str:
    return f"{holder_of(found, uses)} {verb_for(uses, 'listens', 'listen')}"


def _each_listens(found: Evaluation, uses: tuple[PortUse, ...]) -> str:
    """Say which holder listens on which address."""
    by_holder: dict[str, list[PortUse]] = {}
    for use in uses:
        by_holder.setdefault(holder_name([use], sees_processes=found.shot.sees_processes), []).append(use)
    if len(by_holder) > _MOST_HOLDERS:
        return f"{_listens(found, uses)} on {_ends(found, uses)}"
    return as_beginning(
        join_words(
            f"{who} {verb_for(some, 'listens', 'listen')} on {_ends(found, some)}" for who, some in by_holder.items()
        )
    )


def _users(found: Evaluation, uses: tuple[PortUse, ...]) -> str:
    uids: dict[int, list[PortUse]] = {}
    for use in uses:
        uids.setdefault(use.socket.uid, []).append(use)
    if len(uids) == 1:
        return f"uid {uses[0].socket.uid}"
    return join_words(f"uid {uid} for {_ends(found, some)}" for uid, some in uids.items())


def _if_not_yours(found: Evaluation, uses: tuple[PortUse, ...]) -> tuple[Remedy, ...]:
    """Return what to do about a server that is not the expected one; nothing has to be done about one that is."""
    stops = restart_holders(owners_of(uses), verb="stop", port=found.port)
    return (
        *(replace(one, text=f"if it is not the server that you expect: {one.text}") for one in stops),
        *find_holder(found, uses),
    )


def _queues(uses: Sequence[PortUse]) -> Iterator[Fact]:
    """Yield the queue of each address, the longest first; listeners of one address (SO_REUSEPORT) are added up."""
    by_end: dict[Endpoint, list[PortUse]] = {}
    for use in uses:
        by_end.setdefault(use.socket.endpoints.local, []).append(use)
    lengths = {end: sum(use.socket.receive_queue for use in some) for end, some in by_end.items()}
    ranked = sorted(by_end, key=lambda end: -lengths[end])
    for end in ranked[:_MOST_QUEUES]:
        some = by_end[end]
        limit = sum(use.socket.send_queue for use in some)
        where = f", in {len(some)} queues" if len(some) > 1 else ""
        yield Fact(f"queue of {end}", lengths[end], "connections", f"{lengths[end]} of {limit} waiting{where}")
    if ranked[_MOST_QUEUES:]:
        yield Fact("and more", len(ranked) - _MOST_QUEUES, "addresses")


def _ends(found: Evaluation, uses: Sequence[PortUse]) -> str:
    return first_words((_end(found, use) for use in uses), "addresses")


def _end(found: Evaluation, use: PortUse) -> str:
    """Return the address of a listener, with the device that it is bound to as ss(8) prints it."""
    end, device = use.socket.endpoints.local, use.socket.interface
    if not device:
        return str(end)
    name = found.shot.devices.get(device, str(device))
    return f"[{end.host}%{name}]:{end.port}" if ":" in end.host else f"{end.host}%{name}:{end.port}"


def _dialled(use: PortUse) -> Endpoint:
    """Return the address that a client on this host dials to reach a listener."""
    end = use.socket.endpoints.local
    return replace(end, host={"::": "::1", "0.0.0.0": "127.0.0.1"}.get(end.host, end.host))


def _is_ownerless(found: Evaluation, uses: Sequence[PortUse]) -> bool:
    return found.shot.sees_processes and not owners_of(uses)


def _silent_ones(found: Evaluation, uses: Sequence[PortUse]) -> tuple[PortUse, ...]:
    """Return the listeners whose queue is full, or has connections while some wait for longer than a second."""
    waits_here = any(found.host is None or found.overlap(use) is not Overlap.NO for use in found.waiting)
    return tuple(
        use
        for use in uses
        if use.socket.receive_queue > use.socket.send_queue  # full: the next SYN is dropped
        or (waits_here and use.socket.receive_queue)
    )


def _is_for_device(use: PortUse) -> bool:
    """Tell whether clients on this host cannot reach a listener, because it is bound to a device other than lo."""
    return use.socket.interface not in (0, _LOOPBACK) and ":" not in use.socket.endpoints.local.host


def _is_v6_only(use: PortUse) -> bool:
    host = use.socket.endpoints.local.host
    return ":" in host and (bool(use.socket.v6_only) or host != "::")


def _serves(use: PortUse, asked: BindAddress) -> bool:
    """Tell whether a client on this host that dials the address reaches the listener."""
    theirs, host = use.socket.endpoints.local.host, asked.host
    if not _receives_from_here(use, asked):
        return False
    if theirs == "::":
        return ":" in host or not use.socket.v6_only
    return theirs == host or (theirs == "0.0.0.0" and ":" not in host)


def _receives_from_here(use: PortUse, asked: BindAddress) -> bool:
    """Tell whether what this host sends to the address arrives on the device that the listener is bound to.

    IPv4 packets of a host to itself arrive on ``lo``, whatever the address (inet_iif, include/net/route.h). IPv6
    packets arrive on the device that has the address (ip6_rcv_core), which is known of ::1 and of link-local
    addresses only.
    """
    device = use.socket.interface
    if not device:
        return True
    if ":" not in asked.host or asked.host == "::1":
        return device == _LOOPBACK
    return not asked.interface or device == asked.interface
