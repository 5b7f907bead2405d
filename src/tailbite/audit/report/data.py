"""Verdicts in JSON (schema ``tailbite.audit/2``): one object per client, and one per phase inside it.

``docs/audit.md`` lists the fields, and what changed since version 1.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tailbite.audit.language import cure_of, cure_url

if TYPE_CHECKING:
    from tailbite.audit.records import ConnectionToItself, Observation, Recovery
    from tailbite.audit.verdict import Timing, Verdict

__all__ = ["observation_as_data", "verdict_as_data"]

_MOST_LISTED = 100
"""Self-connects and dials that are listed one by one; a client that flaps has thousands, and the counts tell."""


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def verdict_as_data(verdict: Verdict) -> dict[str, Any]:
    """Return the object of one client."""
    return {
        "client": verdict.client,
        "version": verdict.version,
        "groups": list(verdict.groups),
        "command": list(verdict.command),
        "image": verdict.image or None,
        "verdict": verdict.verdict.value,
        "reason": verdict.reason,
        "believed": verdict.believed.value,
        "self_connects": verdict.self_connects,
        "dials": verdict.dials,
        "comebacks": verdict.comebacks,
        "dials_to_hit": verdict.dials_to_hit,
        "longest_hold": _seconds(verdict.longest_hold),
        "bytes_to_itself": verdict.bytes_to_itself,
        "left": verdict.left.value if verdict.left else None,
        "server_can_bind": {"plain": verdict.can_bind_plain, "reuse": verdict.can_bind_reuse},
        "server_down_plain": _timing(verdict.server_down_plain),
        "server_down_reuse": _timing(verdict.server_down_reuse),
        "server_down": _timing(verdict.server_down),
        "recovered_after": _timing(verdict.recovered_after),
        "troubles": list(verdict.troubles),
        "cure": cure_url(language) if (language := cure_of(verdict)) else None,
        "phases": [observation_as_data(observation) for observation in verdict.observations],
    }


def observation_as_data(seen: Observation) -> dict[str, Any]:
    """Return the object of one phase."""
    return {
        "phase": seen.phase.name,
        "host": seen.phase.host,
        "port": seen.phase.port,
        "ephemeral": str(seen.phase.ephemeral),
        "allocator": seen.phase.allocator.value,
        "control": seen.control,
        "duration": _seconds(seen.duration),
        "dials": seen.dials,
        "rounds": seen.rounds,
        "had_to_come_back": seen.had_to_come_back,
        "served": seen.served,
        "crowded": seen.crowded,
        "dialled": [_seconds(at) for at in seen.dialled[:_MOST_LISTED]],
        "self_connects": len(seen.self_connects),
        "connections_to_itself": [_self_connect(hit) for hit in seen.self_connects[:_MOST_LISTED]],
        "counted": seen.counted,
        "lost_packets": seen.lost_packets,
        "states": [
            {"state": span.state, "start": _seconds(span.start), "end": _seconds(span.end)}
            for span in seen.states[:_MOST_LISTED]
        ],
        "held_at_end": seen.held_at_end,
        "bind": asdict(seen.bind) if seen.bind else None,
        "exit_status": seen.exit_status,
        "exited_at": _seconds(seen.has_exited_at),
        "was_single": seen.was_single,
        "is_gone": seen.is_gone,
        "echoed": seen.echoed,
        "claims": [asdict(claim) for claim in seen.claims],
        "output_bytes": seen.output.total,
        "output": seen.output.text[:4000],
        "recovery": _recovery(seen.recovery) if seen.recovery else None,
        "trouble": seen.trouble,
    }


def _self_connect(hit: ConnectionToItself) -> dict[str, Any]:
    return {
        "start": _seconds(hit.start),
        "end": _seconds(hit.end),
        "ending": hit.ending.value,
        "host": hit.host,
        "sent": hit.sent,
    }


def _timing(timing: Timing) -> dict[str, Any]:
    told: dict[str, Any] = {"outcome": timing.outcome.value, "seconds": _seconds(timing.seconds)}
    return {**told, "reason": timing.reason} if timing.reason else told


def _recovery(recovery: Recovery) -> dict[str, Any]:
    return {name: _seconds(value) if isinstance(value, float) else value for name, value in asdict(recovery).items()}
