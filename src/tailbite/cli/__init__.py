"""The command line: one module per command, imported only when that command runs.

``main`` is the entry point of the wheel. Where the libraries of the command are missing (``pip install --no-deps``),
it says how to install them.
"""

from __future__ import annotations

import codecs
import gc
import io
import sys

__all__ = ["main"]

_OBJECTS = 50_000
_ANY_TEXT = "tailbite.any-text"
# The same as in tailbite.cli.status, which would have to be imported where they are needed.
_UNSUPPORTED = 4
_INTERRUPTED = 130
_OUTPUT_CLOSED = 141
_REMEDIES = {
    11: "; allow this user more processes (ulimit -u, TasksMax= of systemd, or the limit of the container)",  # EAGAIN
    12: "; allow it more memory (ulimit -v, or the limit of the container)",  # ENOMEM
    24: "; allow it more of them (ulimit -n)",  # EMFILE
}


def main() -> None:
    """Run the ``tailbite`` command."""
    # A start makes some ten thousand objects that stay: looking for garbage among them every 700 is a tenth of it.
    gc.set_threshold(_OBJECTS)
    closed = sys.stdout is None
    passes_on = sys.argv[1:2] in (["run"], ["wait"])  # their status and their descriptors are a program's
    if sys.argv[1:2] != ["run"]:
        _open_output()
    try:
        ended = _main()
        # The status for "found something" must not come from a command whose output nobody can read.
        sys.exit(_OUTPUT_CLOSED if closed and ended == 1 and not passes_on else ended)
    except KeyboardInterrupt:  # click knows what to do with it, but may not be loaded yet
        sys.exit(_INTERRUPTED)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        sys.exit(_report_shortage(error))
    finally:
        gc.freeze()  # nor when it ends: the system frees all memory at once


def _open_output() -> None:
    """Give the command streams to write to, where the caller has closed them (``>&-``)."""
    # Open until the process ends, and closed in every program that it starts (PEP 446).
    if sys.stdout is None:
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115
    codecs.register_error(_ANY_TEXT, _encode_otherwise)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ANY_TEXT)


def _encode_otherwise(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode a character that the output's encoding lacks, as ``\\xe4``, and a byte of a file's name as that byte.

    Processes, files and hosts have names of any characters, and no name is a reason to answer nothing.
    """
    assert isinstance(error, UnicodeEncodeError)
    char = error.object[error.start]
    if "\udc80" <= char <= "\udcff":  # how Python keeps a byte that is not text (PEP 383)
        return bytes([ord(char) - 0xDC00]), error.start + 1
    return char.encode("ascii", "backslashreplace"), error.start + 1


def _report_shortage(error: Exception) -> int:
    """Say what the system refused, and return the status for that; raise any other error again.

    Nothing is imported here but for a missing file: that takes a file descriptor, which may be what is missing.
    """
    if isinstance(error, OSError) and not sys.flags.dev_mode:
        where = f"{error.filename}: " if error.filename else ""
        remedy = _folder_remedy() if error.errno == 2 else _REMEDIES.get(error.errno or 0, "")
        what = f"{where}{error.strerror or error}{remedy}"
    elif isinstance(error, MemoryError) or "start new thread" in str(error):
        what = f"the system has no memory or no thread left for this{_REMEDIES[12]}{_REMEDIES[11]}"
    elif isinstance(error, ImportError) and (error.path or "").endswith(".so"):
        what = f"a library cannot be loaded: {error}"
    else:
        raise error
    if sys.stderr is not None:
        sys.stderr.write(f"tailbite: {what}\n")
    return _UNSUPPORTED


def _folder_remedy() -> str:
    from tailbite.kernel.executable import GONE, is_working_directory_gone

    return f"; {GONE}" if is_working_directory_gone() else ""


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

        try:
            sys.stdout.write(f"tailbite {__version__}\n")
            sys.stdout.flush()
            return 0
        except OSError:
            pass  # as above
    try:
        import click  # noqa: F401
    except ImportError as error:
        from tailbite._extras import how_to_install

        print(f"tailbite: {error.name} is missing; install it with: {how_to_install('cli')}", file=sys.stderr)  # noqa: T201
        return 4
    from tailbite.cli.group import tailbite

    status: int = tailbite(prog_name="tailbite")
    return status
