"""The hooks: the same story for logging, structlog, prometheus-client and OpenTelemetry, imported when used."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
import structlog.testing
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from tailbite import events, hooks
from tailbite.connect.target import Target
from tailbite.core.address import Endpoint
from tailbite.errors import SelfConnectError, VerifyError

DB = Target("db.example", 5432)
ITSELF = SelfConnectError(Endpoint("127.0.0.1", 5432), Endpoint("127.0.0.1", 5432))
STORY: list[events.Event] = [
    events.Attempting(DB, 0.0, 1, 10.0),
    events.Refused(DB, 0.1, 1, 0.1, ConnectionRefusedError(111, "Connection refused")),
    events.Waiting(DB, 0.1, 2, 0.25),
    events.Attempting(DB, 0.4, 2, 10.0),
    events.SelfConnected(DB, 0.5, 2, 0.1, ITSELF),
    events.Attempting(DB, 0.6, 3, 10.0),
    events.VerifyFailed(DB, 0.7, 3, 0.1, "postgres", VerifyError("silent", "it said nothing for 5 s")),
    events.Attempting(DB, 0.8, 4, 10.0),
    events.Verified(DB, 0.9, 4, 0.1, "postgres"),
    events.Connected(DB, 0.9, 4, 0.1, "10.0.0.1:40000", "10.0.0.2:5432"),
    events.Lost(DB, 60.0, 59.1, ConnectionResetError(104, "Connection reset by peer")),
    events.Attempting(DB, 61.0, 1, 10.0),
    events.Refused(DB, 61.1, 1, 0.1, ConnectionRefusedError(111, "Connection refused")),
    events.GaveUp(DB, 61.1, 1, "max_attempts is 1", ConnectionRefusedError(111, "Connection refused")),
]


def test_the_story_has_every_kind_of_event() -> None:
    told = {type(event).__name__ for event in STORY}
    assert told == set(events.__all__) - {"Event", "FailedAttempt"}


def test_logging_has_a_logger_for_each_target_levels_and_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tailbite")
    hook = hooks.log()
    for event in STORY:
        hook(event)
    records = caplog.records
    assert {record.name for record in records} == {"tailbite.connections.db_example:5432"}
    levels = {record.__dict__["tailbite_event"]: record.levelname for record in records}
    assert levels == {
        "attempting": "DEBUG",
        "waiting": "DEBUG",
        "verified": "DEBUG",
        "connected": "INFO",
        "lost": "INFO",
        "refused": "INFO",
        "self_connected": "WARNING",
        "verify_failed": "WARNING",
        "gave_up": "ERROR",
    }
    assert records[2].__dict__["tailbite_seconds"] == 0.25
    assert records[2].getMessage() == "waiting 0.250 s before attempt 2 to reach db.example:5432"
    assert "connected to itself and was reset" in records[4].getMessage()
    assert all("db.example:5432" in record.getMessage() or "the peer" in record.getMessage() for record in records)


def test_logging_says_nothing_below_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tailbite")
    hook = hooks.log(logging.getLogger("tailbite.mine"))
    for event in STORY:
        hook(event)
    assert [record.__dict__["tailbite_event"] for record in caplog.records] == [
        "self_connected",
        "verify_failed",
        "gave_up",
    ]


def test_structlog_gets_the_data_as_keys() -> None:
    with structlog.testing.capture_logs() as entries:
        hook = hooks.structlog()
        for event in STORY:
            hook(event)
    assert [entry["event"] for entry in entries] == [f"tailbite.{hooks.event_name(event)}" for event in STORY]
    assert entries[1] == {
        "event": "tailbite.refused",
        "log_level": "info",
        "target": "db.example:5432",
        "number": 1,
        "took": 0.1,
        "error": "[Errno 111] Connection refused",
    }


def test_prometheus_counts_and_measures() -> None:
    registry = CollectorRegistry()
    hook = hooks.prometheus(registry)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"target": "db.example:5432", **labels})

    for event in STORY[:10]:
        hook(event)
    assert value("tailbite_connections_open") == 1
    for event in STORY[10:]:
        hook(event)
    outcomes = ("connected", "refused", "self_connected", "verify_failed")
    counted = [value("tailbite_connection_attempts_total", outcome=outcome) for outcome in outcomes]
    assert counted == [1, 2, 1, 1]
    assert value("tailbite_connections_open") == 0
    assert value("tailbite_connections_lost_total") == 1
    assert value("tailbite_connections_given_up_total") == 1
    assert value("tailbite_connect_seconds_sum") == 0.1


@pytest.mark.usefixtures("network")
def test_the_page_shows_how_to_export() -> None:
    """Its program, until it gives up, and what Prometheus would then read."""
    page = (Path(__file__).parents[2] / "docs" / "persistent.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(import prometheus_client\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    scrape = "from urllib.request import urlopen\nprint(urlopen('http://127.0.0.1:9464/metrics').read().decode())\n"
    code = f"try:\n{indent(program, '    ')}except tailbite.GaveUpError:\n{indent(scrape, '    ')}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 'attempts_total{outcome="refused",target="127.0.0.1:32246"} 3.0' in done.stdout


def test_opentelemetry_has_a_span_for_each_attempt() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    hook = hooks.opentelemetry(provider.get_tracer("test"))
    for event in [*STORY, events.Attempting(DB, 70.0, 2, 1.0), events.Attempting(DB, 71.0, 3, 1.0)]:
        hook(event)
    spans = exporter.get_finished_spans()
    told = [(span.name, (span.attributes or {})["tailbite.outcome"], span.status.is_ok) for span in spans]
    assert told == [
        ("tailbite.connect", "refused", False),
        ("tailbite.connect", "self_connected", False),
        ("tailbite.connect", "verify_failed", False),
        ("tailbite.connect", "connected", True),
        ("tailbite.lost", "lost", False),
        ("tailbite.connect", "refused", False),
        ("tailbite.gave_up", "gave_up", False),
        ("tailbite.connect", "closed", True),
    ]
    assert spans[0].attributes == {
        "server.address": "db.example",
        "server.port": 5432,
        "tailbite.attempt": 1,
        "tailbite.outcome": "refused",
    }
    assert spans[3].events[0].name == "tailbite.verified"


def test_no_library_is_imported_before_its_hook_is_made() -> None:
    program = (
        "import sys, tailbite.hooks; tailbite.hooks.log();"
        "print(sorted({'structlog', 'prometheus_client', 'opentelemetry', 'asyncio', 'anyio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
