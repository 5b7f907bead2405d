"""Why a port is as it is: from what uses it to findings with codes, in words for a tired person. Pure.

======  ======================================================================================
TB101   a self-connected client holds the port
TB102   TIME-WAIT that a self-connect left
TB103   another connection has it as its source port
TB104   TIME-WAIT that another connection left
TB105   bound, but not listening
TB106   a server listens: as it should be
TB107   a server listens, but not on the address that was asked for
TB108   in another network namespace
TB109   nobody; a client that retries can take it
TB110   nobody, and no client is ever given it
TB111   connections of a server that listens no more
TB112   the address is not of this host
TB113   this user may not bind it
======  ======================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.core.odds import odds
from tailbite.core.ports import PortSet
from tailbite.host.explain.bind_forecast import Answer, forecast
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import after, listed, name_holder, netns_argument, process_names, range_words, span
from tailbite.kernel.inet_diag import CONNECTION_STATES, TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tailbite.host.see.port import PortSnapshot, PortUse

__all__ = ["not_of_this_host", "why"]

_SHOWN = 5  # connections listed one by one
_LONGEST = 120  # letters of a command that are worth repeating
_LIVE = CONNECTION_STATES - {TcpState.TIME_WAIT}


def why(look: PortSnapshot, others: Iterable[PortSnapshot] = (), host: str | None = None) -> tuple[Finding, ...]:
    """Return what is to be said about a port, the most important first.

    Args:
        look: the caller's own namespace.
        others: the other namespaces, as far as they could be looked into.
        host: the address that was asked for; None for any.
    """
    found = [*_here(look, host)]
    found += (finding for other in others for finding in _elsewhere(other, here=bool(look.uses)))
    if not look.uses:
        found += _nobody(look, host)
    order = list(Severity)
    return tuple(sorted(found, key=lambda one: order.index(one.severity)))


def _here(look: PortSnapshot, host: str | None) -> Iterator[Finding]:
    held = [use for use in look.uses if use.socket.is_self_connected]
    for use in held:
        yield (_left_by_self if use.socket.state is TcpState.TIME_WAIT else _self_connected)(look, use, host)
    listeners = look.by(TcpState.LISTEN)
    if listeners:
        yield _listening(look, listeners, host)
    bound = look.by(TcpState.BOUND_INACTIVE)
    if bound:
        yield _bound(look, bound, host)
    live = [use for use in look.by(*_LIVE) if not use.socket.is_self_connected]
    over = [use for use in look.by(TcpState.TIME_WAIT) if not use.socket.is_self_connected]
    if not listeners:  # a server's own connections are no riddle
        stolen = [use for use in live if not _looks_accepted(use, look)]
        accepted = [use for use in live if _looks_accepted(use, look)]
        if stolen:
            yield _stolen(look, stolen, host)
        if accepted:
            yield _orphaned(look, accepted, host)
        if over:
            yield _left_over(look, over, host)


def _self_connected(look: PortSnapshot, use: PortUse, host: str | None) -> Finding:
    end = use.socket.endpoints.local
    who = name_holder(use)
    idle = ""
    if use.traffic is not None and use.traffic.idle_ms >= 1000:
        idle = f" It has been idle for {span(use.traffic.idle_ms / 1000)}."
    cause = (
        "the kernel happened to choose that very port as its source port"
        if _drawn(look)
        else "that was its source port too, by its own bind or because the ephemeral range was another one then"
    )
    return Finding(
        "TB101",
        Severity.CRITICAL,
        Confidence.CERTAIN,
        f"{who} is connected to itself on {end}. No server is there: whatever it writes, it reads back.{idle}",
        f"It was dialling port {look.port} while nobody listened, and {cause}, so its own SYN answered it. As long "
        f"as it keeps that connection, no server can start on port {look.port}: Address already in use.",
        (
            Remedy(
                "destroy the connection; the program is told ECONNABORTED, and the port is free at once",
                (f"tailbite fix --kill {look.port} --apply",),
                needs_root=True,
            ),
            _restart(use),
            *_reserve(look),
            Remedy(
                "make the client unable to do it again",
                (f"tailbite run -- {_command(use)}",),
            ),
        ),
        look.namespace,
        end,
        use.owners,
        (*_traffic(use), *_bind_facts(look, host), *_port_facts(look)),
    )


def _left_by_self(look: PortSnapshot, use: PortUse, host: str | None) -> Finding:
    end = use.socket.endpoints.local
    return Finding(
        "TB102",
        Severity.WARNING,
        Confidence.CERTAIN,
        f"A client was connected to itself on {end} and closed that connection; what is left is TIME-WAIT, "
        f"for {after(use)} more.",
        "TIME-WAIT belongs to no process any more, and keeps a server from binding the port, with SO_REUSEADDR too. "
        "A client that drops a self-connect by an ordinary close leaves this every time; an abort (RST) would not.",
        (
            Remedy(
                "end it now instead of waiting",
                (f"tailbite fix --kill {look.port} --apply",),
                needs_root=True,
            ),
            Remedy(f"or wait: it ends by itself in {after(use)}"),
            *_reserve(look),
        ),
        look.namespace,
        end,
        facts=(
            Fact("TIME-WAIT ends in", after(use)),
            *_bind_facts(look, host),
            *_port_facts(look),
        ),
    )


def _stolen(look: PortSnapshot, uses: list[PortUse], host: str | None) -> Finding:
    use = uses[0]
    ends = use.socket.endpoints
    where = f"{ends.remote}" + (f" and {len(uses) - 1} more" if len(uses) > 1 else "")
    certain = ends.remote.port in look.listening or use.socket.state is TcpState.SYN_SENT
    return Finding(
        "TB103",
        Severity.CRITICAL,
        Confidence.CERTAIN if certain else _by_range(look),
        f"{name_holder(use)} has port {look.port} as the source port of its connection from {ends.local} to {where}.",
        f"Nobody listened on port {look.port} when that connection was made, so the kernel was free to give it away: "
        f"{range_words(look)}. Until that connection ends, a server cannot bind the port: Address already in use.",
        (
            Remedy(
                "end that one connection; its owner is told ECONNABORTED",
                (f"ss -K state all src {_ss(ends.local)} dst {_ss(ends.remote)}",),
                needs_root=True,
            ),
            _restart(use),
            *_reserve(look, always=True),
        ),
        look.namespace,
        ends.local,
        use.owners,
        (*_connections(uses), *_traffic(use), *_bind_facts(look, host), *_port_facts(look)),
    )


def _orphaned(look: PortSnapshot, uses: list[PortUse], host: str | None) -> Finding:
    use = uses[0]
    count = len(uses)
    what = "a connection of a server that did is" if count == 1 else f"{count} connections of a server that did are"
    return Finding(
        "TB111",
        Severity.WARNING,
        Confidence.LIKELY if _by_range(look) is not Confidence.POSSIBLE else Confidence.POSSIBLE,
        f"Nobody listens on port {look.port}, but {what} still open: "
        f"{process_names(uses)} holds {'it' if count == 1 else 'them'}.",
        "A server that does not set SO_REUSEADDR cannot bind the port until they end. One that sets it can, if the "
        "server that made them had set it as well, as most do.",
        (
            Remedy("let the server set SO_REUSEADDR before it binds"),
            _restart(use),
        ),
        look.namespace,
        use.socket.endpoints.local,
        tuple(dict.fromkeys(owner for one in uses for owner in one.owners)),
        (*_connections(uses), *_bind_facts(look, host), *_port_facts(look)),
    )


def _left_over(look: PortSnapshot, uses: list[PortUse], host: str | None) -> Finding:
    last = max(uses, key=lambda use: use.socket.expires_ms)
    count = len(uses)
    left = "a connection that was closed" if count == 1 else f"{count} connections that were closed"
    return Finding(
        "TB104",
        Severity.WARNING,
        Confidence.CERTAIN,
        f"Nobody listens on port {look.port}. What is left of {left} is in TIME-WAIT: "
        f"{last.socket.endpoints.local} to {last.socket.endpoints.remote}, for {after(last)} more.",
        "The side that closes first keeps TIME-WAIT for 60 s (RFC 9293 section 3.6.1). A server that sets "
        "SO_REUSEADDR can bind over what another server left that set it too. If a client left it, whose source "
        "port this was, it is in the way all the same.",
        (
            Remedy("let the server set SO_REUSEADDR before it binds"),
            Remedy(f"or wait: the last one ends in {after(last)}"),
            Remedy("or end them now", (f"ss -K state time-wait sport = :{look.port}",), needs_root=True),
            *_reserve(look),
        ),
        look.namespace,
        last.socket.endpoints.local,
        facts=(*_connections(uses), *_bind_facts(look, host), *_port_facts(look)),
    )


def _bound(look: PortSnapshot, uses: tuple[PortUse, ...], host: str | None) -> Finding:
    use = uses[0]
    end = use.socket.endpoints.local
    return Finding(
        "TB105",
        Severity.CRITICAL if not look.by(TcpState.LISTEN) else Severity.NOTICE,
        Confidence.CERTAIN,
        f"{name_holder(use)} has bound {end} and neither listens nor is connected. Clients and servers are refused.",
        "A server between bind() and listen(), a program that keeps the port from others, or a client that binds its "
        "source port and whose connection was destroyed. Neither netstat nor plain ss shows such a socket.",
        (
            Remedy(f"look at what {process_names(uses)} is doing; if it is a server, wait until it listens"),
            _restart(use),
        ),
        look.namespace,
        end,
        use.owners,
        (*_bind_facts(look, host), *_port_facts(look)),
    )


def _listening(look: PortSnapshot, uses: tuple[PortUse, ...], host: str | None) -> Finding:
    ends = listed(str(use.socket.endpoints.local) for use in uses)
    serving = [use for use in uses if host is None or _serves(use, host)]
    queue = [
        Fact(
            f"queue of {use.socket.endpoints.local}", f"{use.socket.receive_queue} of {use.socket.send_queue} waiting"
        )
        for use in uses
    ]
    owners = tuple(dict.fromkeys(owner for use in uses for owner in use.owners))
    if not serving:
        family = "only on IPv6 " if all(":" in use.socket.endpoints.local.host for use in uses) else ""
        return Finding(
            "TB107",
            Severity.WARNING,
            Confidence.CERTAIN,
            f"{name_holder(uses[0])} listens on port {look.port}, but {family or 'not on '}"
            f"{f'({ends})' if family else f'{host}: only on {ends}'}. A client that dials {host} is refused.",
            "A server has the addresses that it bound, and no others. localhost may mean 127.0.0.1 or ::1, and which "
            "one comes first differs from program to program. While nobody listens on that address, a client that "
            "retries there can be connected to itself.",
            (
                Remedy(f"dial {ends} instead"),
                Remedy("or let the server bind 0.0.0.0 or ::, or that address as well"),
                *_reserve(look),
            ),
            look.namespace,
            uses[0].socket.endpoints.local,
            owners,
            (*queue, *_bind_facts(look, host), *_port_facts(look)),
        )
    only_v6 = host is None and all(
        ":" in use.socket.endpoints.local.host and (use.socket.v6_only or use.socket.endpoints.local.host != "::")
        for use in uses
    )
    note = " Only IPv6 clients reach it: one that dials 127.0.0.1 is refused." if only_v6 else ""
    return Finding(
        "TB107" if only_v6 else "TB106",
        Severity.WARNING if only_v6 else Severity.FINE,
        Confidence.CERTAIN,
        f"{name_holder(uses[0])} listens on {ends}. That is a server, and no client can be given its port.{note}",
        "A second server on the same address gets EADDRINUSE, unless both set SO_REUSEPORT.",
        (Remedy("let the server bind :: without IPV6_V6ONLY, or 0.0.0.0 as well"),) if only_v6 else (),
        look.namespace,
        uses[0].socket.endpoints.local,
        owners,
        (*queue, *_bind_facts(look, host), *_port_facts(look)),
    )


def _serves(use: PortUse, host: str) -> bool:
    theirs = use.socket.endpoints.local.host
    if theirs == "::":
        return ":" in host or not use.socket.v6_only
    return theirs == host or (theirs == "0.0.0.0" and ":" not in host)


def _elsewhere(look: PortSnapshot, *, here: bool) -> Iterator[Finding]:
    if not look.uses:
        return
    use = next((one for one in look.uses if one.socket.is_self_connected), look.uses[0])
    stuck = use.socket.is_self_connected
    what = {True: "is connected to itself on", False: f"has {_state(use)}"}[stuck]
    yield Finding(
        "TB108",
        Severity.WARNING if stuck or not here else Severity.NOTICE,
        Confidence.CERTAIN,
        f"In another network namespace, {look.namespace}, {name_holder(use)} {what} {use.socket.endpoints.local}.",
        "Network namespaces, which every container has, do not share ports: nothing there keeps a server here from "
        "binding, and a client here does not reach it at 127.0.0.1.",
        (
            Remedy(
                "look from inside that namespace",
                (f"tailbite why {look.port} --netns {netns_argument(look.namespace)}",),
                needs_root=True,
            ),
        ),
        look.namespace,
        use.socket.endpoints.local,
        use.owners,
        _connections([one for one in look.uses if one.socket.endpoints.remote.port]),
    )


def _state(use: PortUse) -> str:
    return {TcpState.LISTEN: "a server that listens on", TcpState.BOUND_INACTIVE: "bound"}.get(
        use.socket.state, f"a connection ({use.socket.state.label}) from"
    )


def _nobody(look: PortSnapshot, host: str | None) -> Iterator[Finding]:
    if look.not_visible and look.ephemeral is None:
        return  # we could not look, so nobody is not what we know
    end = Endpoint(host or "0.0.0.0", look.port)
    unseen = "" if look.sees_bound else " (a socket that is only bound would not show: Linux lists those since 6.8)"
    sure = Confidence.CERTAIN if look.sees_bound else Confidence.LIKELY
    if look.port < look.privileged_below and not look.may_bind_privileged:
        yield Finding(
            "TB113",
            Severity.WARNING,
            sure,
            f"Nobody uses port {look.port}{unseen}, but this user may not bind it: Permission denied (EACCES).",
            f"Ports below {look.privileged_below} are privileged (sysctl ip_unprivileged_port_start).",
            (
                Remedy(
                    "start the server as root, or give it the capability", ("setcap cap_net_bind_service=+ep FILE",)
                ),
            ),
            look.namespace,
            end,
            facts=tuple(_port_facts(look)),
        )
    can = _drawn(look)
    takers = (
        " While none is up, a client that keeps dialling it can be connected to itself, and hold it." if can else ""
    )
    yield Finding(
        "TB109" if can else "TB110",
        Severity.WARNING if can else Severity.FINE,
        sure,
        f"Nobody uses port {look.port}{unseen}: a server can bind it, with and without SO_REUSEADDR.{takers}",
        f"The kernel chooses source ports from the ephemeral range, and {range_words(look)}.",
        _reserve(look, always=True) if can else (),
        look.namespace,
        end,
        facts=(*_bind_facts(look, host), *_port_facts(look)),
    )


def not_of_this_host(look: PortSnapshot, host: str) -> Finding:
    """Return the finding for an address that is none of this host's."""
    return Finding(
        "TB112",
        Severity.NOTICE,
        Confidence.CERTAIN,
        f"{host} is not an address of this host, so what holds port {look.port} there cannot be seen from here.",
        "A connection to another host cannot be to itself. A server here that binds that address gets EADDRNOTAVAIL.",
        (Remedy("ask on that host", (f"tailbite why {Endpoint(host, look.port)}",)),),
        look.namespace,
        Endpoint(host, look.port),
    )


def _drawn(look: PortSnapshot) -> bool:
    return look.ephemeral is not None and look.port in look.ephemeral and look.port not in (look.reserved or ())


def _looks_accepted(use: PortUse, look: PortSnapshot) -> bool:
    """Tell whether a connection looks like a server's: nothing in the kernel's list says who dialled."""
    if use.socket.state in (TcpState.SYN_SENT, TcpState.SYN_RECV):
        return use.socket.state is TcpState.SYN_RECV
    remote = use.socket.endpoints.remote.port
    if remote in look.listening:
        return False
    if look.ephemeral is None or look.port not in look.ephemeral:
        return look.ephemeral is None or remote in look.ephemeral
    return False


def _by_range(look: PortSnapshot) -> Confidence:
    return Confidence.POSSIBLE if look.ephemeral is None else Confidence.LIKELY


def _traffic(use: PortUse) -> Iterator[Fact]:
    if use.traffic is not None and use.traffic.bytes_received is not None:
        came = "echoed" if use.socket.is_self_connected else "received"
        yield Fact(f"bytes {came}", str(use.traffic.bytes_received))
        yield Fact("idle for", span(use.traffic.idle_ms / 1000))
    yield Fact("state", use.socket.state.label)
    yield Fact("queues", f"{use.socket.receive_queue} bytes unread, {use.socket.send_queue} unacknowledged")


def _connections(uses: list[PortUse]) -> tuple[Fact, ...]:
    shown = [
        Fact(
            use.socket.state.label,
            f"{use.socket.endpoints}"
            + (f", for {after(use)} more" if use.socket.state is TcpState.TIME_WAIT else ""),
        )
        for use in uses[:_SHOWN]
    ]
    return (*shown, Fact("and more", str(len(uses) - _SHOWN))) if len(uses) > _SHOWN else tuple(shown)


def _bind_facts(look: PortSnapshot, host: str | None) -> Iterator[Fact]:
    """Say what a server would meet; nothing was bound to find out."""
    sockets = [use.socket for use in look.uses]
    for address in (host,) if host else ("0.0.0.0", "::"):
        seen = forecast(address, sockets)
        plain, reusing = _answer(seen.plain), _answer(seen.reusing)
        both = plain if plain == reusing else f"{plain}; with SO_REUSEADDR {reusing}"
        if look.port < look.privileged_below and not look.may_bind_privileged:
            both = "fails: this user may not (EACCES)"
        yield Fact(f"bind {Endpoint(address, look.port)}", both)


def _answer(answer: Answer) -> str:
    return {
        Answer.YES: "would work",
        Answer.NO: "fails (EADDRINUSE)",
        Answer.UNLESS: "fails unless what holds it set it too",
        Answer.MAYBE: "fails if that IPv6 socket was never bound, else works",
    }[answer]


def _port_facts(look: PortSnapshot) -> Iterator[Fact]:
    if look.port < look.privileged_below:
        yield Fact("privileged", f"yes: ports below {look.privileged_below} need CAP_NET_BIND_SERVICE")
    if look.ephemeral is None:
        yield Fact("ephemeral range", "unknown")
        return
    yield Fact("ephemeral range", f"{look.ephemeral}: {'inside' if look.port in look.ephemeral else 'outside'}")
    if look.reserved is not None:
        yield Fact("reserved", "yes" if look.port in look.reserved else "no")
    if _drawn(look):
        taken = (look.reserved or PortSet()) | PortSet.of(look.listening - {look.port})
        for name, first in (("odds", False), ("odds if it binds first", True)):
            yield Fact(name, odds(look.port, look.ephemeral, taken, binds_first=first).sentence(every=1.0))


def _restart(use: PortUse) -> Remedy:
    if not use.owners:
        return Remedy("or stop the program that holds it: run this as root to see which one that is")
    names = ", ".join(str(owner) for owner in use.owners)
    return Remedy(f"or restart {names}", tuple(f"kill {owner.pid}" for owner in use.owners[:1]))


def _reserve(look: PortSnapshot, *, always: bool = False) -> tuple[Remedy, ...]:
    if not always and not _drawn(look):
        return ()
    if look.reserved is not None and look.port in look.reserved:
        return ()
    return (
        Remedy(
            "keep the kernel from ever choosing it as a source port; servers may bind it as before",
            (f"tailbite fix --reserve {look.port} --apply",),
            needs_root=True,
        ),
    )


def _command(use: PortUse) -> str:
    command = use.owners[0].command if use.owners else ""
    return command if command and len(command) <= _LONGEST and command.isprintable() else "PROGRAM ..."


def _ss(end: Endpoint) -> str:
    return f"[{end.host}]:{end.port}" if ":" in end.host else f"{end.host}:{end.port}"
