"""The command line: one module per command, imported only when that command runs.

``main`` is the entry point of the wheel, so it must work without the ``cli`` extra: it says what to install.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the ``tailbite`` command."""
    try:
        import click  # noqa: F401
    except ImportError:
        print(  # noqa: T201
            "tailbite: the command line needs the 'cli' extra; install it with: pip install 'tailbite[cli]'",
            file=sys.stderr,
        )
        sys.exit(4)
    from tailbite.cli.group import tailbite

    sys.exit(tailbite(prog_name="tailbite"))
