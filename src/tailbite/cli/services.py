"""``--ports FILE|LIST``: the services that should run here."""

from __future__ import annotations

from pathlib import Path

import click

from tailbite.core.ports import PortSet
from tailbite.host.explain.subject import Service

__all__ = ["SERVICES"]

_LARGEST_FILE = 1 << 20


class _Services(click.ParamType[tuple[Service, ...]]):
    """Ports as ``50051,8125-8130``, or the name of a file with a line ``PORTS [NAME]`` each, ``#`` for comments."""

    name = "file|list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Service, ...]:
        if isinstance(value, tuple):
            return value
        text = str(value)
        if "/" not in text and not Path(text).is_file():
            try:
                return _services(text)
            except ValueError as error:
                self.fail(f"{error}; and there is no file of that name", param, ctx)
        try:
            with Path(text).open(encoding="utf-8") as file:
                lines = file.read(_LARGEST_FILE).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"cannot read {text}: {getattr(error, 'strerror', None) or error}", param, ctx)
        found: dict[int, Service] = {}
        for number, line in enumerate(lines, 1):
            ports, _, name = line.partition("#")[0].strip().partition(" ")
            try:
                found.update({one.port: one for one in (_services(ports, name.strip()) if ports else ())})
            except ValueError as error:
                self.fail(f"{text}, line {number}: {error}", param, ctx)
        return tuple(found.values())


def _services(text: str, name: str = "") -> tuple[Service, ...]:
    ports = PortSet.parse(text)
    if not ports or 0 in ports:
        raise ValueError(f"{text!r} names no ports: write 50051 or 8125,50051-50060")
    return tuple(Service(port, name) for port in ports)


SERVICES = _Services()
"""A tuple of :class:`Service`."""
