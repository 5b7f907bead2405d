"""``--ports FILE|LIST``: the services that should run here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from tailbite._files import read_whole
from tailbite.cli.output import reason_of
from tailbite.cli.params import parse_ports
from tailbite.host.explain.subject import Service

__all__ = ["SERVICES"]


class _Services(click.ParamType[tuple[Service, ...]]):
    """Ports as ``50051,8125-8130``, or the name of a file with a line ``PORTS [NAME]`` each, ``#`` for comments."""

    name = "file|list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Service, ...]:
        if isinstance(value, tuple):
            return value
        text = str(value)
        if _is_list(text):
            try:
                return _services(text)
            except ValueError as error:
                missing = "" if text[:1].isdigit() or not text else f"there is no file {text!r}, and "
                self.fail(f"{missing}{error}", param, ctx)
        try:
            lines = read_whole(Path(text)).decode("utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            self.fail(f"cannot read {text}: {reason_of(error)}", param, ctx)
        found: dict[int, Service] = {}
        for number, line in enumerate(lines, 1):
            ports, name = (*line.partition("#")[0].split(maxsplit=1), "", "")[:2]
            try:
                found.update({one.port: one for one in (_services(ports, name.strip()) if ports else ())})
            except ValueError as error:
                self.fail(f"{text}, line {number}: {error}", param, ctx)
        return tuple(found.values())


def _is_list(text: str) -> bool:
    """Tell whether the text is a list of ports: no such file is there, and it has a slash only in ``80/tcp``."""
    # os.path, because pathlib raises for a text that is too long for a file's name (ENAMETOOLONG).
    return not os.path.isfile(text) and "/" not in re.sub(r"/tcp(?=\s*(?:,|$))", "", text, flags=re.IGNORECASE)  # noqa: PTH113


def _services(text: str, name: str = "") -> tuple[Service, ...]:
    return tuple(Service(port, name) for port in parse_ports(text))


SERVICES = _Services()
"""A tuple of :class:`Service`."""
