"""Hooks for the usual libraries: logging, structlog, prometheus-client, OpenTelemetry.

Each function makes a hook for ``connections(..., hooks=...)`` and imports its library only then. Any number of hooks
may be given, and any callable that takes an event is one.

The events have the same names everywhere: ``tailbite.attempting``, ``.refused``, ``.self_connected``, ``.verified``,
``.verify_failed``, ``.connected``, ``.lost``, ``.waiting``, ``.gave_up``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tailbite._extras import needed
from tailbite.errors import VerifyError
from tailbite.reconnect import events

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.reconnect.arguments import Hook

__all__ = ["event_name", "fields", "log", "opentelemetry", "prometheus", "structlog"]

_KINDS: Mapping[type[events.Event], tuple[str, int]] = {
    events.Attempting: ("attempting", logging.DEBUG),
    events.Refused: ("refused", logging.INFO),
    events.SelfConnected: ("self_connected", logging.WARNING),
    events.Verified: ("verified", logging.DEBUG),
    events.VerifyFailed: ("verify_failed", logging.WARNING),
    events.Connected: ("connected", logging.INFO),
    events.Lost: ("lost", logging.INFO),
    events.Waiting: ("waiting", logging.DEBUG),
    events.GaveUp: ("gave_up", logging.ERROR),
}


def event_name(event: events.Event) -> str:
    """Return the event's name in lower case: ``self_connected``.

    Args:
        event: a record of :mod:`tailbite.events`.
    """
    return _KINDS[type(event)][0]


def fields(event: events.Event) -> dict[str, Any]:
    """Return the event's data under flat names, for structured logs: numbers, text and the exception.

    Args:
        event: a record of :mod:`tailbite.events`.
    """
    found = {name: getattr(event, name) for name in event.__dataclass_fields__ if name not in ("at", "target")}
    return {"target": str(event.target), **found}


def log(logger: logging.Logger | None = None) -> Hook:
    """Return a hook for :mod:`logging`.

    Each target has a logger of its own below ``tailbite.connections``, so one can be silenced. A self-connect, a
    refused peer and giving up are warnings and errors; coming and going is information; single attempts and waits
    are for debugging. The record carries the data in ``extra``, with the prefix ``tailbite_``: ``tailbite_event``,
    ``tailbite_target``, ``tailbite_number``, ``tailbite_took`` and so on.

    Args:
        logger: the logger to use for every target.
    """

    def hook(event: events.Event) -> None:
        name, level = _KINDS[type(event)]
        # A dot separates the levels of a logger's name, and an address has no levels.
        used = logger or logging.getLogger(f"tailbite.connections.{str(event.target).replace('.', '_')}")
        if used.isEnabledFor(level):
            extra = {f"tailbite_{key}": value for key, value in fields(event).items()}
            used.log(level, "%s", sentence(event), extra={"tailbite_event": name, **extra})

    return hook


def structlog(logger: Any = None) -> Hook:
    """Return a hook for structlog, with the event's data as its keys.

    Args:
        logger: a bound logger; ``structlog.get_logger()`` if not given.

    Raises:
        ModuleNotFoundError: structlog is not installed; the message says how to install it.
    """
    if logger is None:
        with needed("tailbite.hooks.structlog()", package="structlog"):
            import structlog as library

        logger = library.get_logger("tailbite")

    def hook(event: events.Event) -> None:
        name, level = _KINDS[type(event)]
        data = {key: str(value) if key == "error" else value for key, value in fields(event).items()}
        logger.log(level, "tailbite." + name, **data)  # noqa: G003 - structlog's event

    return hook


def prometheus(registry: Any = None) -> Hook:
    """Return a hook for prometheus-client (``tailbite[prometheus]``); one serves all loops of a process.

    ``tailbite_connection_attempts_total{target,outcome}`` counts the attempts by outcome (connected, refused,
    self_connected, verify_failed). ``tailbite_connections_lost_total{target}`` and
    ``tailbite_connections_given_up_total{target}`` count lost connections and loops that gave up. The gauge
    ``tailbite_connections_open{target}`` has the number of open connections. ``tailbite_connect_seconds{target}`` is
    a histogram of the time that it took to get a connection.

    Args:
        registry: a ``CollectorRegistry``; the process's own if not given. Making a second hook for one registry is
            a ValueError of prometheus-client.

    Raises:
        ModuleNotFoundError: prometheus-client is not installed; the message says how to install it.
    """
    with needed("tailbite.hooks.prometheus()", extra="prometheus"):
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

    where: Any = {"labelnames": ("target",), "registry": registry or REGISTRY}
    attempts = Counter(
        "tailbite_connection_attempts",
        "Attempts to connect, by how they ended.",
        labelnames=("target", "outcome"),
        registry=registry or REGISTRY,
    )
    lost = Counter("tailbite_connections_lost", "Connections that ended.", **where)
    given_up = Counter("tailbite_connections_given_up", "Loops that gave up.", **where)
    open_now = Gauge("tailbite_connections_open", "Open connections.", **where)
    took = Histogram("tailbite_connect_seconds", "Seconds from the beginning of an attempt to a connection.", **where)

    def hook(event: events.Event) -> None:
        target = str(event.target)
        match event:
            case events.Connected():
                open_now.labels(target).inc()
                took.labels(target).observe(event.took)
                attempts.labels(target, "connected").inc()
            case events.Refused() | events.SelfConnected() | events.VerifyFailed():
                attempts.labels(target, event_name(event)).inc()
            case events.Lost():
                open_now.labels(target).dec()
                lost.labels(target).inc()
            case events.GaveUp():
                given_up.labels(target).inc()

    return hook


def opentelemetry(tracer: Any = None) -> Hook:
    """Return a hook for OpenTelemetry: a span for every attempt, and a short one for every loss and surrender.

    Make one for each loop: a span begins with one event and ends with another.

    Args:
        tracer: a tracer; that of the global provider if not given.

    Raises:
        ModuleNotFoundError: opentelemetry-api is not installed; the message says how to install it.
    """
    with needed("tailbite.hooks.opentelemetry()", package="opentelemetry-api"):
        from opentelemetry import trace

    tracer = tracer or trace.get_tracer("tailbite")
    under_way: list[Any] = []

    def hook(event: events.Event) -> None:
        name, host = event_name(event), {"server.address": event.target.host}
        match event:
            case events.Attempting():
                end_all()  # a loop that was closed while connecting tells nothing
                port = {} if event.target.port is None else {"server.port": event.target.port}
                attributes = {**host, **port, "tailbite.attempt": event.number}
                under_way.append(
                    tracer.start_span("tailbite.connect", kind=trace.SpanKind.CLIENT, attributes=attributes)
                )
            case events.Verified():
                for span in under_way:
                    span.add_event("tailbite.verified", {"tailbite.verifier": event.verifier})
            case events.Connected():
                end_all(name)
            case events.Refused() | events.SelfConnected() | events.VerifyFailed():
                end_all(name, event.error)
            case events.Lost() | events.GaveUp():
                under_way.append(tracer.start_span(f"tailbite.{name}", attributes=host))
                end_all(name, event.error)

    def end_all(outcome: str = "closed", error: BaseException | None = None) -> None:
        while under_way:
            span = under_way.pop()
            span.set_attribute("tailbite.outcome", outcome)
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error))
            span.end()

    return hook


def sentence(event: events.Event) -> str:
    """Return the event as a sentence for a log."""
    target = event.target
    match event:
        case events.Attempting(number=number, timeout=timeout):
            return f"connecting to {target}, attempt {number}, for at most {timeout:g} s"
        case events.Refused(number=number, took=took, error=error):
            return f"attempt {number} to reach {target} failed after {took:.3f} s: {error}"
        case events.SelfConnected(number=number):
            return f"attempt {number} to reach {target} connected to itself and was reset: nobody listens there"
        case events.VerifyFailed(error=VerifyError() as error):
            return str(error)
        case events.VerifyFailed(verifier=verifier, error=error):
            return f"{target} could not be verified as {verifier}: {error}"
        case events.Verified(verifier=verifier, took=took):
            return f"{target} is a {verifier} server (asked for {took:.3f} s)"
        case events.Connected(number=number, local=local, remote=remote):
            return f"connected to {target} at attempt {number} ({local} -> {remote})"
        case events.Lost(lasted=lasted, error=None):
            return f"the connection to {target} ended after {lasted:.1f} s"
        case events.Lost(lasted=lasted, error=error):
            return f"the connection to {target} was lost after {lasted:.1f} s: {error}"
        case events.Waiting(number=number, seconds=seconds):
            return f"waiting {seconds:.3f} s before attempt {number} to reach {target}"
        case events.GaveUp(why=why, error=error):
            return f"gave up on {target} ({why}): {error}"
    return f"{event_name(event)}: {target}"
