"""The reasons of verdicts, as sentences. Each says what was measured and nothing else. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tailbite.audit.records import SHORT, TIME_WAIT, Ending
from tailbite.audit.verdict import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import BindAttempt, ConnectionToItself, Observation

__all__ = ["did_not_come_back", "no_class", "seconds", "times", "unexercised", "why_immune", "why_self_connected"]

_BAND: Final = (0.5, 3.0)
"""Seconds of holding for which a sentence gives both figures: the time it was held, and the time a server is down.

A client that waits a second before it drops a connection is near the limit of 1.5 s: both verdicts would be right.
"""

_SHORTEST: Final = 0.00005
"""Seconds that would be written as 0.0 ms."""

_USUAL_REASONS: Final = (
    (r"not a (tty|terminal)|must be a terminal|no tty|inappropriate ioctl",
     "it needs a terminal: script -qec 'COMMAND' /dev/null gives it one"),
    (r"name or service not known|temporary failure in name|could not resolve|unknown host|EAI_AGAIN|nodename",
     "it looked up a name: there is no DNS in the trap, only localhost"),
    (r"cannot assign requested address|EADDRNOTAVAIL|address not available",
     "it found no free source port (EADDRNOTAVAIL): it uses more ports than the trap has"),
    (r"usage:|unknown option|unrecognized option|invalid option|unrecognised|no such option",
     "an option seems to be wrong"),
    (r"no such file|cannot open|not found", "a file seems to be missing"),
    (r"permission denied|operation not permitted", "it lacks a permission"),
    (r"network is unreachable", "it dials another host: there is no route in the trap, only lo"),
)  # fmt: skip


def seconds(value: float) -> str:
    """Write a time as people read it: milliseconds below a second."""
    if value < _SHORTEST:
        return "<0.1 ms"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def times(count: int) -> str:
    """Write how often something happened, from once on."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def why_immune(proofs: Sequence[Observation]) -> str:
    """Say on which evidence a client is immune."""
    dials = sum(o.dials for o in proofs)
    running = [o for o in proofs if o.had_to_come_back and not o.is_gone]
    back = min((o.rounds - 1 for o in running), default=0)
    came = f", came back at least {times(back)} while it was watched," if running else ""
    course = f"it dialled the dead port {times(dials)}{came} and never connected to itself"
    return f"{course}; a plain client in the same trap did"


def did_not_come_back(observation: Observation) -> str:
    """Say that the reconnects of a client were not seen."""
    times = {1: "once", 2: "twice"}.get(observation.rounds, f"{observation.rounds} times")
    watched = observation.duration - (observation.dialled[0] if observation.dialled else 0.0)
    return (
        f"it dialled {times} and was still running {watched:.0f} s later: its reconnects were not seen, so nothing "
        "is known about them; --patience SECONDS waits longer"
    )


def no_class(observation: Observation, hit: ConnectionToItself) -> str:
    """Say that a client connected to itself, but too late to see what it does after that."""
    lasted = seconds(hit.lasted(observation.duration))
    return f"it connected to itself {lasted} before the watch ended: too late to see what it does after that"


def why_self_connected(word: Word, observation: Observation, hit: ConnectionToItself) -> str:
    """Say how long the worst self-connect lasted, and which server could not start."""
    held = hit.lasted(observation.duration)
    if hit.ending is Ending.OPEN or (word is Word.HOLDS and held >= observation.watched_hold):
        server = _while_open(observation.bind) if hit.ending is Ending.OPEN else ""
        return f"it stayed connected to itself for as long as it was watched ({seconds(held)}){server}"
    if hit.ending is Ending.CLOSED:
        down = f"; a server is down for {held + TIME_WAIT:.0f} s in all" if _BAND[0] <= held <= _BAND[1] else ""
        return f"it closed the connection to itself after {seconds(held)}{_after_close(observation.bind)}{down}"
    down = f": a server was down for that time (the limit is {SHORT:g} s)" if _BAND[0] <= held <= _BAND[1] else ""
    free = "" if observation.bind is None or not observation.bind.plain else ", which left the port free"
    return f"it reset the connection to itself after {seconds(held)}{free}{down}"


def _while_open(bind: BindAttempt | None) -> str:
    if bind is None or bind.plain:
        return ""
    if bind.reuse:
        return (
            ": a server without SO_REUSEADDR could not start; one with it could, but the client stayed on its own "
            "connection"
        )
    return ": no server could start, with or without SO_REUSEADDR"


def _after_close(bind: BindAttempt | None) -> str:
    if bind is None:
        return ", which leaves a TIME-WAIT"
    if bind.plain:
        return "; a server could bind the port all the same"
    if bind.reuse:
        return "; the TIME-WAIT kept a server without SO_REUSEADDR from binding the port, one with it could"
    return "; the TIME-WAIT kept a server from binding the port, with or without SO_REUSEADDR"


def unexercised(watched: Sequence[Observation]) -> str:
    """Say that the client never dialled the port, how it ended, its last output, and the usual reason for that."""
    if any(o.served for o in watched):
        return "a listener of its own took the dead port in every trap, so it was never refused"
    if not watched:
        return "it never dialled the port: it was not run"
    last = watched[0]
    if last.exit_status is None:
        end = f"it was still running after {last.duration:.0f} s (--timeout SECONDS waits longer)"
    elif last.exit_status < 0:
        end = f"it was ended by signal {-last.exit_status}"
    else:
        end = f"it exited with {last.exit_status} after {seconds(last.has_exited_at or 0.0)}"
        if not last.is_gone:
            end += f", and what it had started was still running after {last.duration:.0f} s"
    line = last.output.last_line
    said = f"; its last output was: {line}" if line else "; it printed nothing"
    return f"it never dialled the port: {end}{said}{_usual_reason(watched)}"


def _usual_reason(watched: Sequence[Observation]) -> str:
    text = "\n".join(o.output.text for o in watched)
    for pattern, reason in _USUAL_REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return f" ({reason})"
    if watched[0].exit_status is None and not watched[0].output.total:
        return " (does it wait for input, or start slowly?)"
    return ""
