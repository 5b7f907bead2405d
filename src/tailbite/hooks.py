"""Hooks that report the events of a loop to logging, structlog, prometheus-client or OpenTelemetry."""

from tailbite.reconnect.hooks import event_name, fields, log, opentelemetry, prometheus, structlog

__all__ = ["event_name", "fields", "log", "opentelemetry", "prometheus", "structlog"]


def __getattr__(name: str) -> object:
    if name == "word":
        import warnings

        warnings.warn("tailbite.hooks.word is now called event_name", DeprecationWarning, stacklevel=2)
        return event_name
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
