"""The command line: one module per command, imported only when that command runs.

``main`` is the entry point of the wheel. Where the libraries of the command are missing (``pip install --no-deps``),
it says how to install them.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

_OBJECTS = 50_000
_OUTPUT_CLOSED = 141  # as in tailbite.cli.status
_INTERRUPTED = 130  # tailbite.cli.status has it too, and would have to be imported where it is needed


def main() -> None:
    """Run the ``tailbite`` command."""
    # A start makes some ten thousand objects that stay: looking for garbage among them every 700 is a tenth of it.
    gc.set_threshold(_OBJECTS)
    closed = sys.stdout is None
    if closed and sys.argv[1:2] not in (["run"], ["wait"]):  # those pass descriptors on to a program as they are
        _open_output()
    try:
        ended = _main()
        # The status for "found something" must not come from a command whose output nobody can read.
        sys.exit(_OUTPUT_CLOSED if closed and ended == 1 and sys.argv[1:2] not in (["run"], ["wait"]) else ended)
    except KeyboardInterrupt:  # click knows what to do with it, but may not be loaded yet
        sys.exit(_INTERRUPTED)
    finally:
        gc.freeze()  # nor when it ends: the system frees all memory at once


def _open_output() -> None:
    """Give the command streams to write to, where the caller has closed them (``>&-``)."""
    sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the process ends
    if sys.stderr is None:
        sys.stderr = sys.stdout


def _main() -> int:
    if sys.argv[1:] in (["--help"], ["-h"]):
        from tailbite.cli import front

        try:
            front.print_front_page()
            return 0
        except OSError:
            pass  # a full disk, a reader that went away: the next write fails as well, and reports it
    if sys.argv[1:3] == ["run", "--"] and len(sys.argv) > 3:
        from tailbite.cli.run_program import run_program

        return run_program(tuple(sys.argv[3:]))
    if sys.argv[1:] == ["--version"]:
        from tailbite._version import __version__

        print(f"tailbite {__version__}")  # noqa: T201
        return 0
    try:
        import click  # noqa: F401
    except ImportError as error:
        from tailbite._extras import how_to_install

        print(f"tailbite: {error.name} is missing; install it with: {how_to_install('cli')}", file=sys.stderr)  # noqa: T201
        return 4
    from tailbite.cli.group import tailbite

    status: int = tailbite(prog_name="tailbite")
    return status
