"""A verdict as JSON has it (``tailbite.audit/1``): one object per client, and one per phase inside it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailbite.audit.records import Observation, Recovery, SelfConnect, Verdict

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
        "verdict": verdict.verdict.value,
        "reason": verdict.reason,
        "believed": verdict.believed.value,
        "self_connects": verdict.self_connects,
        "dials": verdict.dials,
        "dials_to_hit": verdict.dials_to_hit,
        "longest_hold": _seconds(verdict.longest_hold),
        "bytes_to_itself": verdict.bytes_to_itself,
        "left": verdict.left.value if verdict.left else None,
        "server_down_plain": _seconds(verdict.server_down_plain),
        "server_down_reuse": _seconds(verdict.server_down_reuse),
        "server_down": _seconds(verdict.server_down),
        "recovered_after": _seconds(verdict.recovered_after),
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
        "echoed": seen.echoed,
        "succeeded": seen.succeeded,
        "failed": seen.failed,
        "output_bytes": seen.output.total,
        "output": seen.output.text[:4000],
        "recovery": _recovery(seen.recovery) if seen.recovery else None,
        "trouble": seen.trouble,
    }


def _self_connect(hit: SelfConnect) -> dict[str, Any]:
    return {
        "start": _seconds(hit.start),
        "end": _seconds(hit.end),
        "ending": hit.ending.value,
        "host": hit.host,
        "sent": hit.sent,
    }


def _recovery(recovery: Recovery) -> dict[str, Any]:
    return {name: _seconds(value) if isinstance(value, float) else value for name, value in asdict(recovery).items()}
