"""Words for what was found: processes, times, ranges, forecasts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.core.duration import spell_duration
from tailbite.host.explain.bind_forecast import BindOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.host.explain.bind_forecast import BindForecast
    from tailbite.host.see.port import PortSnapshot, PortUse
    from tailbite.host.see.records import Process

__all__ = [
    "as_beginning",
    "client_at_risk",
    "first_words",
    "holder_name",
    "join_words",
    "oldest_first",
    "process_names",
    "range_words",
    "spell_forecasts",
    "spell_outcome",
    "spell_span",
    "time_left",
    "verb_for",
]

_SHOWN = 5
_OUTCOMES = {
    BindOutcome.WORKS: "would work",
    BindOutcome.FAILS: "fails (EADDRINUSE)",
    BindOutcome.DEPENDS: "works only if the socket in the way has set it too",
    BindOutcome.UNCERTAIN: "works if that IPv6 socket is IPV6_V6ONLY, as a bind to its address makes it",
    BindOutcome.NOT_KNOWN: "not known: this kernel does not list sockets that are only bound",
    BindOutcome.NOT_PERMITTED: "fails (EACCES): this user may not bind it",
    BindOutcome.NO_ADDRESS: "fails (EADDRNOTAVAIL): this host does not have the address",
}


def time_left(use: PortUse) -> str:
    """Say how long a TIME-WAIT lasts."""
    return f"{seconds_left(use)} s"


def seconds_left(use: PortUse) -> int:
    """Return the seconds that a TIME-WAIT lasts, at least 1."""
    return max(1, round(use.socket.expires_ms / 1000))


def spell_span(seconds: float) -> str:
    """Write a span of time; very short ones are not worth a figure."""
    return "less than a second" if seconds < 1 else spell_duration(seconds)


def holder_name(uses: Iterable[PortUse], *, sees_processes: bool) -> str:
    """Name who holds sockets, for the middle of a sentence.

    Args:
        uses: the sockets.
        sees_processes: True if every process was visible, so that a socket without one belongs to none.
    """
    sockets = list(uses)
    owners = [owner for use in sockets for owner in use.owners]
    hidden = [use.socket.uid for use in sockets if use.socket.inode and not use.owners]
    if not owners and not hidden:
        return "the kernel, for a program that has closed it,"
    parts = [process_names(owners)] if owners else []
    if hidden and sees_processes:
        parts.append("a socket that no visible process has open")
    elif hidden:
        parts += [f"a process that is not visible (uid {uid})" for uid in dict.fromkeys(hidden)]
    return join_words(parts)


def as_beginning(name: str) -> str:
    """Return the name of a holder for the beginning of a sentence; the name of a program keeps its small letter."""
    return f"{name[0].upper()}{name[1:]}" if name.startswith(("a ", "the ")) else name


def process_names(owners: Iterable[Process]) -> str:
    """Name processes: at most three, and how many more."""
    names = list(dict.fromkeys(map(str, oldest_first(owners))))
    more = [f"{len(names) - 3} more"] if len(names) > 4 else names[3:]
    return join_words([*names[:3], *more])


def oldest_first(owners: Iterable[Process]) -> list[Process]:
    """Return processes, each once, in the order of their starts: a server before its workers."""
    return sorted(dict.fromkeys(owners), key=lambda one: (one.started or 0, one.pid))


def client_at_risk(dials: bool, binds: bool) -> str | None:
    """Name the client that can be given the port that it dials; None if no client can.

    Args:
        dials: a client that only connects can.
        binds: a client that binds to port 0 before it connects can.
    """
    if dials:
        return "a client that retries"
    return "a client that retries and binds before it connects" if binds else None


def verb_for(uses: Iterable[PortUse], singular: str, plural: str) -> str:
    """Return the verb that fits the number of those that :func:`holder_name` names."""
    sockets = list(uses)
    holders = {owner for use in sockets for owner in use.owners}
    hidden = {use.socket.uid for use in sockets if use.socket.inode and not use.owners}
    return plural if len(holders) + len(hidden) > 1 else singular


def join_words(parts: Iterable[str]) -> str:
    """Join as people do: ``a, b and c``."""
    *most, last = [*dict.fromkeys(parts)] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def first_words(words: Iterable[str], more: str) -> str:
    """Join some words, each once: the first five, and how many ``more`` there are unless that is one."""
    each = list(dict.fromkeys(words))
    left = len(each) - _SHOWN
    return join_words([*each[:_SHOWN], f"{left} more {more}"] if left > 1 else each)


def range_words(shot: PortSnapshot) -> str:
    """Say how the port lies to the ephemeral range, as a clause."""
    if shot.ephemeral is None:
        return "the ephemeral range here is not known"
    if shot.port not in shot.ephemeral:
        return f"{shot.port} is outside the ephemeral range ({shot.ephemeral})"
    if shot.reserved is not None and shot.port in shot.reserved:
        return f"{shot.port} lies in the ephemeral range ({shot.ephemeral}), but is reserved"
    return f"{shot.port} lies in the ephemeral range ({shot.ephemeral}) and is not reserved"


def spell_outcome(one: BindForecast) -> str:
    """Say what a bind to one address would meet, with and without SO_REUSEADDR."""
    plain, reusing = _OUTCOMES[one.plain], _OUTCOMES[one.reuse_address]
    return plain if plain == reusing else f"{plain}; with SO_REUSEADDR {reusing}"


def spell_forecasts(forecasts: Iterable[BindForecast], port: int) -> str:
    """Say in sentences what a server would meet that binds the addresses of a question."""
    by_outcome: dict[tuple[BindOutcome, BindOutcome], list[str]] = {}
    shown = list(forecasts)
    for one in shown:
        if one.address.v6_only and one.address.host == "::" and len(shown) > 1:
            continue  # few servers ask for that; the table has it
        by_outcome.setdefault((one.plain, one.reuse_address), []).append(one.address.spell(port))
    return " ".join(_sentence(join_words(names), *outcomes) for outcomes, names in by_outcome.items())


def _sentence(names: str, plain: BindOutcome, reusing: BindOutcome) -> str:
    if plain is BindOutcome.WORKS:
        return f"A server can bind {names}, with and without SO_REUSEADDR."
    if plain is BindOutcome.FAILS and reusing is BindOutcome.FAILS:
        return f"A server cannot bind {names}, with or without SO_REUSEADDR: Address already in use."
    if plain is BindOutcome.FAILS:
        return (
            f"A server cannot bind {names}: Address already in use. With SO_REUSEADDR it can, but only if the socket "
            "in the way has set it too."
        )
    if plain is BindOutcome.UNCERTAIN:
        return (
            f"A server can bind {names} if the IPv6 socket is IPV6_V6ONLY, as a bind to its address makes it; the "
            "kernel does not list that of connections."
        )
    if plain is BindOutcome.NOT_KNOWN:
        unlisted = "this kernel does not list sockets that are only bound, as Linux 6.8 and newer do"
        return f"Whether a server can bind {names} is not known: {unlisted}."
    if plain is BindOutcome.NO_ADDRESS:
        return f"A server cannot bind {names}: Cannot assign requested address (EADDRNOTAVAIL)."
    return f"This user may not bind {names}: Permission denied (EACCES)."
