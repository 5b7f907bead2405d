"""The rules of waiting for servers, which the shells share: when to try again, what to remember; no waiting here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tailbite.errors import NotReadyError
from tailbite.kernel.sockopt import abort
from tailbite.readiness.sighting import Saw, Sighting
from tailbite.readiness.target import Wanted

if TYPE_CHECKING:
    import socket

    from tailbite.verifiers.verification import Verifier

__all__ = ["Gate", "hang_up", "needs_reset", "next_sighting"]

_LAST = 0.05
"""Seconds the last attempt has."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a wait was asked for, checked.

    Raises:
        ValueError: no targets, or times that make no sense.
        TypeError: a target is of no kind we know.
    """

    wanted: tuple[Wanted, ...]
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
        """Check what the user gave; duplicates are dropped."""
        if not targets:
            raise ValueError("nothing to wait for: give at least one target, such as 'db:5432'")
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be 0 or more seconds, or None to wait for ever, not {timeout}")
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, not {interval}")
        if not patience > 0:
            raise ValueError(f"patience must be more than 0 seconds, not {patience}")
        wanted: list[Wanted] = []
        for target in targets:
            if (one := Wanted.of(target, verify)) not in wanted:
                wanted.append(one)
        return cls(tuple(wanted), timeout, interval, patience)

    @property
    def ports(self) -> frozenset[int]:
        """The ports that servers are about to use: no connection of ours may leave TIME-WAIT on one of them."""
        return frozenset(port for wanted in self.wanted if isinstance(port := wanted.target.port, int))

    def limit(self, left: float | None) -> float:
        """Return how many seconds an attempt may take when ``left`` seconds are left; with timeout=0 there is one."""
        return self.patience if left is None or not self.timeout else max(min(self.patience, left), _LAST)

    def pause(self, left: float | None) -> float | None:
        """Return how many seconds to wait for the next attempt, None if there is none: the last is just in time."""
        if left is None:
            return self.interval
        return min(self.interval, left - _LAST) if left > _LAST and self.timeout else None

    def verdict(self, seen: list[Sighting]) -> tuple[Sighting, ...]:
        """Return what was seen if everything is ready.

        Raises:
            NotReadyError: it is not.
        """
        if all(sighting.ready for sighting in seen):
            return tuple(seen)
        raise NotReadyError(tuple(seen), self.timeout or 0.0)


def next_sighting(before: Sighting, saw: Saw, detail: str, seconds: float, *, hurried: bool) -> Sighting:
    """Return what is known after another attempt; that a hurried one was not answered says nothing."""
    if hurried and saw in (Saw.NO_ANSWER, Saw.SILENT) and before.attempts:
        saw, detail = before.saw, before.detail
    return replace(before, saw=saw, detail=detail, attempts=before.attempts + 1, seconds=seconds)


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
