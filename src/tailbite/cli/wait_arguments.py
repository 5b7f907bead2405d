"""The arguments of ``tailbite wait``: targets, protocols and times; each refuses bad input with one sentence."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailbite._files import read_whole
from tailbite.cli.output import reason_of
from tailbite.cli.params import LONGEST_S, service_port
from tailbite.core.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.readiness.free import Bind
    from tailbite.readiness.target import Wanted
    from tailbite.verify import Verifier

__all__ = ["TIME", "Statuses", "check_certificates", "choose_verifier", "read_binds", "read_bytes", "read_statuses"]


class _Time(click.ParamType[float]):
    """A duration as in every other command; also 0, and "never" for no end."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        if str(value).strip().lower() in ("never", "inf", "infinity"):
            return math.inf
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds > LONGEST_S:
            self.fail(f"{str(value)[:20]} is longer than 100 years: write never", param, ctx)
        return seconds


TIME = _Time()


def read_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes | None:
    r"""Read text with escapes, ``\r \n \t \0 \xNN \\``, as bytes."""
    if value is None:
        return None
    try:
        return value.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeError:
        raise click.BadParameter(
            f"{value} has an escape that is not a byte: write \\n, \\0 or \\x0a", ctx, param
        ) from None


class Statuses(frozenset[int]):
    """Several statuses of HTTP, shown as they were written: 204,300-399.

    Args:
        text: how they were written.
        ranges: each status, or range of them.
    """

    def __new__(cls, text: str, ranges: Iterable[range]) -> Statuses:
        made = super().__new__(cls, [status for each in ranges for status in each])
        made._text = text
        return made

    _text: str

    def __str__(self) -> str:
        return self._text


def read_statuses(ctx: click.Context, param: click.Parameter, value: str | None) -> range | Statuses | None:
    """Read ``204``, ``200-299`` or ``204,300-399``."""
    if value is None:
        return None
    ranges = []
    for part in value.split(","):
        found = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", part.strip(), re.ASCII)
        if found is None or (found[2] or "999") < found[1]:
            raise click.BadParameter(
                f"{value!r} is not a valid HTTP status: write 204, 200-299 or 204,300-399", ctx, param
            )
        ranges.append(range(int(found[1]), int(found[2] or found[1]) + 1))
    if not any(101 in each or each.stop > 200 for each in ranges):  # RFC 9110 section 15.2
        raise click.BadParameter(
            f"{value} is for interim answers only, and waiting is for the answer that follows: write 200-399",
            ctx,
            param,
        )
    return ranges[0] if len(ranges) == 1 else Statuses(value, ranges)


def _with_number(text: str) -> str:
    """Return the text with a number for the name of a service at its end: ``db:postgresql``, ``ssh``, ``80/tcp``."""
    if "://" in text or text[:1] in ("/", "."):
        return text
    text = text[:-4] if text.lower().endswith("/tcp") else text
    host, colon, port = text.rpartition(":")
    number = service_port(port)
    return text if number is None else f"{host}{colon}{number}"


def read_binds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Bind, ...]:
    """Read ``8080`` or ``127.0.0.1:8080``."""
    from tailbite.readiness.free import Bind

    try:
        return tuple(dict.fromkeys(Bind.parse(_with_number(value)) for value in values))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def check_certificates(ctx: click.Context, wanted: tuple[Wanted, ...], cacert: str | None) -> tuple[Wanted, ...]:
    """Return the targets, those that speak TLS with a context that checks their certificates."""
    import ssl

    from tailbite.verifiers.tls import TLS

    try:
        if cacert is None or Path(cacert).is_file():
            context = ssl.create_default_context(cafile=cacert)
        else:  # a pipe of the shell; OpenSSL would wait for one that no program writes to
            text = read_whole(Path(cacert)).decode("ascii", errors="ignore")
            context = ssl.create_default_context(cadata=text or " ")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError without a file
        reason = "it has no certificate in PEM form" if isinstance(error, ssl.SSLError) else reason_of(error)
        raise click.UsageError(f"--cacert {cacert}: {reason}", ctx) from None
    if not any(isinstance(each.verifier, TLS) for each in wanted):
        raise click.UsageError("--check-certificate belongs to --tls, or to a URL with TLS, such as https://", ctx)
    return tuple(
        replace(each, verifier=replace(each.verifier, context=context)) if isinstance(each.verifier, TLS) else each
        for each in wanted
    )


def choose_verifier(
    ctx: click.Context,
    *,
    http: str | None,
    status: range | Statuses | None,
    banner: bytes | None,
    send: bytes | None,
    expect: bytes | None,
    tls: bool,
    **plain: bool,
) -> Verifier | None:
    """Make the verifier that the options ask for."""
    from tailbite import verify

    if (send is None) != (expect is None):
        raise click.UsageError("--send and --expect belong together", ctx)
    chosen: list[Verifier] = [getattr(verify, name) for name, wanted in plain.items() if wanted]
    if http is not None:
        chosen.append(verify.http(http) if status is None else verify.http(http, status))
    if banner is not None:
        chosen.append(verify.banner(banner))
    if send is not None and expect is not None:
        chosen.append(verify.send_expect(send, expect))
    if len(chosen) > 1:
        names = " and ".join(f"--{verifier.name}" for verifier in chosen)
        raise click.UsageError(f"{names}: a server speaks one protocol; for different ones write URLs", ctx)
    inside = chosen[0] if chosen else None
    return verify.tls(inside) if tls else inside
