"""An event as a JSON object, for ``tailbite watch --json``, ``--exec`` and the exporter's log. Pure."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from tailbite.core.json_text import to_json

if TYPE_CHECKING:
    from tailbite.watch.records import SelfConnectEvent, SourceState
    from tailbite.watch.watcher import Noticed

__all__ = ["SCHEMA", "as_line", "event_fields", "flat_fields", "source_fields"]

SCHEMA: Final = "tailbite.watch/1"


def event_fields(noticed: Noticed) -> dict[str, Any]:
    """Return the object of one event."""
    event = noticed.event
    process = event.process
    return {
        "schema": SCHEMA,
        "event": "self-connect",
        "time": round(event.time, 6),
        "moment": event.moment.label,
        "is_new": noticed.is_new,
        "source": event.source.label,
        "endpoint": str(event.endpoint),
        "host": event.endpoint.host,
        "port": event.endpoint.port,
        "family": "inet" if event.family == socket.AF_INET else "inet6",
        "where": event.where,
        "namespace": event.namespace.inode if event.namespace else None,
        "namespace_name": event.namespace.name if event.namespace else None,
        "pid": event.pid or None,
        "name": event.name or None,
        "command": (process.command if process else "") or None,
        "user": (process.user if process else "") or None,
        "unit": (process.unit if process else "") or None,
        "container": (process.container if process else "") or None,
        "uid": event.uid,
        "bytes_echoed": event.traffic.bytes_received if event.traffic else None,
        "end": _end_fields(event),
    }


def _end_fields(event: SelfConnectEvent) -> dict[str, Any] | None:
    if event.end is None:
        return None
    return {
        "is_destroyed": event.end.is_destroyed,
        "is_port_free": event.end.is_port_free,
        "microseconds": event.end.microseconds,
        "refused": event.end.refused or None,
    }


def flat_fields(noticed: Noticed) -> dict[str, Any]:
    """Return the fields that have a plain value, for environment variables; unknown ones are empty."""
    fields = event_fields(noticed)
    return {name: "" if value is None else value for name, value in fields.items() if not isinstance(value, dict)}


def source_fields(state: SourceState) -> dict[str, Any]:
    """Return the object that says where events come from."""
    return {
        "source": state.kind.label,
        "lost": state.lost,
        "is_paused": state.is_paused,
        "refused": [{"what": one.what, "why": one.why} for one in state.refused],
    }


def as_line(fields: dict[str, Any]) -> str:
    """Return an object as one line of JSON."""
    return to_json({"schema": SCHEMA, **fields}, separators=(", ", ": "))
