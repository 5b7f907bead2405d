"""The belief of a client: did it take the connection to itself for one to the server? Pure.

The phase in which the client dialled and was refused is the control. An exit status of 0 says something only if the
client that was refused ended otherwise, and a success pattern only if it did not match there as well. A client that
claims a connection and denies it in the next line did not believe it; an error that it prints when it is refused says
only that it dialled again. Where nothing is known, the answer is *unknown*.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tailbite.audit.verdict import Belief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import Observation

__all__ = ["believed_by"]

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
"""The parts of a line that differ from one run to the next: times, addresses, ports."""

_COMPLAINT = re.compile(
    r"error|exception|traceback|invalid|unexpected|malformed|protocol|refused|failed|failure|bad |cannot|unable"
    r"|not understood|wrong",
    re.IGNORECASE,
)
"""Words of a client that complains about the junk it read, when it prints the junk itself on a line of its own."""


def believed_by(watched: Sequence[Observation]) -> Belief:
    """Return whether the client believed it, in any phase in which it connected to itself.

    A phase of 16 free ports counts only if there is no other: the client is refused there before it connects to
    itself, and what it prints or how it ends may be about that.
    """
    refused = [o for o in watched if o.control and o.dials and not o.self_connects and not o.served]
    hits = [o for o in watched if o.self_connects]
    answers = {_believed_in(o, refused) for o in [o for o in hits if o.phase.is_certain] or hits}
    for answer in (Belief.YES, Belief.NO):
        if answer in answers:
            return answer
    return Belief.UNKNOWN


def _believed_in(hit: Observation, refused: Sequence[Observation]) -> Belief:
    if (claimed := _by_claims(hit, refused)) is not None:
        return claimed
    if hit.exit_status not in (0, None):
        return Belief.NO
    if hit.exit_status == 0 and _ends_otherwise(refused):
        return Belief.YES
    if hit.echoed and not any(o.echoed for o in refused) and not _COMPLAINT.search(hit.output.text):
        return Belief.YES
    return Belief.UNKNOWN


def _by_claims(hit: Observation, refused: Sequence[Observation]) -> Belief | None:
    """Return the belief by the lines that match the patterns; None if they say nothing."""
    if any(claim.connected for o in refused for claim in o.claims):
        claims = [claim for claim in hit.claims if not claim.connected]
    else:
        claims = list(hit.claims)
    when_refused = {_NUMBERS.sub("#", claim.line) for o in refused for claim in o.claims}
    if not any(claim.connected for claim in claims):
        was_refused_too = hit.dials > len(hit.self_connects)
        denials = [claim for claim in claims if _NUMBERS.sub("#", claim.line) not in when_refused]
        return Belief.NO if denials or (claims and not was_refused_too) else None
    told = [
        claim.connected for claim in claims if claim.connected or _NUMBERS.sub("#", claim.line) not in when_refused
    ]
    denied = told[told.index(True) + 1 :][:1] == [False]
    return Belief.NO if denied else Belief.YES


def _ends_otherwise(refused: Sequence[Observation]) -> bool:
    """Tell whether the client that is refused does not end with status 0: it fails, or goes on dialling."""
    return bool(refused) and all(o.rounds > 1 if o.exit_status is None else o.exit_status != 0 for o in refused)
