"""The rules of waiting that the shells share: the times of the attempts, and the memory of them; no waiting here."""

from __future__ import annotations

import contextlib
import threading
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tailbite.core.duration import checked_seconds
from tailbite.errors import NotReadyError
from tailbite.kernel.sockopt import abort
from tailbite.readiness.status import Readiness, TargetStatus, describe_error
from tailbite.readiness.target import Wanted, names_of, reason_of_name
from tailbite.verifiers.verification import checked_verifier

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tailbite.connect.target import Target
    from tailbite.verifiers.verification import Verifier

__all__ = [
    "HOLD",
    "Gate",
    "check_times",
    "describe_failure",
    "hang_up",
    "listener_of",
    "needs_reset",
    "next_readiness",
]

_UNFINISHED = (TargetStatus.NO_ANSWER, TargetStatus.SILENT, TargetStatus.INCOMPLETE)
_LAST = 0.05
"""Seconds for the last attempt."""

HOLD = 0.2
"""Seconds for which a server without a protocol must hold a connection.

A proxy accepts before it knows whether its backend is there (docker-proxy, socat, HAProxy in TCP mode), and closes or
resets the connection when the backend refuses.
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """The checked arguments of a wait.

    Attributes:
        wanted: the targets.
        names: the targets as they are shown, each with a name of its own.
        timeout: the seconds that the wait may take; None for no limit.
        interval: the seconds between attempts.
        patience: the seconds that an attempt may take.

    Raises:
        ValueError: there are no targets, or a time is out of its range.
        TypeError: a target has an unsupported type.
    """

    wanted: tuple[Wanted, ...]
    names: tuple[str, ...]
    timeout: float | None
    interval: float
    patience: float

    @classmethod
    def of(
        cls,
        targets: tuple[Any, ...],
        verify: Verifier | None,
        timeout: float | None,
        interval: float,
        patience: float,
    ) -> Gate:
        """Check the user's arguments; duplicates are dropped."""
        if not targets:
            raise ValueError("nothing to wait for: give at least one target, such as 'db:5432'")
        check_times(timeout, interval, patience)
        checked_verifier(verify)
        wanted: list[Wanted] = []
        for target in targets:
            if (each := Wanted.of(target, verify)) not in wanted:
                wanted.append(each)
        if timeout is not None and timeout > threading.TIMEOUT_MAX:  # 292 years, or inf
            timeout = None
        return cls(tuple(wanted), names_of(wanted), timeout, interval, patience)

    @property
    def ports(self) -> frozenset[int]:
        """The ports that servers are about to use: no connection of ours may leave TIME-WAIT on one of them."""
        return frozenset(port for wanted in self.wanted if isinstance(port := wanted.target.port, int))

    def limit(self, left: float | None) -> float:
        """Return the seconds an attempt may take when ``left`` seconds are left; with timeout=0 there is one."""
        return self.patience if left is None or not self.timeout else max(min(self.patience, left), _LAST)

    def pause(self, left: float | None) -> float | None:
        """Return the seconds until the next attempt, None after the last one, which is made just in time."""
        if left is None:
            return self.interval
        return min(self.interval, left - _LAST) if left > _LAST and self.timeout else None

    def verdict(self, last: list[Readiness]) -> tuple[Readiness, ...]:
        """Return the last readiness of every target if everything is ready.

        Raises:
            NotReadyError: it is not.
        """
        if all(readiness.ready for readiness in last):
            return tuple(last)
        raise NotReadyError(tuple(last), self.timeout or 0.0)


def check_times(timeout: float | None, interval: float, patience: float) -> None:
    """Check the times of a wait.

    Raises:
        ValueError: one is out of its range.
        TypeError: one is not a number.
    """
    if timeout is not None and not checked_seconds("timeout", timeout) >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, or None to wait forever, not {timeout}")
    if not checked_seconds("interval", interval) > 0:
        raise ValueError(f"interval must be more than 0 seconds, not {interval}")
    if not checked_seconds("patience", patience) > 0:
        raise ValueError(f"patience must be more than 0 seconds, not {patience}")


def listener_of(
    on_attempt: Callable[[Readiness], object] | None, old: dict[str, Any]
) -> Callable[[Readiness], object] | None:
    """Return the function to call after every attempt; its old name was ``on_sighting``.

    Raises:
        TypeError: another keyword, or what is given cannot be called.
    """
    if "on_sighting" in old:
        warnings.warn("wait(on_sighting=) is now called on_attempt", DeprecationWarning, stacklevel=3)
        on_attempt = on_attempt or old.pop("on_sighting")
    for name in old:
        raise TypeError(f"wait() got an unexpected keyword argument {name!r}")
    if on_attempt is not None and not callable(on_attempt):
        raise TypeError(f"on_attempt must be a function that takes a Readiness, not {on_attempt!r}")
    return on_attempt


def next_readiness(
    before: Readiness, status: TargetStatus, detail: str, seconds: float, *, hurried: bool
) -> Readiness:
    """Return the readiness after another attempt; a hurried attempt without an answer changes nothing."""
    if hurried and status in _UNFINISHED and before.attempts:
        status, detail = before.status, before.detail
    return replace(before, status=status, detail=detail, attempts=before.attempts + 1, seconds=seconds)


def describe_failure(error: Exception, target: Target) -> tuple[TargetStatus, str]:
    """Return the status and the detail of an attempt that ended with ``error``, and what this host knows about it."""
    status, detail = describe_error(error)
    if status is TargetStatus.NAME_UNKNOWN:
        return status, reason_of_name(target.host) or detail
    if status is TargetStatus.REFUSED and target.is_unix and not target.host.startswith("\0"):
        import stat
        from pathlib import Path

        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(Path(target.host).stat().st_mode):
                return status, "the file is not a socket"
    return status, detail


def needs_reset(name: Any, ports: frozenset[int]) -> bool:
    """Tell whether a connection from the socket address ``name`` must end with a reset.

    TIME-WAIT on a port that a server is about to use would keep it from starting (see ``Gate.ports``).
    """
    return isinstance(name, tuple) and name[1] in ports


def hang_up(sock: socket.socket, ports: frozenset[int]) -> None:
    """Close a connection; with a reset if it must be."""
    if needs_reset(sock.getsockname(), ports):
        abort(sock)
    else:
        sock.close()
