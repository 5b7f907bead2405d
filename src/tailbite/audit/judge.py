"""The judge: observations in, verdict out. Pure; an expert who reads the observations must come to the same verdict.

The worst of the observations decides: a client that binds first in one build and not in the next is as bad as its
worse half. What was not seen never counts for the client: neither a trap that did not work, nor a port that was never
dialled, nor the reconnects of a client that was still running after its first dial.

The words are ranked by the damage, which is the time for which one connection to itself keeps a server down: for as
long as it is held, and for 60 s more if it was closed by FIN, which leaves TIME-WAIT.

=========  ==========================================================================
word       a server is down for
=========  ==========================================================================
immune     no time: no self-connect
aborts     less than 1.5 s
blocks     up to 61.5 s: a TIME-WAIT of 60 s, or a hold of seconds that ended by RST
holds      longer, or for as long as the client was watched
=========  ==========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.audit.belief import believed_by
from tailbite.audit.records import COMEBACKS, SHORT, TIME_WAIT, UNSUPPORTED_STATUS, Ending
from tailbite.audit.sentences import (
    did_not_come_back,
    no_class,
    unexercised,
    why_immune,
    why_self_connected,
)
from tailbite.audit.verdict import Belief, Figure, Remains, Timing, Verdict, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.client import Client
    from tailbite.audit.records import ConnectionToItself, Observation, Recovery

__all__ = ["judge", "meets"]

_RANK = {word: rank for rank, word in enumerate((Word.IMMUNE, Word.ABORTS, Word.BLOCKS, Word.HOLDS))}

_Hit = tuple["Observation", "ConnectionToItself"]


def meets(word: Word, required: Word) -> bool:
    """Tell whether a verdict is at least as good as the one required; a word without a judgement never is."""
    return word in _RANK and _RANK[word] <= _RANK[required]


def judge(client: Client, seen: Sequence[Observation], *, recovery_asked: bool = False) -> Verdict:
    """Judge a client by the observations of it.

    Args:
        client: the client.
        seen: the observations.
        recovery_asked: True if recovery was asked for, so that a missing figure is *not measured*.
    """
    watched = [o for o in seen if o.recovery is None and not _is_recovery(o)]
    hits = [(o, hit) for o in watched for hit in o.self_connects]
    word, reason, worst = _decide(watched, hits)
    sixteen = next((o for o in watched if not o.phase.is_certain and o.self_connects), None)
    plain, reuse, down, back = _timings(seen, recovery_asked)
    bind = worst and worst.bind
    return Verdict(
        client=client.name,
        version=client.version,
        verdict=word,
        reason=reason,
        believed=believed_by(watched) if hits else Belief.NO if word is Word.IMMUNE else Belief.UNKNOWN,
        self_connects=sum(_count(o) for o in watched),
        dials=sum(o.dials for o in watched),
        comebacks=min(
            (o.rounds - 1 for o in watched if o.had_to_come_back and o.dials and not o.is_gone), default=None
        ),
        longest_hold=max((hit.lasted(o.duration) for o, hit in hits), default=None),
        bytes_to_itself=sum(hit.sent for _, hit in hits),
        left=_remains(hits),
        can_bind_plain=bind.plain if bind else None,
        can_bind_reuse=bind.reuse if bind else None,
        server_down_plain=plain,
        server_down_reuse=reuse,
        server_down=down,
        recovered_after=back,
        dials_to_hit=_dials_to_hit(sixteen) if sixteen else None,
        observations=tuple(seen),
        command=client.command,
        groups=client.groups,
        image=client.image.name if client.image else "",
        troubles=tuple(f"{o.phase.name}: {o.trouble}" for o in seen if o.trouble),
    )


def _is_recovery(observation: Observation) -> bool:
    return observation.phase.name.endswith("-recovery")


def _decide(watched: Sequence[Observation], hits: Sequence[_Hit]) -> tuple[Word, str, Observation | None]:
    """Return the word, the reason, and the observation that decided it."""
    if hits:
        word, reason, worst = _worst(hits)
        doubt = _doubt(watched) if word is Word.ABORTS else None
        return (word, reason, worst) if doubt is None else (Word.INCONCLUSIVE, f"{reason}; {doubt}", worst)
    for observation in watched:
        # A client that dialled is there; its shell or supervisor may lack another program, and exit with the same.
        if observation.exit_status == UNSUPPORTED_STATUS and not observation.dials:
            return Word.UNSUPPORTED, observation.trouble or f"it exited with status {UNSUPPORTED_STATUS}", None
    if (trouble := _trouble(watched) or _incomplete(watched)) is not None:
        return Word.INCONCLUSIVE, trouble, None
    proofs = [o for o in watched if o.dials and not o.served]
    if not proofs:
        return Word.UNEXERCISED, unexercised(watched), None
    if (silent := _not_come_back(proofs)) is not None:
        return Word.INCONCLUSIVE, did_not_come_back(silent), silent
    return Word.IMMUNE, why_immune(proofs), None


def _doubt(watched: Sequence[Observation]) -> str | None:
    """Return why a client that resets what was seen might do worse elsewhere or later; None if nothing says so."""
    silent = _not_come_back(watched)
    return _trouble(watched) or (did_not_come_back(silent) if silent else None)


def _not_come_back(watched: Sequence[Observation]) -> Observation | None:
    """Return an observation of a client that ran on without coming back, so that its reconnects are not known."""
    waited = (o for o in watched if o.had_to_come_back and o.dials and not o.served and not o.is_gone)
    return next((o for o in waited if o.rounds < COMEBACKS), None)


def _worst(hits: Sequence[_Hit]) -> tuple[Word, str, Observation]:
    judged = [(word, o, hit) for o, hit in hits if (word := _fate(o, hit)) is not None]
    if not judged:
        observation, hit = max(hits, key=lambda item: item[1].lasted(item[0].duration))
        return Word.INCONCLUSIVE, no_class(observation, hit), observation
    # Among equals, the longest hold: it is the one that the table shows.
    worst, observation, hit = max(judged, key=lambda item: (_RANK[item[0]], item[2].lasted(item[1].duration)))
    return worst, why_self_connected(worst, observation, hit), observation


def _trouble(watched: Sequence[Observation]) -> str | None:
    """Return the reason why a trap proves nothing, or None if all of them worked."""
    for observation in watched:
        if not observation.control or observation.trouble:
            return observation.trouble or "a plain client did not connect to itself in this trap"
    return None


def _incomplete(watched: Sequence[Observation]) -> str | None:
    """Return the reason why the packets do not prove that there was no self-connect, or None if they do."""
    for observation in watched:
        if not observation.dials:
            continue
        if observation.counted and observation.counted > 0 and not observation.served:
            return (
                f"the kernel counted {observation.counted} more connections than the packets show"
                f" ({observation.lost_packets} packets were lost)"
            )
        if observation.lost_packets:
            return f"{observation.lost_packets} packets were lost, too many to be sure"
    return None


def _fate(observation: Observation, hit: ConnectionToItself) -> Word | None:
    """Judge one self-connect by the time for which it keeps a server down; None if it was watched too briefly."""
    held = hit.lasted(observation.duration)
    # An end that was seen by chance, after the time in which every client is watched, must not change the word.
    if hit.ending is Ending.OPEN or held >= observation.watched_hold:
        return Word.HOLDS if held >= SHORT else None
    leaves = hit.ending is Ending.CLOSED and (observation.bind is None or not observation.bind.plain)
    down = held + (TIME_WAIT if leaves else 0.0)
    if down < SHORT:
        return Word.ABORTS
    return Word.BLOCKS if down < TIME_WAIT + SHORT else Word.HOLDS


def _timings(seen: Sequence[Observation], asked: bool) -> tuple[Timing, Timing, Timing, Timing]:
    """Return how long servers were down, plain, with SO_REUSEADDR and real, and when the client was back."""
    recovery = next((o.recovery for o in seen if o.recovery is not None), None)
    if recovery is None:
        if not asked:
            return (Timing(),) * 4
        reason = next((o.trouble for o in seen if _is_recovery(o) and o.trouble), "the client did not dial the port")
        return (Timing(Figure.NOT_MEASURED, reason=reason),) * 4
    no_binds = Timing(Figure.NOT_MEASURED, reason="beside a real server no bind is tried")
    plain, reuse = (_until(after, recovery) for after in (recovery.plain_after, recovery.reuse_after))
    if recovery.real_server:
        plain = reuse = no_binds
    down = _until(recovery.served_after, recovery) if recovery.real_server else Timing()
    return plain, reuse, down, _back(recovery)


def _until(after: float | None, recovery: Recovery) -> Timing:
    return Timing(Figure.LONGER, recovery.gave_up_after) if after is None else Timing(Figure.MEASURED, after)


def _back(recovery: Recovery) -> Timing:
    if recovery.recovered_after is None and recovery.client_gone:
        return Timing(Figure.NEVER, reason="the client had ended")
    return _until(recovery.recovered_after, recovery)


def _remains(hits: Sequence[_Hit]) -> Remains | None:
    endings = {hit.ending for _, hit in hits}
    if Ending.OPEN in endings:
        return Remains.ESTABLISHED
    if Ending.CLOSED in endings:
        return Remains.TIME_WAIT
    return Remains.NOTHING if endings else None


def _count(observation: Observation) -> int:
    """Count the self-connects; where packets were lost, the kernel's counters may know of more."""
    seen = len(observation.self_connects)
    return max(seen, observation.counted or 0) if observation.lost_packets else seen


def _dials_to_hit(observation: Observation) -> int:
    first = observation.self_connects[0].start
    return max(1, sum(at <= first for at in observation.dialled))
