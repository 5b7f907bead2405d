"""The arguments of a loop: their types, their documentation, and their checks, all of which happen at the call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from tailbite.core.backoff import Backoff, Policy
from tailbite.core.duration import checked_seconds
from tailbite.dial.options import Options
from tailbite.reconnect import rehearsal
from tailbite.reconnect.classify import Retry, classifier, is_lost_connection, is_transient
from tailbite.reconnect.machine import Settings
from tailbite.verifiers.verification import checked_verifier

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Iterable

    from tailbite.connect.target import Target
    from tailbite.core.backoff import Delays
    from tailbite.reconnect.events import Event
    from tailbite.verifiers.verification import Verifier

__all__ = ["Address", "Arguments", "Hook", "LoopSettings", "checked_limit", "checked_read_timeout", "read_arguments"]

Address: TypeAlias = "tuple[str, int | str] | str | bytes | os.PathLike[str]"
"""A server: a pair of host and port (or name of a service), or the path of a Unix socket."""

Hook: TypeAlias = "Callable[[Event], object]"
"""A function that is called with every event of a loop; its result is ignored."""


class LoopSettings(TypedDict, total=False):
    """The keywords of every ``connections()`` and of :class:`tailbite.Connector`.

    Attributes:
        timeout: seconds for opening one connection: name, socket and TLS together; 10 if not given.
        backoff: the delays between attempts: a :class:`~tailbite.Backoff`, or a function that returns an iterator of
            seconds for one outage. If not given, each is random, below a ceiling that doubles from 0.1 s to 30 s.
        max_attempts: the number of attempts an outage may have; None, the default, sets no limit.
        deadline: seconds an outage may take, counted from the moment a connection is asked for; the last attempt
            begins shortly before the end. None, the default, sets no limit.
        first: a :class:`~tailbite.Policy` with a backoff and limits for the time until the first connection
            succeeds; None, the default, makes it the same as later.
        healthy_after: seconds after which a connection counts as one that works, so that its loss begins a new
            outage with short delays; 5 if not given.
        retry: the errors that are worth another attempt: one exception type or a tuple of them, in addition to the
            default ones, or a function that takes an error and returns True for another attempt.
        verify: a verifier from :mod:`tailbite.verify`, or one of your own, that must accept the peer before the
            connection is delivered; None, the default, accepts every peer.
        hooks: one function, or several, called with every event of :mod:`tailbite.events`.
        ssl: True, or an ``ssl.SSLContext``, for TLS; None, the default, for none.
        server_hostname: the name that the server's certificate must be for; the host if not given.
        source_address: a pair of host and port to bind to first; port 0 leaves the port to the kernel.
        allow_same_port: True accepts a ``source_address`` with the port of the destination, for servers on other
            hosts that want it; a self-connect is then noticed after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way (RFC 8305);
            0.25 if not given.
        keepalive: seconds (2 to 65534) within which a peer that has vanished ends the connection, whether it is idle
            (SO_KEEPALIVE) or data waits for an acknowledgement (TCP_USER_TIMEOUT); None, the default, leaves it to
            the kernel.
        user_timeout: seconds for which data may stay unacknowledged (TCP_USER_TIMEOUT, Linux); if not given, that of
            ``keepalive``, else about 15 minutes. It decides for an idle connection with keepalive, too (tcp(7)).
        nodelay: send small writes at once (TCP_NODELAY); True if not given.
    """

    timeout: float
    backoff: Delays
    max_attempts: int | None
    deadline: float | None
    first: Policy | None
    healthy_after: float
    retry: Retry
    verify: Verifier | None
    hooks: Hook | Iterable[Hook]
    ssl: ssl.SSLContext | bool | None
    server_hostname: str | None
    source_address: tuple[str, int] | None
    allow_same_port: bool
    happy_eyeballs_delay: float
    keepalive: float | None
    user_timeout: float | None
    nodelay: bool


@dataclass(frozen=True, slots=True)
class Arguments:
    """The checked arguments of one loop, in the form its parts need.

    Attributes:
        machine: the settings of the state machine.
        options: the options of every connection.
        hooks: the functions to call with every event.
        is_transient: decides on errors of opening and verifying a connection.
        is_lost: decides on errors of the user's block.
    """

    machine: Settings
    options: Options
    hooks: tuple[Hook, ...]
    is_transient: Callable[[BaseException], bool]
    is_lost: Callable[[BaseException], bool]


def read_arguments(target: Target, settings: LoopSettings) -> Arguments:
    """Check the user's settings.

    Raises:
        ValueError: settings that cannot work.
        TypeError: an unknown setting, or one of the wrong type.
    """
    given: dict[str, Any] = dict(settings)
    for name in given:
        if name not in LoopSettings.__annotations__:
            raise TypeError(f"there is no setting {name!r}; there are {', '.join(LoopSettings.__annotations__)}")
    later = rehearsal.limit(_later_policy(given))
    first = _checked_first(given.pop("first", None))
    retry = given.pop("retry", None)
    return Arguments(
        hooks=_checked_hooks(given.pop("hooks", ())),
        is_transient=classifier(retry, is_transient),
        is_lost=classifier(retry, is_lost_connection),
        machine=Settings(
            target,
            timeout=checked_seconds("timeout", given.pop("timeout", 10.0)),
            first=rehearsal.limit(first) if first else later,
            later=later,
            healthy_after=checked_seconds("healthy_after", given.pop("healthy_after", 5.0)),
            verifier=checked_verifier(given.pop("verify", None)),
        ),
        options=Options.of(target, **given),
    )


def _later_policy(given: dict[str, Any]) -> Policy:
    backoff, most, deadline = (given.pop(name, None) for name in ("backoff", "max_attempts", "deadline"))
    return Policy(Backoff() if backoff is None else backoff, most, deadline)


def _checked_first(first: object) -> Policy | None:
    if first is None:
        return None
    if not isinstance(first, Policy):
        raise TypeError(f"first must be a tailbite.Policy(...), not {first!r}")
    return first


def _checked_hooks(hooks: Any) -> tuple[Hook, ...]:
    if callable(hooks):
        return (hooks,)
    try:
        several = tuple(hooks or ())
    except TypeError:
        raise TypeError(f"hooks must be a function or several of them, not {hooks!r}") from None
    for hook in several:
        if not callable(hook):
            raise TypeError(f"a hook must be callable, and {hook!r} is not")
    return several


def checked_read_timeout(seconds: float | None) -> float | None:
    """Return the timeout for reads.

    Raises:
        TypeError, ValueError: it is not a number of seconds, or negative.
    """
    if seconds is not None and not 0 <= checked_seconds("read_timeout", seconds) < math.inf:
        raise ValueError(f"read_timeout must be 0 or more seconds, or None to wait without a limit, not {seconds}")
    return seconds


def checked_limit(limit: Any) -> int:
    """Return the buffer limit of a stream reader.

    Raises:
        TypeError, ValueError: it is not a number of bytes above 0.
    """
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit must be a number of bytes, not {limit!r}")
    if limit <= 0:
        raise ValueError(f"limit must be more than 0 bytes, not {limit}")
    return limit
