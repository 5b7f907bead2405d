"""The belief of a client: did it take the connection to itself for one to the server? Pure.

The phase in which the client dialled and was refused is the control. An exit status of 0 says something only if the
client that was refused ended otherwise, and a success pattern only if it did not match there as well. Where nothing
is known, the answer is *unknown*.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tailbite.audit.verdict import Belief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import Observation

__all__ = ["believed_by"]

_COMPLAINT = re.compile(
    r"error|exception|traceback|invalid|unexpected|malformed|protocol|refused|failed|failure|bad |cannot|unable"
    r"|not understood|wrong",
    re.IGNORECASE,
)
"""Words of a client that complains about the junk it read, when it prints the junk itself on a line of its own."""


def believed_by(watched: Sequence[Observation]) -> Belief:
    """Return whether the client believed it, in any phase in which it connected to itself."""
    refused = [o for o in watched if o.control and o.dials and not o.self_connects and not o.served]
    answers = {_believed_in(o, refused) for o in watched if o.self_connects}
    for answer in (Belief.YES, Belief.NO):
        if answer in answers:
            return answer
    return Belief.UNKNOWN


def _believed_in(hit: Observation, refused: Sequence[Observation]) -> Belief:
    if hit.failed:
        return Belief.NO
    if hit.succeeded:
        return Belief.YES if not any(o.succeeded for o in refused) else Belief.UNKNOWN
    if hit.exit_status not in (0, None):
        return Belief.NO
    if hit.exit_status == 0 and _ends_otherwise(refused):
        return Belief.YES
    if hit.echoed and not any(o.echoed for o in refused) and not _COMPLAINT.search(hit.output.text):
        return Belief.YES
    return Belief.UNKNOWN


def _ends_otherwise(refused: Sequence[Observation]) -> bool:
    """Tell whether the client that is refused does not end with status 0: it fails, or goes on dialling."""
    return bool(refused) and all(o.rounds > 1 if o.exit_status is None else o.exit_status != 0 for o in refused)
