"""The judge: observations in, verdict out. Pure; an expert who reads the observations must come to the same word.

The worst of what was seen decides: a client that binds first in one build and not in the next is as bad as its
worse half. What was not seen is never counted for the client: a trap that did not spring, or a port never dialled,
is no pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.audit.records import (
    GAVE_UP_WITHIN,
    UNSUPPORTED_STATUS,
    Believed,
    Ending,
    Left,
    Observation,
    SelfConnect,
    Verdict,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import Client

__all__ = ["judge", "meets"]

_RANK = {word: rank for rank, word in enumerate((Word.IMMUNE, Word.ABORTS, Word.BLOCKS, Word.HOLDS))}


def meets(word: Word, required: Word) -> bool:
    """Tell whether a verdict is at least as good as the one required; what is no verdict never is."""
    return word in _RANK and _RANK[word] <= _RANK[required]


def judge(client: Client, seen: Sequence[Observation]) -> Verdict:
    """Judge a client by what was seen of it."""
    watched = [o for o in seen if o.recovery is None]
    recovery = next((o.recovery for o in seen if o.recovery is not None), None)
    hits = [(o, hit) for o in watched for hit in o.self_connects]
    word, reason = _word(watched, hits)
    sixteen = next((o for o in watched if not o.phase.is_certain and o.self_connects), None)
    return Verdict(
        client=client.name,
        version=client.version,
        verdict=word,
        reason=reason,
        believed=_believed(watched),
        self_connects=sum(_count(o) for o in watched),
        dials=sum(o.dials for o in watched),
        longest_hold=max((hit.lasted(o.duration) for o, hit in hits), default=None),
        bytes_to_itself=sum(hit.sent for _, hit in hits),
        left=_left(hits),
        server_down_plain=recovery.plain_after if recovery else None,
        server_down_reuse=recovery.reuse_after if recovery else None,
        server_down=recovery.served_after if recovery and recovery.real_server else None,
        recovered_after=recovery.recovered_after if recovery else None,
        dials_to_hit=_dials_to_hit(sixteen) if sixteen else None,
        observations=tuple(seen),
        command=client.command,
        groups=client.groups,
    )


def _word(watched: Sequence[Observation], hits: Sequence[tuple[Observation, SelfConnect]]) -> tuple[Word, str]:
    for observation in watched:
        if observation.exit_status == UNSUPPORTED_STATUS:
            return Word.UNSUPPORTED, observation.trouble or f"it exited with status {UNSUPPORTED_STATUS}"
    if hits:
        worst, observation, hit = max(
            ((_fate(observation, hit), observation, hit) for observation, hit in hits),
            key=lambda item: _RANK[item[0]],
        )
        return worst, _why(worst, observation, hit)
    for observation in watched:
        if not observation.control or observation.trouble:
            return Word.INCONCLUSIVE, observation.trouble or "the trap did not spring for a plain client"
    dialled = [o for o in watched if o.dials]
    if not watched or not dialled:
        return Word.UNEXERCISED, "it never dialled the port, so nothing is known"
    for observation in watched:
        if observation.counted and observation.counted > 0:
            return (
                Word.INCONCLUSIVE,
                (
                    f"the kernel counted {observation.counted} more connections than the packets show"
                    f" ({observation.lost_packets} packets were lost)"
                ),
            )
        if observation.lost_packets:
            return Word.INCONCLUSIVE, f"{observation.lost_packets} packets were lost, too many to be sure"
    dials = sum(o.dials for o in dialled)
    times = "once" if dials == 1 else f"{dials} times"
    return Word.IMMUNE, f"it dialled the dead port {times}, never itself; a plain client in the same place did"


def _fate(observation: Observation, hit: SelfConnect) -> Word:
    """Judge one self-connect."""
    if hit.ending is Ending.OPEN:
        # Still there when the watch ended: kept, unless it had just begun and the others were dropped.
        recent = hit.lasted(observation.duration) <= GAVE_UP_WITHIN
        dropped = [other for other in observation.self_connects if other.ending is not Ending.OPEN]
        if recent and dropped:
            return Word.ABORTS
        return Word.HOLDS if observation.held_at_end or not recent else Word.ABORTS
    if hit.ending is Ending.CLOSED and (observation.bind is None or not observation.bind.plain):
        return Word.BLOCKS
    return Word.ABORTS if hit.lasted(observation.duration) <= GAVE_UP_WITHIN else Word.HOLDS


def _why(word: Word, observation: Observation, hit: SelfConnect) -> str:
    seconds = hit.lasted(observation.duration)
    lasted = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
    if word is Word.HOLDS and hit.ending is Ending.OPEN:
        return f"it stayed connected to itself as long as it was watched ({lasted}): no server could start"
    if word is Word.HOLDS:
        return f"it stayed connected to itself for {lasted}, then reset the connection"
    if word is Word.BLOCKS:
        return f"it closed the connection to itself after {lasted}; the TIME-WAIT kept a server from binding the port"
    return f"it reset the connection to itself after {lasted}, which left the port free"


def _believed(watched: Sequence[Observation]) -> Believed:
    """Whether it took itself for the server, in any phase in which it could."""
    told = {_believed_once(o) for o in watched if o.self_connects}
    for answer in (Believed.YES, Believed.NO):
        if answer in told:
            return answer
    return Believed.UNKNOWN if told else Believed.NO


def _believed_once(observation: Observation) -> Believed:
    if observation.failed:
        return Believed.NO
    if observation.succeeded:
        return Believed.YES
    if observation.exit_status == 0 or (observation.exit_status is None and observation.echoed):
        return Believed.YES
    if observation.exit_status is None:
        return Believed.UNKNOWN
    return Believed.NO


def _left(hits: Sequence[tuple[Observation, SelfConnect]]) -> Left | None:
    endings = {hit.ending for _, hit in hits}
    if Ending.OPEN in endings:
        return Left.ESTABLISHED
    if Ending.CLOSED in endings:
        return Left.TIME_WAIT
    return Left.NOTHING if endings else None


def _count(observation: Observation) -> int:
    """Count the self-connects; where packets were lost, the kernel's counters may know of more."""
    seen = len(observation.self_connects)
    return max(seen, observation.counted or 0) if observation.lost_packets else seen


def _dials_to_hit(observation: Observation) -> int:
    first = observation.self_connects[0].start
    return max(1, sum(at <= first for at in observation.dialled))
