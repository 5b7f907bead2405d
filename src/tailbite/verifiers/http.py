"""The verifier for HTTP: a path answers with the status that means "ready"."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.answer import Answer
from tailbite.verifiers.recognise import printed
from tailbite.verifiers.verification import check_timeout

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailbite.connect.target import Target
    from tailbite.verifiers.answer import Part
    from tailbite.verifiers.verification import Conversation, Receive, Send

__all__ = ["HTTP"]

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([^\r\n]*))?\Z")  # RFC 9112 section 4
_BEGINS = b"HTTP/1."
_EMPTY_LINE = re.compile(rb"\n\r?\n")


@dataclass(frozen=True)
class HTTP:
    """HTTP/1.1: GET ``path`` answers with a status of ``status``: one, or a range or set of them.

    The default is Kubernetes' rule for probes: 200 to 399. Redirects are not followed. The connection is spent:
    the server is asked to close it, and the answer's body is not read. For HTTPS: ``tls(http(...))``.

    Attributes:
        path: the path and query of the request.
        status: the statuses that mean "ready".
        host: the value of the Host header; None makes it of the target.
        credentials: user and password for basic authentication (RFC 7617); None sends none.
        timeout: seconds for the whole conversation.

    Raises:
        ValueError: the path does not begin with "/", or has characters that a request line cannot hold.
        TypeError: an argument has the wrong type.
    """

    path: str = "/"
    status: int | Container[int] = range(200, 400)
    host: str | None = None
    timeout: float = 5.0
    name: str = "http"
    spends: bool = True
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        self._check_types()
        if not self.path.startswith("/"):
            raise ValueError(f"{self.path!r} is not a valid path: it must begin with /")
        path, has_query, _ = self.path.partition("?")
        shown = f"{path}?..." if has_query else path  # a query may have a token
        for text, what in ((self.path, shown), (self.host or "", self.host)):
            if not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(f"{what!r} has characters that must be percent-encoded")
        if self.credentials is not None and ":" in self.credentials[0]:
            raise ValueError("a user name for basic authentication cannot have a colon (RFC 7617)")

    def _check_types(self) -> None:
        for name, text in (("path", self.path), ("host", self.host or "")):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be text, not {text!r}")
        if isinstance(self.status, str | bytes | bool) or not isinstance(self.status, int | Container):
            raise TypeError(f"status must be a number, or a range or set of numbers, not {self.status!r}")

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("HTTP")
        yield from answer.ask(self._request(target))
        while True:
            found = yield from _status_line(answer)
            status = int(found[1])
            if status >= 200 or status == 101:  # no other protocol was asked for (RFC 9110 section 15.2.2)
                break
            yield from _end_of_head(answer)  # an interim answer (RFC 9110 section 15.2): the next one counts
        if status not in (self.status if isinstance(self.status, Container) else (self.status,)):
            reason = f" {printed(found[2])}" if found[2] else ""
            note = " (redirects are not followed)" if 300 <= status < 400 else ""
            wanted = _wording_of(self.status)
            path, has_query, _ = self.path.partition("?")
            path += "?..." if has_query else ""  # a query may have a token, which must not get into a log
            raise VerifyError("not ready", f"{path} answers {status}{reason}, not {wanted}{note}")
        return b""

    def _request(self, target: Target) -> bytes:
        host = self.host
        if host is None and target.is_unix:
            host = "localhost"
        elif host is None:
            name = target.host.partition("%")[0]  # a zone means nothing to the server (RFC 6874 section 3)
            name = f"[{name}]" if ":" in name else name if name.isascii() else name.encode("idna").decode()
            host = name if target.port in (80, 443, "http", "https") else f"{name}:{target.port}"
        lines = [f"GET {self.path} HTTP/1.1", f"Host: {host}", "User-Agent: tailbite", "Accept: */*"]
        if self.credentials is not None:
            lines.append(f"Authorization: Basic {b64encode(':'.join(self.credentials).encode()).decode()}")
        return "\r\n".join((*lines, "Connection: close", "", "")).encode()


def _status_line(answer: Answer) -> Generator[Send | Receive, bytes, re.Match[bytes]]:
    while True:
        if not _BEGINS.startswith(answer.news[: len(_BEGINS)]):
            raise answer.wrong()
        line, end, _ = answer.news.partition(b"\n")
        if end:
            if (found := _STATUS_LINE.match(line.removesuffix(b"\r"))) is None:
                raise answer.wrong()
            return found
        yield from answer.more()


def _end_of_head(answer: Answer) -> Part:
    """Move to what follows the empty line, whose ends may be bare LF (RFC 9112 section 2.2)."""
    while (end := _EMPTY_LINE.search(answer.news)) is None:
        yield from answer.more()
    answer.begin += end.end()


def _wording_of(status: int | Container[int]) -> str:
    if isinstance(status, range) and len(status) == 1:
        return str(status.start)
    if isinstance(status, range) and status.step == 1:
        return f"{status.start}-{status.stop - 1}"
    return str(status)
