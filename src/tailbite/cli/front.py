"""The front page, which ``tailbite --help`` shows. It needs no option parser: loading click is most of a start."""

from __future__ import annotations

import sys

__all__ = ["ABOUT", "COMMANDS", "NEED_LINUX", "WIDEST", "front_page", "print_front_page"]

# name -> (module, one line for --help). The line stands here so that --help loads no command.
COMMANDS = {
    "demo": ("tailbite.cli.demo", "Show the effect and its cure on this kernel, in a private network."),
    "run": ("tailbite.cli.run", "Run any program so that it cannot connect to itself."),
    "wait": ("tailbite.cli.wait", "Wait until servers are really there, then run a command."),
    "scan": ("tailbite.cli.scan", "Find every TCP socket that is connected to itself."),
    "why": ("tailbite.cli.why", "Say why a port is in use, refused, or free, and what to do."),
    "doctor": ("tailbite.cli.doctor", "Tell whether this host is at risk, and what helps."),
    "fix": ("tailbite.cli.fix", "Show, apply and revert the remedies: reserve ports, move the range, kill."),
    "host-guard": ("tailbite.cli.host_guard", "Refuse every self-connect of this host, by a firewall rule."),
    "watch": ("tailbite.cli.watch", "Show every self-connect of this machine as it happens."),
    "exporter": ("tailbite.cli.exporter", "Serve self-connects and risks of this host as Prometheus metrics."),
    "check": ("tailbite.cli.check", "Check this host once, in the format of a monitoring system."),
    "audit": ("tailbite.cli.audit", "Would this client connect to itself? Run it in a trap and see."),
    "lab": ("tailbite.cli.lab.group", "Measure why, how often, and which cure; draw it."),
    "report": ("tailbite.cli.report", "Merge what scan and doctor found on many hosts into one table."),
    "schema": ("tailbite.cli.schema", "Print the JSON Schemas of what the commands print."),
    "completion": ("tailbite.cli.completion", "Print the completions for bash, zsh or fish."),
    "man": ("tailbite.cli.man", "Show the man page."),
}

NEED_LINUX = frozenset({"scan", "why", "doctor", "fix", "host-guard", "watch", "exporter", "check", "audit"})
"""The commands that inspect or change what only Linux has; ``demo`` and ``lab`` ask for a private network."""

ABOUT = """\
Connect to your server, never to yourself.

A TCP client that keeps reconnecting to a local port where nobody listens can connect to itself, get its own
bytes back, and keep the server from starting. tailbite prevents, finds, explains and reproduces that.
"""

_OPTIONS = {"--version": "Show the version and exit.", "-h, --help": "Show this message and exit."}

WIDEST = 96
"""No line of help is longer, however wide the terminal."""


def front_page(width: int) -> str:
    """Return the help of the ``tailbite`` command, its lines at most ``width`` letters long."""
    import textwrap

    paragraphs = (textwrap.fill(part, width - 2) for part in ABOUT.split("\n\n"))
    parts = [
        "Usage: tailbite [OPTIONS] COMMAND [ARGS]...\n",
        *(f"{textwrap.indent(text, '  ')}\n" for text in paragraphs),
    ]
    for title, rows in (("Options", _OPTIONS), ("Commands", {name: line for name, (_, line) in COMMANDS.items()})):
        margin = max(map(len, rows)) + 4
        lines = (
            textwrap.fill(text, width, initial_indent=f"  {name}".ljust(margin), subsequent_indent=" " * margin)
            for name, text in rows.items()
        )
        parts.append("\n".join((f"{title}:", *lines, "")))
    return "\n".join(parts)


def print_front_page() -> None:
    """Print the page, as wide as click would.

    Raises:
        OSError: it cannot be written.
    """
    import shutil

    sys.stdout.write(front_page(max(min(shutil.get_terminal_size().columns, WIDEST) - 2, 50)))
    sys.stdout.flush()
