"""The command line: one module per command, imported only when that command runs.

``main`` is the entry point of the wheel, so it must work without the ``cli`` extra: it says what to install.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

_OBJECTS = 50_000
_INTERRUPTED = 130  # tailbite.cli.status has it too, and would have to be imported where it is needed


def main() -> None:
    """Run the ``tailbite`` command."""
    # A start makes some ten thousand objects that stay: looking for garbage among them every 700 is a tenth of it.
    gc.set_threshold(_OBJECTS)
    try:
        sys.exit(_main())
    except KeyboardInterrupt:  # click knows what to do with it, but may not be loaded yet
        sys.exit(_INTERRUPTED)
    finally:
        gc.freeze()  # nor when it ends: the system takes everything back at once


def _main() -> int:
    if sys.argv[1:] in (["--help"], ["-h"]):
        from tailbite.cli import front

        try:
            front.print_front_page()
            return 0
        except OSError:
            pass  # a full disk, a reader that went away: what follows meets it as well, and says so
    if sys.argv[1:3] == ["run", "--"] and len(sys.argv) > 3:
        from tailbite.cli.run_program import run

        return run(tuple(sys.argv[3:]))
    try:
        import click  # noqa: F401
    except ImportError:
        print(  # noqa: T201
            "tailbite: the command line needs the 'cli' extra; install it with: pip install 'tailbite[cli]'",
            file=sys.stderr,
        )
        return 4
    from tailbite.cli.group import tailbite

    status: int = tailbite(prog_name="tailbite")
    return status
