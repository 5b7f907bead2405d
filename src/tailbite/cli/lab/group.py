"""``tailbite lab``: experiments on this kernel, their data and their pictures."""

from __future__ import annotations

from typing import Final

import click

from tailbite.cli.group import LazyGroup
from tailbite.cli.output import Unsupported
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.namespace import enter_private_network

__all__ = ["command", "private_network"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "loop": ("tailbite.cli.lab.loop", "The story's loop at full speed, counted, against the model."),
    "parity": ("tailbite.cli.lab.parity", "Which ports are drawn at all: model against kernel."),
    "odds": ("tailbite.cli.lab.odds", "Can it happen here, when, and how often in a fleet."),
    "handshake": ("tailbite.cli.lab.handshake", "One self-connect on the wire, beside an ordinary handshake."),
    "cures": ("tailbite.cli.lab.cures", "The strategies of clients side by side, under a storm."),
}


@click.group("lab", cls=LazyGroup, commands=COMMANDS, no_args_is_help=True)
def command() -> None:
    """Measure why it happens, how often, and which cure helps.

    Every experiment runs on this kernel in a private network (nothing outside is touched, no root needed), stores
    its data as JSON lines (--data FILE), and draws from data (--figure NAME makes NAME.svg and NAME.png; --from FILE
    draws stored data without measuring again).
    """


def private_network(purpose: str) -> None:
    """Move this process into a network of its own."""
    try:
        enter_private_network()
    except NamespaceUnavailable as error:
        raise Unsupported(f"{error}; {purpose} is measured in a private network") from error
