"""Targets of a wait as users write them: ``db:5432``, ``postgres://db/shop``, ``https://web/up``, a path."""

from __future__ import annotations

import contextlib
import re
import socket
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tailbite.connect.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from urllib.parse import SplitResult

    from tailbite.verifiers.verification import Verifier

__all__ = ["Wanted", "names_of", "reason_of_name", "require_host"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A server that a wait is for.

    Attributes:
        target: its address.
        verifier: the test of its protocol; None accepts every server that holds the connection.
    """

    target: Target
    verifier: Verifier | None = None

    @classmethod
    def of(
        cls, what: Any, verifier: Verifier | None = None, *, http_status: int | Container[int] | None = None
    ) -> Wanted:
        """Read ``"db:5432"``, a URL, a path, ``("db", 5432)``, or take a :class:`Wanted` as it is.

        A port alone, ``"5432"`` or ``":5432"``, is one of this host (localhost).

        A URL's scheme names the protocol and its default port. User and password of an ``http://`` or ``redis://``
        URL are sent, and user and database of a ``postgres://`` URL; a password that would not be sent is an error.

        Args:
            what: the target.
            verifier: the verifier for a target that does not name its protocol.
            http_status: the statuses that mean "ready" for an ``http://`` or ``https://`` URL; None takes 200 to 399.

        Raises:
            ValueError: it is not a valid target; the message says how to write it.
            TypeError: it is not text, a pair or a Wanted.
        """
        if isinstance(what, cls):
            return what
        if not isinstance(what, str):
            return cls(Target.of(what), verifier)
        if "://" in what and not what.startswith("unix:"):
            return cls._of_url(what, http_status)
        path = what.removeprefix("unix://").removeprefix("unix:")
        if path != what and not path:
            raise ValueError(f"{what!r} has no path: write it as unix:/run/app.sock")
        if path != what or what.startswith(("/", "./", "../")):
            if path.startswith("@"):
                return cls(Target.of(f"\0{path[1:]}"), verifier)
            return cls(Target.of(path if "/" in path else f"./{path}"), verifier)
        return cls(_of_host_and_port(what), verifier)

    @classmethod
    def _of_url(cls, text: str, http_status: int | Container[int] | None) -> Wanted:
        from urllib.parse import urlsplit

        try:
            url = urlsplit(text.removeprefix("jdbc:"))
            host = url.hostname
        except ValueError as error:
            raise ValueError(
                f"{_bare(text)!r} is not a valid URL: {str(error)[:1].lower()}{str(error)[1:]}"
            ) from None
        if url.scheme.endswith("+unix"):
            option = "--http PATH" if url.scheme.startswith("http") else f"--{url.scheme.removesuffix('+unix')}"
            raise ValueError(f"{_bare(text)!r}: for a Unix socket write {option} /run/app.sock")
        name = url.scheme.partition("+")[0]  # "postgresql+psycopg" is how SQLAlchemy names the driver as well
        if name not in _SCHEMES:
            raise ValueError(f"{_bare(text)!r}: {url.scheme}:// is unknown; known are {', '.join(_SCHEMES)}")
        default, verifier_for = _SCHEMES[name]
        if re.search(_USERINFO, text) and "@" not in url.netloc and not re.search(r":\d*\Z", url.netloc, re.ASCII):
            # What urllib takes for the port is the beginning of the password, and must not be repeated.
            raise ValueError(f"{_bare(text)!r} is not a valid URL: {_ESCAPE}")
        port = _port_of_url(url, default)
        if not host:
            raise ValueError(f"{_bare(text)!r} has no host")
        if ":" in host:
            host = host.replace("%25", "%", 1)  # how a URL spells the % before a zone (RFC 6874)
        elif host.lower().startswith("%2f"):
            raise ValueError(f"{_bare(text)!r}: for a Unix socket write its path, with an option for the protocol")
        if not port:
            raise ValueError(f"{_bare(text)!r} has no port: write {name}://{host}:PORT")
        require_host(host, port)
        if url.password is not None and name not in _SEND_PASSWORD:
            raise ValueError(
                f"{_bare(text)!r}: the password would not be sent, because no login is tried: "
                f"leave it out, as in {name}://{url.username + '@' if url.username else ''}{host}:{port}"
            )
        if url.username and url.password is None and name in ("redis", "rediss"):
            raise ValueError(
                f"{_bare(text)!r}: Redis takes a user with a password only: write {name}://USER:PASSWORD@{host}, or "
                f"{name}://:PASSWORD@{host} without a user"
            )
        if name not in ("http", "https") and (named := re.search(_SECRET, f"?{url.query}")):
            place = f"write it before the host, as in {url.scheme}://USER:PASSWORD@{host}"
            advice = place if name in _SEND_PASSWORD else "no login is tried: leave it out"
            raise ValueError(f"{_bare(text)!r}: the {named[1].lower()} in the query would not be sent; {advice}")
        verifier = verifier_for(url)
        if http_status is not None and name in ("http", "https"):
            verifier = _with_status(verifier, http_status)
        return cls(Target.of((host, port)), verifier)

    def __str__(self) -> str:
        return f"{self.target} ({self.verifier.name})" if self.verifier else str(self.target)


def names_of(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """Return the targets as they are shown; those that look alike, as two paths of one server do, are numbered."""
    names, times = [], Counter[str]()
    for name in map(str, wanted):
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name} #{times[name]}")
    return tuple(names)


def _port_of_url(url: SplitResult, default: int) -> int:
    """Return the port of a URL, which may be the name of a service.

    Raises:
        ValueError: it is neither; the message says so, without user and password.
    """
    place = url.netloc.rpartition("@")[2]
    port = place.rpartition("]")[2].partition(":")[2]
    if place.startswith("[") and not place.endswith("]") and "]:" not in place:
        raise ValueError(f"{place!r} has something else than a port after the address: write it like [::1]:80")
    if ":" in port:
        raise ValueError(f"{place!r} has more than one colon: write an IPv6 address in brackets, as in [::1]:80")
    return _port_number(port, f"{url.scheme}://{place}") if port else default


_USERINFO = r"(?s)(://[^/@:]*):.*@"
"""A user and a password; it ends with the last @, since the password may have more of them."""
_NOT_IN_NAMES = r"""[/\\@,;?#"'<>|&=()\[\]{}$!`^*+~]|\.\.|^\.|[^.]{64}"""
"""Characters that are in no name of a host, empty parts, and parts longer than 63 bytes (RFC 1035 section 2.3.4)."""
_SECRET = r"(?i)(?<=[?&;])(user|password|passwd|pwd|pass|sslpassword)=[^&;#]+"
"""A part of a query in which libpq and JDBC drivers find a login."""
_ESCAPE = "the characters / ? # @ in a password must be percent-encoded, as in %2F"


def _bare(url: str) -> str:
    """Return a URL without what may be secret: password, a user without one (which can be a token), and query."""
    url = re.sub(_USERINFO, r"\1:***@", url)
    url = re.sub(r"://[^/?#@:]*@", "://***@", url)
    return re.sub(r"\?.*", "?...", url, flags=re.DOTALL)


def _of_host_and_port(text: str) -> Target:
    found = re.fullmatch(r"\[([^]\s]+)\]:(\S+)|([^:\s]*):([^:\s]+)|()([0-9]+(?:/[a-zA-Z]+)?)", text)
    if text.startswith("@"):
        raise ValueError(f"{text!r} is not HOST:PORT: for an abstract Unix socket write unix:{text}")
    if "@" in text:  # what stands before it may be a password
        raise ValueError("a user belongs into a URL, such as redis://USER:PASSWORD@HOST: write HOST:PORT")
    if found is None:
        if text.isalnum() and _service_port(text):
            raise ValueError(f"{text!r} can be a host or a service: write {text}:PORT, or localhost:{text}")
        example = "[::1]:5432" if text.count(":") > 1 else "db:5432"
        path = f", or for a Unix socket ./{text}" if re.search(r"/|\.sock(et)?\Z", text) else ""
        raise ValueError(f"{text!r} is not HOST:PORT: write it like {example}, or as a URL like postgres://db{path}")
    host, port = found[1] or found[3] or "localhost", found[2] or found[4] or found[6]
    number = _port_number(port, text)
    require_host(host, number)
    return Target.of((host, number))


def require_host(host: str, port: int) -> None:
    """Refuse what cannot be a host, and a link-local address without its interface, which every interface may have.

    Raises:
        ValueError: it is one of these.
    """
    name, _, zone = host.partition("%")
    if not host.isprintable() or " " in host or re.search(_NOT_IN_NAMES, name) or (zone and ":" not in name):
        raise ValueError(f"{host!r} is not a valid host name: write one name or address, as in db:{port}")
    if re.match("fe[89ab][0-9a-f]:", name, re.IGNORECASE):
        if not zone:
            raise ValueError(f"{host} is link-local: name its interface too, as in [{host}%eth0]:{port}")
    elif zone:
        raise ValueError(f"{host!r} names an interface, which only a link-local address (fe80::) has: leave it out")


def reason_of_name(host: str) -> str:
    """Return the reason why a name cannot be resolved, where it is known: the interface of an address is missing."""
    zone = host.partition("%")[2]
    if zone and not zone.isdecimal():
        try:
            socket.if_nametoindex(zone)
        except OSError:
            return f"this host has no interface {zone}"
    return ""


def _port_number(port: str, text: str) -> int:
    """Return the number of a port, or of the service that has this name."""
    if port.isascii() and port.isdigit():
        if not 0 < int(port[:9]) <= 65535:
            raise ValueError(f"{port} is not a valid port to connect to: it must be 1 to 65535")
        return int(port)
    name, _, protocol = port.partition("/")
    if protocol and protocol.lower() != "tcp":
        raise ValueError(f"{text!r} asks about {protocol}: only TCP servers can be waited for")
    number = int(name) if name.isascii() and name.isdigit() else _service_port(name) or _service_port(name.lower())
    if number is None:
        raise ValueError(f"{text!r}: {port} is neither a port nor the name of a service")
    return number


def _service_port(name: str) -> int | None:
    """Return the port of a TCP service by its name (services(5)); None if this host does not know it."""
    with contextlib.suppress(OSError, UnicodeError, ValueError):
        return socket.getservbyname(name, "tcp")
    return None


def _postgres(url: SplitResult) -> Verifier:
    from urllib.parse import unquote

    from tailbite.verifiers.postgres import Postgres

    user = unquote(url.username or "") or "postgres"
    password = None if url.password is None else unquote(url.password)
    return Postgres(user=user, database=unquote(url.path[1:]) or user, password=password)


def _redis(url: SplitResult) -> Verifier:
    from urllib.parse import unquote

    from tailbite.verifiers.asking import Redis
    from tailbite.verifiers.tls import TLS

    password = None if url.password is None else unquote(url.password)
    redis = Redis(user=unquote(url.username or ""), password=password)
    return TLS(redis) if url.scheme == "rediss" else redis


def _http(url: SplitResult) -> Verifier:
    from urllib.parse import unquote

    from tailbite.verifiers.http import HTTP
    from tailbite.verifiers.tls import TLS

    credentials = None
    if url.username or url.password is not None:
        credentials = unquote(url.username or ""), unquote(url.password or "")
    http = HTTP((url.path or "/") + (f"?{url.query}" if url.query else ""), credentials=credentials)
    return TLS(http) if url.scheme == "https" else http


def _with_status(verifier: Any, status: int | Container[int]) -> Verifier:
    """Return the verifier of an HTTP URL with other statuses."""
    if verifier.name == "http":
        return replace(verifier, status=status)  # type: ignore[no-any-return]
    return replace(verifier, inside=replace(verifier.inside, status=status))  # type: ignore[no-any-return]


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

_SEND_PASSWORD = ("http", "https", "redis", "rediss", "postgres", "postgresql")
"""The schemes whose verifiers log in."""
