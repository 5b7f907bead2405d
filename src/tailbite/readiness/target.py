"""What to wait for, as users write it: ``db:5432``, ``postgres://db/shop``, ``https://web/up``, a path."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailbite.connect.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from tailbite.verifiers.verification import Verifier

__all__ = ["Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A server somebody waits for.

    Attributes:
        target: where it is.
        verifier: how to know it; None: whoever accepts the connection is it.
    """

    target: Target
    verifier: Verifier | None = None

    @classmethod
    def of(cls, what: Any, verifier: Verifier | None = None) -> Wanted:
        """Read ``"db:5432"``, a URL, a path, ``("db", 5432)``, or take a :class:`Wanted` as it is.

        A URL's scheme says the protocol, and its default port; user and database of a ``postgres://`` URL are
        used, passwords are not. ``verifier`` is for everything that does not say its protocol.

        Raises:
            ValueError: it is none of these; the message says how to write it.
            TypeError: it is no text, no pair and no Wanted.
        """
        if isinstance(what, cls):
            return what
        if not isinstance(what, str):
            return cls(Target.of(what), verifier)
        if "://" in what and not what.startswith("unix:"):
            return cls._of_url(what)
        path = what.removeprefix("unix://").removeprefix("unix:")
        if path != what or what.startswith(("/", "./", "../")):
            return cls(Target.of(f"\0{path[1:]}" if path.startswith("@") else path), verifier)
        return cls(_of_host_and_port(what), verifier)

    @classmethod
    def _of_url(cls, text: str) -> Wanted:
        from urllib.parse import urlsplit

        try:
            url = urlsplit(text.removeprefix("jdbc:"))
            host, port = url.hostname, url.port
        except ValueError as error:
            raise ValueError(f"{_bare(text)!r} is no URL: {error}") from None
        name = url.scheme.partition("+")[0]  # "postgresql+psycopg" is how SQLAlchemy names the driver as well
        if name not in _SCHEMES:
            raise ValueError(f"{_bare(text)!r}: {url.scheme}:// is unknown; known are {', '.join(_SCHEMES)}")
        default, verifier_for = _SCHEMES[name]
        if not host:
            raise ValueError(f"{_bare(text)!r} has no host")
        if port is None:
            port = default
        if not port:
            raise ValueError(f"{_bare(text)!r} has no port: write {name}://{host}:PORT")
        return cls(Target.of((host, port)), verifier_for(url))

    def __str__(self) -> str:
        return f"{self.target} ({self.verifier.name})" if self.verifier else str(self.target)


def _bare(url: str) -> str:
    """Return a URL without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


def _of_host_and_port(text: str) -> Target:
    found = re.fullmatch(r"\[([^]\s]+)\]:(\S+)|([^:\s]+):([^:\s]+)", text)
    if found is None:
        example = "[::1]:5432" if text.count(":") > 1 else "db:5432"
        raise ValueError(f"{text!r} is not HOST:PORT: write it like {example}, or as a URL like postgres://db")
    host, port = found[1] or found[3], found[2] or found[4]
    if port.isascii() and port.isdigit():
        return Target.of((host, int(port)))
    try:
        return Target.of((host, socket.getservbyname(port, "tcp")))
    except OSError:
        raise ValueError(f"{text!r}: {port} is neither a port nor the name of a service") from None


def _postgres(url: SplitResult) -> Verifier:
    from urllib.parse import unquote

    from tailbite.verifiers.postgres import Postgres

    user = unquote(url.username or "") or "postgres"
    return Postgres(user=user, database=unquote(url.path[1:]) or user)


def _redis(url: SplitResult) -> Verifier:
    from tailbite.verifiers.asking import Redis
    from tailbite.verifiers.tls import TLS

    return TLS(Redis()) if url.scheme == "rediss" else Redis()


def _http(url: SplitResult) -> Verifier:
    from tailbite.verifiers.http import HTTP
    from tailbite.verifiers.tls import TLS

    http = HTTP((url.path or "/") + (f"?{url.query}" if url.query else ""))
    return TLS(http) if url.scheme == "https" else http


def _smtp(url: SplitResult) -> Verifier:
    from tailbite.verifiers.listening import SMTP
    from tailbite.verifiers.tls import TLS

    return TLS(SMTP()) if url.scheme == "smtps" else SMTP()


def _mysql(_: SplitResult) -> Verifier:
    from tailbite.verifiers.listening import MySQL

    return MySQL()


def _ssh(_: SplitResult) -> Verifier:
    from tailbite.verifiers.listening import SSH

    return SSH()


def _tls(_: SplitResult) -> Verifier:
    from tailbite.verifiers.tls import TLS

    return TLS()


_SCHEMES: dict[str, tuple[int, Callable[[SplitResult], Verifier | None]]] = {
    # The ports are those of IANA's service name registry; 0: there is no usual one.
    "postgres": (5432, _postgres),
    "postgresql": (5432, _postgres),
    "redis": (6379, _redis),
    "rediss": (6379, _redis),
    "mysql": (3306, _mysql),
    "mariadb": (3306, _mysql),
    "ssh": (22, _ssh),
    "smtp": (25, _smtp),
    "smtps": (465, _smtp),
    "http": (80, _http),
    "https": (443, _http),
    "tls": (0, _tls),
    "tcp": (0, lambda _: None),
}
