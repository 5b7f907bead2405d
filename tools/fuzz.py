"""Every parser, fed with inputs that atheris finds by coverage: ``python tools/fuzz.py --seconds 60 [PARSER...]``

A parser may refuse an input with the exceptions that its documentation names, and with nothing else; each input has
to be answered within twenty seconds. Each parser runs in a process of its own. Exit status 1 if one of them failed:
the input is left in the directory named in the report, and ``--input FILE`` with the parser's name tries it again.
Exit status 4 where atheris is not installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PARSERS", "Parser", "fuzz"]

SLOWEST_SECONDS = 20
"""Of the wall clock: on a busy machine the first input of a parser waits for its imports as well."""
_BROKEN = "broken"
"""A parser that fails, by which the test of this tool knows that a failure is found."""


class Parser(NamedTuple):
    """A function of one input, the exceptions it documents, and inputs to begin with."""

    function: Callable[[Any], object]
    refusals: tuple[type[Exception], ...]
    takes_text: bool
    seeds: tuple[bytes, ...]


def _of_bytes(
    function: Callable[[Any], object], *seeds: bytes, refusals: tuple[type[Exception], ...] = (ValueError,)
) -> Parser:
    return Parser(function, refusals, False, seeds)


def _of_text(
    function: Callable[[Any], object], *seeds: bytes, refusals: tuple[type[Exception], ...] = (ValueError,)
) -> Parser:
    return Parser(function, refusals, True, seeds)


def _parsers() -> dict[str, Parser]:
    from tailbite.audit import catalogue
    from tailbite.core.address import canonical_host
    from tailbite.core.duration import parse_duration
    from tailbite.core.ports import PortRange, PortSet
    from tailbite.errors import CatalogueError, NetlinkError
    from tailbite.host.sysctl import text as sysctl_text
    from tailbite.kernel import inet_diag, netlink, packets, procfs, tcp_info

    def of_sysctl(text: str) -> object:
        changed = sysctl_text.with_assignment(text, "net.ipv4.ip_local_port_range", "1 2")
        found = sysctl_text.value_in(changed, "net.ipv4.ip_local_port_range")
        if found != "1 2":
            raise AssertionError(f"an assignment that was written is read as {found!r}")
        return sysctl_text.without_assignment(text, "net.ipv4.ip_local_port_range")

    def messages(data: bytes) -> object:
        return list(netlink.messages(data))

    def attributes(data: bytes) -> object:
        return list(netlink.attributes(memoryview(data)))

    def offsets(data: bytes) -> object:
        return inet_diag.self_connect_offsets(memoryview(data), 20)

    segment = bytes.fromhex("4500002800010000400600007f0000017f0000017df67df600000000000000005002000000000000")
    entry = b'name = "x"\nkind = "tool"\ncommand = ["x", "{host}", "{port}"]\n'
    return {
        "netlink.messages": _of_bytes(messages, bytes(32), refusals=(ValueError, NetlinkError)),
        "netlink.attributes": _of_bytes(attributes, b"\x08\0\1\0aaaa"),
        "inet_diag.decode": _of_bytes(inet_diag.decode, b"\2\1" + bytes(70), b"\x0a\1" + bytes(70)),
        "inet_diag.self_connect_offsets": _of_bytes(offsets, b"\x58\0\0\0\x14\0" + bytes(82)),
        "tcp_info.decode": _of_bytes(tcp_info.decode, bytes(232)),
        "packets.decode": _of_bytes(packets.decode, segment, b"\x60" + bytes(70)),
        "procfs.parse_mounts": _of_text(lambda text: list(procfs.parse_mounts(text)), b"a / b c\\040d 0 0\n"),
        "sysctl.text": _of_text(
            of_sysctl, b"net.ipv4.ip_local_port_range = 1 2\n", b"-net/ipv4/x=1\n# a", refusals=()
        ),
        "PortRange.parse": _of_text(PortRange.parse, b"9000-65500", b"1 2"),
        "PortSet.parse": _of_text(PortSet.parse, b"1-3,8", b""),
        "parse_duration": _of_text(parse_duration, b"1.5s", b"10min", b"1h30m"),
        "canonical_host": _of_text(canonical_host, b"::ffff:127.0.0.1", b"fe80::1%2"),
        "catalogue.parse_entry": _of_text(
            lambda text: catalogue.parse_entry(text, Path("x")), entry, refusals=(CatalogueError,)
        ),
        _BROKEN: _of_bytes(_fail_on_some_inputs, b"broken"),
    }


def _fail_on_some_inputs(data: bytes) -> None:
    if data.startswith(b"broken"):
        raise KeyError("this parser is here to be found out")


PARSERS = tuple(name for name in _parsers() if name != _BROKEN)


def fuzz(name: str, seconds: float, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz one parser for that long in a process of its own; inputs that fail are left in ``folder``."""
    command = (sys.executable, __file__, "--child", name, "--folder", str(folder), "--seconds", str(seconds))
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60 + 3 * seconds)


def _child(name: str, seconds: float, folder: Path) -> None:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore] # no wheel for every Python

    with atheris.instrument_imports():
        import tailbite.audit.catalogue
        import tailbite.host.sysctl.text
        import tailbite.kernel.sock_diag  # noqa: F401 - imported to be instrumented
    parser = _parsers()[name]
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(parser.seeds):
        (corpus / f"seed{number}").write_bytes(seed)

    def one_input(data: bytes) -> None:
        _try(parser, data)

    limits = f"-max_total_time={seconds:.0f}", f"-timeout={SLOWEST_SECONDS}", "-max_len=600", "-verbosity=0"
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/failed-", str(corpus)], one_input)
    atheris.Fuzz()


def _try(parser: Parser, data: bytes) -> None:
    argument: str | bytes = data.decode("utf-8", "surrogateescape") if parser.takes_text else data
    try:
        parser.function(argument)
    except parser.refusals:
        return


def main() -> int:
    """Fuzz the parsers, one on each CPU; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parsers", nargs="*", metavar="PARSER", help=", ".join(PARSERS))
    options.add_argument("--seconds", type=float, default=60, help="for each parser (60)")
    options.add_argument("--input", type=Path, help="try this file only")
    options.add_argument("--child", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if unknown := [name for name in given.parsers if name not in (*PARSERS, _BROKEN)]:
        options.error(f"{unknown[0]} is not a parser; the parsers are {', '.join(PARSERS)}")
    if given.child:
        _child(given.child, given.seconds, given.folder)
        return 0
    if given.input is not None:
        for name in given.parsers:
            _try(_parsers()[name], given.input.read_bytes())
        return 0
    return _fuzz_all(given.parsers or PARSERS, given.seconds)


def _fuzz_all(names: tuple[str, ...] | list[str], seconds: float) -> int:
    try:
        import atheris  # noqa: F401 - asked for before any parser is started
    except ImportError:
        print("atheris is not installed: python -m pip install atheris")
        return 4
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return 0 if all(list(pool.map(lambda name: _found_nothing(name, seconds), names))) else 1


def _found_nothing(name: str, seconds: float) -> bool:
    folder = Path(tempfile.mkdtemp(prefix=f"tailbite-fuzz-{name}-"))
    done = fuzz(name, seconds, folder)
    told = "nothing found" if done.returncode == 0 else f"FAILED, see {folder}\n{done.stderr[-3000:]}"
    print(f"{name}: {told}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
