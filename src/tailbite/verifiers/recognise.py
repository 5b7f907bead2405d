"""Protocols, recognised by the first bytes that their servers send.

Only for messages to users: a verifier accepts by its own protocol's rules, never by this table. Each rule
looks at the beginning of the bytes alone, so a protocol once recognised stays the same when more bytes arrive.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["describe", "printed", "quoted", "recognise"]

_RULES: Final = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("SSH", rb"SSH-"),  # RFC 4253 section 4.2
        ("HTTP", rb"HTTP/\d"),  # RFC 9112 section 4
        ("HTTP without a status line", rb"(?i)\s*<(!doctype|html)"),
        ("HTTP/2", rb"\0..\x04[\0\x01]\0{4}"),  # a SETTINGS frame: RFC 9113 section 3.4
        ("TLS", rb"[\x15\x16]\x03[\0-\x04]"),  # an alert or a handshake record: RFC 8446 section 5.1
        ("FTP", rb"(?i)220[ -][^\r\n]*ftp"),
        ("SMTP", rb"(220|421|554)[ \r-]"),  # RFC 5321 section 3.1
        ("IMAP", rb"\* (OK|PREAUTH|BYE)"),  # RFC 9051 section 7.1
        ("Redis", rb"\+PONG\r|-(ERR|NOAUTH|NOPERM|DENIED|LOADING|BUSY|MISCONF|MASTERDOWN) "),
        ("POP3", rb"\+OK"),  # RFC 1939 section 4
        ("MySQL", rb"..\0\0(\x0a[ -~]+\0|\xff)"),  # a greeting or an error as the first packet
        ("PostgreSQL", rb"E\0\0..S[A-Z]+\0|R\0\0\0.\0\0\0."),  # ErrorResponse, AuthenticationRequest
        ("AMQP", rb"AMQP"),
        ("VNC", rb"RFB \d"),  # RFC 6143 section 7.1.1
        ("Telnet", rb"\xff[\xfb-\xfe]"),  # RFC 854: WILL, WONT, DO, DONT
        ("memcached", rb"(ERROR\r|CLIENT_ERROR |VERSION )"),
        ("NATS", rb"INFO \{"),
    )
)


def recognise(data: bytes) -> str | None:
    """Name the protocol whose server begins like ``data``, or None."""
    return next((name for name, pattern in _RULES if pattern.match(data)), None)


def describe(data: bytes) -> str:
    """Return a phrase that names the protocol of ``data``, and quotes it."""
    known = recognise(data)
    return f"looks like {known}: {quoted(data)}" if known else f"it sent {quoted(data)}"


def quoted(data: bytes, at_most: int = 40) -> str:
    r"""Write bytes for people: as text where they are, as ``\xNN`` where not, cut with an ellipsis."""
    text = repr(b"'" + bytes(data[:at_most]))[3:-1].replace('"', '\\"')
    return f'"{text}..."' if len(data) > at_most else f'"{text}"'


def printed(data: bytes) -> str:
    """Return a server's words for a message: one line without control characters."""
    text = "".join(c if c.isprintable() else " " for c in data.decode("utf-8", "replace"))
    return " ".join(text.split())
