"""The belief of a client: did it mistake the connection to itself for one to the server? Pure.

The phase in which the client dialled and was refused is the control. An exit status of 0 says something only if the
client that was refused ended otherwise, and a success pattern only if it did not match there as well. A client that
claims a connection and denies it in the next line did not believe it; an error that it prints when it is refused says
only that it dialled again.

A client may be several processes with several connections, of which one is to itself. An exit status denies the
connection only if no other process and no other connection can be what failed: the parent of a forking server, a
shell, timeout(1) and a pool whose second connection was refused say nothing about the first. A signal says nothing
either: another process sent it, or the client crashed.

Where nothing is known, the answer is *unknown*.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tailbite.audit.records import Ending
from tailbite.audit.verdict import Belief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import Claim, Observation

__all__ = ["believed_by"]

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
"""The parts of a line that differ from one run to the next: times, addresses, ports."""

_COMPLAINT = re.compile(
    r"error|exception|traceback|invalid|unexpected|expected|malformed|protocol|refused|fail|bad\b|cannot|can't|unable"
    r"|not understood|not recogni[sz]ed|wrong|mismatch|garbage|junk|nonsense|reject|timed? ?out|timeout|giving up"
    r"|gave up|gone|lost|closed|abort|drop|reset|retry|reconnect|unknown|corrupt|itself|oops|warn|fatal|panic|denied"
    r"|unavailable|not (a|the|our) ",
    re.IGNORECASE,
)
"""Words of a client that complains about the junk it read, when it prints the junk itself on a line of its own."""

_NO_PORT = re.compile(r"EADDRNOTAVAIL|(cannot|can't) assign requested address|address not available", re.IGNORECASE)
"""An error of the trap, whose ports another connection of the client has: about this one it says nothing."""

_REFUSED = re.compile(r"refused", re.IGNORECASE)


def believed_by(watched: Sequence[Observation]) -> Belief:
    """Return whether the client believed the self-connect, in any phase in which it connected to itself.

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
    if hit.exit_status is not None and hit.exit_status > 0 and hit.was_single and not _had_another(hit):
        return Belief.NO
    if _complains(hit, refused):
        return Belief.UNKNOWN
    if hit.exit_status == 0 and _ends_otherwise(hit, refused):
        return Belief.YES
    # A client that prints what it sends, and drops what came back, prints the same line.
    kept = hit.exit_status == 0 or any(found.ending is Ending.OPEN for found in hit.self_connects)
    return Belief.YES if hit.echoed and kept and not any(o.echoed for o in refused) else Belief.UNKNOWN


def _had_another(hit: Observation) -> bool:
    """Tell whether the client had a connection, or an attempt at one, beside those to itself."""
    return hit.crowded or hit.dials > len(hit.self_connects)


def _by_claims(hit: Observation, refused: Sequence[Observation]) -> Belief | None:
    """Return the belief according to the lines that match the patterns; None if no line decides it."""
    claims = [claim for claim in hit.claims if claim.connected or _is_about_itself(claim, hit)]
    if any(claim.connected for o in refused for claim in o.claims):
        claims = [claim for claim in claims if not claim.connected]
    when_refused = {_NUMBERS.sub("#", claim.line) for o in refused for claim in o.claims}
    told = [
        claim.connected for claim in claims if claim.connected or _NUMBERS.sub("#", claim.line) not in when_refused
    ]
    if True not in told:
        is_its_own = not _had_another(hit) and (hit.exit_status is None or hit.was_single)
        return Belief.NO if told or (claims and is_its_own) else None
    denied = told[told.index(True) + 1 :][:1] == [False]
    return Belief.NO if denied else Belief.YES


def _is_about_itself(denial: Claim, hit: Observation) -> bool:
    """Tell whether a denial can be about the connection to itself, and is not about another one."""
    return not _NO_PORT.search(denial.line) and not (_had_another(hit) and _REFUSED.search(denial.line))


def _complains(hit: Observation, refused: Sequence[Observation]) -> bool:
    """Tell whether the client prints a complaint that it does not print when it is refused."""
    when_refused = {_NUMBERS.sub("#", line) for o in refused for line in o.output.text.splitlines()}
    return any(
        _COMPLAINT.search(line) and _NUMBERS.sub("#", line) not in when_refused
        for line in hit.output.text.splitlines()
    )


def _ends_otherwise(hit: Observation, refused: Sequence[Observation]) -> bool:
    """Tell whether the client that is refused does not end with status 0: it fails, or continues to dial.

    A client that still ran when the watch ended counts as continuing only if it was watched for longer than the other
    one took to exit; a supervisor that ends its client after a second exits with 0 in either case.
    """
    return bool(refused) and all(
        _lived(o) > _lived(hit) and o.rounds > 1 if o.exit_status is None else o.exit_status != 0 for o in refused
    )


def _lived(seen: Observation) -> float:
    """Return the seconds from the client's first dial to its exit, or to the end of the watch."""
    end = seen.duration if seen.has_exited_at is None else seen.has_exited_at
    return end - (seen.dialled[0] if seen.dialled else 0.0)
