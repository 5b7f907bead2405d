"""``tailbite lab``: experiments on this kernel, their data and their figures."""

from __future__ import annotations

from typing import Final

import click

from tailbite.cli.group import LazyGroup
from tailbite.cli.output import Unsupported
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.namespace import enter_private_network

__all__ = ["command", "private_network"]

LAB_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "loop": ("tailbite.cli.lab.loop", "Count self-connects of a reconnect loop at full speed, beside the model."),
    "parity": ("tailbite.cli.lab.parity", "Compare model and kernel: which source ports are possible at all."),
    "odds": ("tailbite.cli.lab.odds", "Calculate whether, when and how often it happens, on one host or many."),
    "handshake": (
        "tailbite.cli.lab.handshake",
        "Capture the segments of one self-connect, beside an ordinary handshake.",
    ),
    "cures": ("tailbite.cli.lab.cures", "Compare the strategies of clients while a server restarts."),
}


@click.group("lab", cls=LazyGroup, commands=LAB_COMMANDS, no_args_is_help=True)
def command() -> None:
    """Measure why it happens, how often, and which strategy helps.

    Every experiment runs on this kernel in a private network (nothing outside is touched, no root needed), stores
    its data as JSON lines (--data FILE), and draws from data (--figure NAME makes NAME.svg and NAME.png; --from FILE
    draws stored data without measuring again).
    """


def private_network(purpose: str) -> None:
    """Move this process into a private network."""
    try:
        enter_private_network()
    except NamespaceUnavailable as error:
        raise Unsupported(f"{error}; {purpose} is measured in a private network") from error
