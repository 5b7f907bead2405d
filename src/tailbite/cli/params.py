"""Kinds of arguments and options that several commands take; each refuses bad input with one sentence."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from tailbite.core.address import canonical_host
from tailbite.core.duration import parse_duration
from tailbite.core.ports import HIGHEST_PORT, PortRange, PortSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.host.see.records import Namespace, NotVisible

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "DURATION",
    "LONGEST_S",
    "PLACE",
    "PORTS",
    "PORT_NUMBER",
    "RANGE",
    "WHOLE",
    "Count",
    "PortNumber",
    "Share",
    "chosen_namespaces",
    "netns_option",
    "parse_ports",
    "service_port",
]

LONGEST_S: Final = 100 * 365.25 * 86400
"""The longest time that a command takes, in seconds; that of a lock is 292 years (threading.TIMEOUT_MAX)."""
_ITEM = re.compile(r"(\d+)(?:-(\d+))?")
_PROTOCOLS = ("tcp", "udp", "sctp", "dccp")
_NUMBER, _NAME = f"write a number from 1 to {HIGHEST_PORT}", "service name such as ssh"


def netns_option(text: str, *, default: str = "all") -> Callable[[F], F]:
    """Return the ``--netns`` option; its value is passed as ``wanted``.

    Args:
        text: what the command does with the namespaces.
        default: the value if none is given.
    """
    return click.option(
        "-n", "--netns", "wanted", default=default, show_default=True, metavar="all|self|PID|NAME", help=text
    )


def chosen_namespaces(wanted: str) -> tuple[tuple[Namespace, ...], tuple[NotVisible, ...]]:
    """Return the namespaces that ``--netns`` names, and what could not be seen; an unknown one is wrong usage."""
    from tailbite.host.see import namespaces

    try:
        return namespaces.choose_namespaces(wanted)
    except namespaces.UnknownNamespace as error:
        raise click.BadParameter(str(error), param_hint="--netns") from None


def parse_ports(text: str) -> PortSet:
    """Return the ports of ``50051`` or ``8125,50051-50060``, at least one and none of them 0.

    Raises:
        ValueError: the text is not such a list; the message says which part is wrong.
    """
    advice = "write ports as 50051 or 8125,50051-50060"
    if not text.strip():
        raise ValueError(f"no port is given: {advice}")
    parts = [_numbered(part.strip()) for part in text.split(",")]
    for part in parts:
        if not part:
            raise ValueError(f"there is a comma without a port: {advice}")
        match = _ITEM.fullmatch(part)
        if match is None or not part.isascii():
            raise ValueError(f"{part!r} is not a port or a range of ports: {advice}")
        for number in filter(None, match.groups()):
            if not 1 <= int(number) <= HIGHEST_PORT:
                raise ValueError(f"{number} is not a port: ports are 1 to {HIGHEST_PORT}")
        if match[2] and int(match[1]) > int(match[2]):
            raise ValueError(f"{part} is not a range of ports: the lower one comes first")
    return PortSet.parse(",".join(parts))


def _numbered(part: str) -> str:
    """Return the number for the name of a TCP service; other text, without ``/tcp`` at its end, as it is."""
    part = part[:-4] if part.lower().endswith("/tcp") else part
    number = service_port(part)
    return part if number is None else str(number)


def service_port(name: str) -> int | None:
    """Return the port of a TCP service by its name (services(5)); None if this host does not know it."""
    if not name[:1].isalpha():
        return None
    import socket

    for spelled in (name, name.lower()):  # names of services are in small letters, with few exceptions
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            return socket.getservbyname(spelled, "tcp")
    return None


class _Range(click.ParamType[PortRange]):
    name = "low-high"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> PortRange:
        if isinstance(value, PortRange):
            return value
        try:
            return PortRange.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Ports(click.ParamType[PortSet]):
    name = "ports"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> PortSet:
        if isinstance(value, PortSet):
            return value
        try:
            return parse_ports(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Place(click.ParamType[tuple[str | None, int]]):
    """PORT, HOST:PORT or [HOST]:PORT; HOST is an address, localhost or *, PORT a number or a name."""

    name = "port|host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, int]:
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        try:
            host, port = _split_place(text)
            return _place_host(host), _place_port(port, text, f"{_NUMBER}, a {_NAME}, or HOST:PORT")
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _split_place(text: str) -> tuple[str, str]:
    if "://" in text:  # which is not repeated: it may have a password
        raise ValueError("a URL is not a port: write HOST:PORT, such as 127.0.0.1:80")
    address, slash, protocol = text.partition("/")
    if address.lower() in _PROTOCOLS and protocol:
        raise ValueError(f"{text!r} begins with the protocol: write the port first, as in {protocol}/tcp")
    if slash and protocol.lower() != "tcp":
        raise ValueError(f"{text!r} asks about {protocol or 'no protocol'}: only TCP ports are explained")
    host, _, port = address.rpartition(":")
    has_brackets = host.startswith("[") and host.endswith("]") and host != "[]"
    if not host and not port:
        raise ValueError("no port is given: write PORT or HOST:PORT")
    if not has_brackets and not address.endswith("]") and (plain := _with_brackets(address, host, port)):
        raise ValueError(f"{text!r} is not clear: write an IPv6 address in brackets, as {plain}")
    if not port or address.endswith("]") or (not host and ("." in port or port in ("localhost", "*"))):
        raise ValueError(f"{text!r} has no port: write it as {address.removesuffix(':')}:PORT")
    if not has_brackets and re.search(r"[][:]", host):
        raise ValueError(f"{text!r} is not a port or HOST:PORT: an IPv6 address is written as [::1]:80")
    if not host and re.fullmatch(r"[0-9]+[-,][-,0-9]*", port):
        raise ValueError(f"{text!r} is several ports: give one here, or all to `tailbite doctor --ports {port}`")
    return (host[1:-1] if has_brackets else host), port


def _with_brackets(address: str, host: str, port: str) -> str:
    """Return what may be meant by an IPv6 address without its brackets; empty if it is not one."""
    import ipaddress

    found = []
    for each, end in ((host.strip("[]"), port), (address.strip("[]"), "PORT")):
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(each)
            found += [f"[{each}]:{end}"] if end == "PORT" or end.isdigit() else []
    return " or ".join(found)


def _place_host(host: str) -> str | None:
    if host in ("", "*"):
        return None
    if host == "localhost":
        return "127.0.0.1"
    import ipaddress

    plain, percent, zone = host.partition("%")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address: write one, or localhost, or the port alone") from None
    if address.version == 6 and address.is_link_local:
        if not zone:
            raise ValueError(f"{plain} is link-local: name its interface too, as in [{plain}%eth0]:PORT")
        return f"{address}%{zone}"
    if percent:
        raise ValueError(f"{host!r} names an interface, which only a link-local address (fe80::) has: leave it out")
    return canonical_host(host)


def _place_port(port: str, text: str, advice: str) -> int:
    if port.isascii() and port.isdigit():
        if len(port) > 5 or not 1 <= int(port) <= HIGHEST_PORT:
            raise ValueError(f"{port} is not a port: ports are 1 to {HIGHEST_PORT}")
        return int(port)
    number = service_port(port)
    if number is None:
        raise ValueError(f"{port or text!r} is not a port or a TCP service that this host knows: {advice}")
    return number


class PortNumber(click.ParamType[int]):
    """One port, as a number or the name of a TCP service.

    Args:
        lowest: the lowest that is allowed.
        highest: the highest.
    """

    name = "port"

    def __init__(self, lowest: int = 1, highest: int = HIGHEST_PORT) -> None:
        self._lowest, self._highest = lowest, highest

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number = _place_port(_numbered(str(value).strip()), str(value), f"{_NUMBER} or a {_NAME}")
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self._lowest <= number <= self._highest:
            self.fail(f"{number} is not allowed here: give a port from {self._lowest} to {self._highest}", param, ctx)
        return number


class Count(click.IntRange):
    """A whole number in a range; refused input is called that, and not an integer range."""

    name = "whole number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read digits, with _ between them as in Python."""
        if isinstance(value, str) and not re.fullmatch(r"-?\d+(_\d+)*", value.strip(), re.ASCII):
            self.fail(f"{value!r} is not a valid whole number.", param, ctx)
        return int(super().convert(value, param, ctx))  # type: ignore[arg-type]

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        """Refuse a value, with the bounds in words."""
        super().fail(_in_words(message, self.min, self.max), param, ctx)


class Share(click.FloatRange):
    """A number in a range, such as a percentage."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read digits with a point: float() takes "nan" too, which no range can refuse."""
        if isinstance(value, str) and not re.fullmatch(r"-?(\d+(\.\d*)?|\.\d+)", value.strip(), re.ASCII):
            self.fail(f"{value!r} is not a valid number.", param, ctx)
        return float(super().convert(value, param, ctx))  # type: ignore[arg-type]

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        """Refuse a value, with the bounds in words."""
        super().fail(_in_words(message, self.min, self.max), param, ctx)


def _in_words(message: str, lowest: float | None, highest: float | None) -> str:
    value, found, _ = message.partition(" is not in the range ")
    most = "" if highest is None else f" to {highest:g}"
    return f"{value} is not allowed here: give a number from {lowest:g}{most}" if found else message


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{value} is not a valid time to wait: give more than 0", param, ctx)
        if seconds > LONGEST_S:
            self.fail(f"{str(value)[:20]} is not a valid time to wait: it is longer than 100 years", param, ctx)
        return seconds


class _Whole(click.ParamType[int]):
    """A positive whole number that may be written as 1e6 or 1_000_000."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(str(value)) if str(value).isascii() else 0.0
        except ValueError:
            number = 0.0
        if not 1 <= number <= 1e15 or number != int(number):
            self.fail(f"{value!r} is not a whole number of at least 1", param, ctx)
        return int(number)


RANGE: Final = _Range()
"""LOW-HIGH, a range of ports."""
PORTS: Final = _Ports()
"""Ports and ranges as ip_local_reserved_ports has them: 1-3,8."""
PORT_NUMBER: Final = PortNumber()
"""A port, 1 to 65535, or the name of a TCP service."""
PLACE: Final = _Place()
"""A port, or an address and a port: (host or None, port)."""
DURATION: Final = _Duration()
"""More than 0 seconds: 100ms, 1s, 10m, 1h30m."""
WHOLE: Final = _Whole()
"""1 or more: 500, 1e6."""
