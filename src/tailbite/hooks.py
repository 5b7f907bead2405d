"""Hooks that tell logging, structlog, prometheus-client or OpenTelemetry what persistent connections go through."""

from tailbite.reconnect.hooks import fields, log, opentelemetry, prometheus, structlog, word

__all__ = ["fields", "log", "opentelemetry", "prometheus", "structlog", "word"]
