"""Findings for a port that is held: self-connects, connections, TIME-WAIT, sockets that are only bound. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.bind_forecast import Overlap
from tailbite.host.explain.evaluation import Kind, Role
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import (
    as_beginning,
    first_words,
    holder_name,
    oldest_first,
    process_names,
    range_words,
    seconds_left,
    spell_forecasts,
    spell_span,
    time_left,
    verb_for,
)
from tailbite.host.explain.remedies import (
    UNLESS_BOUND,
    destroy_connection,
    destroy_self_connect,
    find_holder,
    guard_client,
    reserve_port,
    restart_holders,
    reuse_address,
    wait_for_end,
)
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailbite.host.explain.evaluation import Evaluation, Group
    from tailbite.host.see.port import PortUse
    from tailbite.host.see.records import Process

__all__ = ["held_finding", "holder_of", "owners_of"]

_SHOWN = 5  # connections listed one by one
_PRIVILEGED = 1024
_NFS = 2049


def held_finding(found: Evaluation, group: Group) -> Finding:
    """Return the finding about one group of sockets, other than listeners."""
    make = _MAKERS[group.kind]
    finding = replace(make(found, group), ports=PortSet.of([found.port]))
    if group.overlap is Overlap.YES:
        return finding
    return _not_in_the_way(found, group, finding)


def _not_in_the_way(found: Evaluation, group: Group, finding: Finding) -> Finding:
    """Turn a finding into one about a socket that does not, or may not, keep the addresses from being bound."""
    doubtful = group.overlap is Overlap.MAYBE
    asked = _asked(found)
    note = f"It may be in the way of a bind to {asked}." if doubtful else f"It is not in the way on {asked}."
    return replace(
        finding,
        severity=Severity.WARNING if doubtful else Severity.NOTICE,
        confidence=Confidence.POSSIBLE if doubtful else finding.confidence,
        what=f"{finding.what} {note}",
        remedies=finding.remedies if doubtful or group.kind is Kind.SELF_CONNECT else (),
    )


def _asked(found: Evaluation) -> str:
    return " and ".join(str(end) for end in dict.fromkeys(one.end(found.port) for one in found.addresses))


def holder_of(found: Evaluation, uses: Sequence[PortUse]) -> str:
    """Name who holds sockets, at the beginning of a sentence."""
    return as_beginning(holder_name(uses, sees_processes=found.shot.sees_processes))


def owners_of(uses: Sequence[PortUse]) -> tuple[Process, ...]:
    """Return the processes that have these sockets open, the oldest first."""
    return tuple(oldest_first(owner for use in uses for owner in use.owners))


def _self_connected(found: Evaluation, group: Group) -> Finding:
    use = group.uses[0]
    end = use.socket.endpoints.local
    who = holder_of(found, group.uses)
    idle = ""
    if use.traffic is not None and use.traffic.idle_ms >= 1000:
        idle = f" It has been idle for {spell_span(use.traffic.idle_ms / 1000)}."
    if found.is_exposed:
        cause = "its source port was that port too (chosen by the kernel, unless the client bound it)"
    elif found.is_reserved_only_now:
        cause = "its source port was that port too, by its own bind or because the port was not reserved then"
    else:
        cause = "its source port was that port too, by its own bind or because the ephemeral range was another then"
    return Finding(
        "TB101",
        Severity.CRITICAL,
        Confidence.CERTAIN,
        f"{who} {verb_for(group.uses, 'is', 'are')} connected to itself on {_ends(group)}. No server is there: "
        f"whatever the client writes, it reads back.{idle}",
        f"The client dialled port {found.port} while nobody listened, and {cause}, so its own SYN answered it. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        (
            *destroy_self_connect(found, use),
            *restart_holders(owners_of(group.uses), port=found.port),
            *find_holder(found, group.uses),
            *reserve_port(found, UNLESS_BOUND),
            *guard_client(found, use),
        ),
        found.shot.namespace,
        end,
        owners_of(group.uses),
        tuple(_traffic_facts(use)),
    )


def _left_by_self(found: Evaluation, group: Group) -> Finding:
    use = max(group.uses, key=lambda one: one.socket.expires_ms)
    end = use.socket.endpoints.local
    return Finding(
        "TB102",
        Severity.WARNING,
        Confidence.CERTAIN,
        f"A client was connected to itself on {end} and closed that connection; TIME-WAIT is left, for "
        f"{time_left(use)} more.",
        "TIME-WAIT belongs to no process. A client that closes a self-connect leaves it every time; an abort (RST) "
        f"leaves nothing. {spell_forecasts(found.forecasts, found.port)}",
        (*destroy_self_connect(found, use), wait_for_end(found, group.uses), *reserve_port(found, UNLESS_BOUND)),
        found.shot.namespace,
        end,
        facts=(Fact("TIME-WAIT ends in", seconds_left(use), "s"),),
    )


def _connected(found: Evaluation, group: Group) -> Finding:
    return (_source_port if group.role is Role.CLIENT else _orphaned)(found, group)


def _source_port(found: Evaluation, group: Group) -> Finding:
    use = group.uses[0]
    ends = use.socket.endpoints
    owners = owners_of(group.uses)
    if found.is_exposed:
        cause = f"The kernel could choose the port: {range_words(found.shot)}."
        lasting = reserve_port(found)
    elif found.is_reserved_only_now:
        cause = (
            f"The kernel does not choose this port now: {range_words(found.shot)}. It chose the port before that, or "
            "the program bound it itself, which a reservation does not prevent."
        )
        lasting = _own_bind_remedies(found, group)
    else:
        cause = (
            f"The kernel does not choose this port: {range_words(found.shot)}. So the program bound it itself, as "
            "NFS and other clients of bindresvport(3) do, or the settings were others then. Reserving the port would "
            "not keep a program from binding it."
        )
        lasting = _own_bind_remedies(found, group)
    ends_now = () if _is_mount(found, group) else destroy_connection(found, group.uses)
    wait = _wait_until_closed(group.uses)
    return Finding(
        "TB103",
        Severity.CRITICAL,
        group.confidence,
        _source_port_sentence(found, group),
        f"{cause} {spell_forecasts(found.forecasts, found.port)}",
        (
            *(lasting if not found.can_have_been_chosen else ()),
            *wait,
            *((reuse_address(),) if group.confidence is Confidence.POSSIBLE else ()),
            *ends_now,
            *restart_holders(owners, port=found.port),
            *find_holder(found, group.uses),
            *(lasting if found.can_have_been_chosen else ()),
        ),
        found.shot.namespace,
        ends.local,
        owners,
        (*_connection_facts(group.uses), *_traffic_facts(use)),
    )


def _source_port_sentence(found: Evaluation, group: Group) -> str:
    ends = group.uses[0].socket.endpoints
    count = len(group.uses)
    where = f"{ends.local} to {ends.remote}" + (f" and {count - 1} more" if count > 1 else "")
    who = f"{holder_of(found, group.uses)} {verb_for(group.uses, 'has', 'have')}"
    if group.confidence is Confidence.POSSIBLE:
        return (
            f"{who} a connection from {where}. Either port {found.port} is its source port, or a server accepted it "
            "that no longer listens; the kernel does not tell."
        )
    return f"{who} port {found.port} as the source port of a connection from {where}."


def _is_mount(found: Evaluation, group: Group) -> bool:
    """Tell whether it looks like a mounted file system, whose connection must not be ended without need."""
    return any(use.socket.endpoints.remote.port == _NFS for use in group.uses) or (
        found.port < _PRIVILEGED and not owners_of(group.uses) and found.shot.sees_processes
    )


def _own_bind_remedies(found: Evaluation, group: Group) -> tuple[Remedy, ...]:
    move = Remedy("move the server to a port that no program binds as its source port")
    if not _is_mount(found, group) and found.port >= _PRIVILEGED:
        again = "if it takes the port again: " if found.is_reserved_only_now else ""
        return (Remedy(f"{again}give that program another source port, or none: the kernel chooses one then"), move)
    return (
        Remedy(
            f"keep NFS clients off port {found.port}: set the ports that they bind, or mount with noresvport",
            ("sysctl sunrpc.min_resvport sunrpc.max_resvport",),
            needs_root=True,
        ),
        move,
    )


def _wait_until_closed(uses: Sequence[PortUse]) -> tuple[Remedy, ...]:
    """Return the remedy that needs nothing but time, for connections that the kernel is closing.

    The kernel sends what is left, and the FIN (one byte of the queue), at ever longer intervals. A peer that is gone
    is given up after about 100 s (tcp_orphan_retries, ip-sysctl.rst); a peer that is there and reads nothing, after
    341 s (measured on Linux 6.18: until the interval has grown to TCP_RTO_MAX, 120 s).
    """
    if any(use.socket.inode for use in uses):
        return ()
    if any(use.socket.send_queue > 1 for use in uses):
        return (Remedy("wait: the kernel sends what is left, for up to six minutes while the peer reads nothing"),)
    return (Remedy("wait: the kernel is closing it, which takes a minute or two"),)


def _orphaned(found: Evaluation, group: Group) -> Finding:
    use = group.uses[0]
    count = len(group.uses)
    owners = owners_of(group.uses)
    what = "a connection of a server that did is" if count == 1 else f"{count} connections of a server that did are"
    return Finding(
        "TB111",
        Severity.WARNING,
        group.confidence,
        f"Nobody listens on port {found.port}, but {what} still open, held by "
        f"{holder_name(group.uses, sees_processes=found.shot.sees_processes).rstrip(',')}.",
        spell_forecasts(found.forecasts, found.port),
        (
            reuse_address(),
            *_wait_until_closed(group.uses),
            *restart_holders(owners, verb="stop", port=found.port),
            *find_holder(found, group.uses),
        ),
        found.shot.namespace,
        use.socket.endpoints.local,
        owners,
        _connection_facts(group.uses),
    )


def _left_over(found: Evaluation, group: Group) -> Finding:
    last = max(group.uses, key=lambda use: use.socket.expires_ms)
    count = len(group.uses)
    left = "a connection that was closed" if count == 1 else f"{count} connections that were closed"
    by_client = group.role is Role.CLIENT
    sure = group.confidence is not Confidence.POSSIBLE
    if by_client and sure:
        cause = "A client left it: the port was its source port. SO_REUSEADDR on the server alone does not help then."
    elif by_client:
        cause = "Either a server here left it, or a client whose source port it was; the kernel does not list which."
    else:
        cause = "A server here left it: the side that closes first keeps TIME-WAIT (RFC 9293 section 3.6.1)."
    return Finding(
        "TB104",
        Severity.WARNING,
        Confidence.CERTAIN,
        f"Port {found.port} is in TIME-WAIT after {left}: {last.socket.endpoints.local} to "
        f"{last.socket.endpoints.remote}, for {time_left(last)} more.",
        f"{cause} {spell_forecasts(found.forecasts, found.port)}",
        (
            wait_for_end(found, group.uses),
            *(() if by_client and sure else (reuse_address(),)),
            *destroy_connection(found, group.uses),
            *(reserve_port(found) if by_client else ()),
        ),
        found.shot.namespace,
        last.socket.endpoints.local,
        facts=_connection_facts(group.uses),
    )


def _bound(found: Evaluation, group: Group) -> Finding:
    use = group.uses[0]
    end = use.socket.endpoints.local
    owners = owners_of(group.uses)
    listens = bool(found.shot.in_states(TcpState.LISTEN))
    name = process_names(owners) if owners else "the program"
    return Finding(
        "TB105",
        Severity.NOTICE if listens else Severity.CRITICAL,
        Confidence.CERTAIN,
        f"{holder_of(found, group.uses)} {verb_for(group.uses, 'has', 'have')} bound {_ends(group)} and "
        f"{verb_for(group.uses, 'neither listens nor is', 'neither listen nor are')} connected.",
        "It is a server between bind() and listen(), a program that keeps the port from others, or a client that "
        "binds its source port and whose connection has ended. Neither netstat nor plain ss shows such a socket. "
        f"{spell_forecasts(found.forecasts, found.port)}",
        (
            Remedy(f"check what {name} is doing; if it is a server, wait until it listens"),
            *restart_holders(owners, verb="stop", port=found.port),
            *find_holder(found, group.uses),
        ),
        found.shot.namespace,
        end,
        owners,
    )


def _ends(group: Group) -> str:
    return first_words((str(use.socket.endpoints.local) for use in group.uses), "addresses")


def _traffic_facts(use: PortUse) -> Iterator[Fact]:
    if use.traffic is not None and use.traffic.bytes_received is not None:
        came = "echoed" if use.socket.is_self_connected else "received"
        yield Fact(f"bytes {came}", use.traffic.bytes_received, "bytes")
        idle = use.traffic.idle_ms / 1000
        yield Fact("idle for", idle, "s", spell_span(idle))
    yield Fact("state", use.socket.state.label)
    yield Fact("unread", use.socket.receive_queue, "bytes")
    yield Fact("unacknowledged", use.socket.send_queue, "bytes")


def _connection_facts(uses: Sequence[PortUse]) -> tuple[Fact, ...]:
    shown = [Fact(use.socket.state.label, str(use.socket.endpoints), text=_connection(use)) for use in uses[:_SHOWN]]
    more = len(uses) - _SHOWN
    return (*shown, Fact("and more", more, "connections")) if more > 0 else tuple(shown)


def _connection(use: PortUse) -> str:
    more = f", for {time_left(use)} more" if use.socket.state is TcpState.TIME_WAIT else ""
    return f"{use.socket.endpoints}{more}"


_MAKERS: dict[Kind, Callable[[Evaluation, Group], Finding]] = {
    Kind.SELF_CONNECT: _self_connected,
    Kind.SELF_TIME_WAIT: _left_by_self,
    Kind.CONNECTION: _connected,
    Kind.TIME_WAIT: _left_over,
    Kind.BOUND: _bound,
}
