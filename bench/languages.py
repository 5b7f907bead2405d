"""Connects of other languages: tailbite's beside theirs, and what ``tailbite run`` adds to them.

Go's net.Dial looks for self-connects itself (and closes them, see docs/lab.md); Node does not. Each side of a pair is
a process of its own that dials a listener of its own, and they take turns block by block. What is not installed is
left out, and said. Run: ``python bench/languages.py``
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from paired import Ratio, compare, left_out, no_options, report

import tailbite
from guards import Side
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent / "dialers"
PORT = 46884
BLOCK = 200
OURS = (sys.executable, __file__)
RUN = (sys.executable, "-m", "tailbite", "run", "--")


@contextlib.contextmanager
def side(*command: str) -> Iterator[Side]:
    """Start one side."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Side(process)


def peers(folder: Path) -> dict[str, tuple[str, ...]]:
    """Build or find each peer that is installed: name -> command, to be followed by the port."""
    found: dict[str, tuple[str, ...]] = {}
    if (go := shutil.which("go")) is not None:
        program = folder / "dial"
        subprocess.run([go, "build", "-o", str(program), str(HERE / "dial.go")], check=True, env=_go(folder))
        found["Go net.Dial"] = (str(program),)
    if (node := shutil.which("node")) is not None:
        found["Node net.connect"] = (node, str(HERE / "dial.js"))
    for name in {"Go net.Dial", "Node net.connect"} - found.keys():
        left_out(name, "not installed")
    return found


def _go(folder: Path) -> dict[str, str]:
    return {**os.environ, "GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "CGO_ENABLED": "0"}


def dial(port: int) -> None:
    """Be the side of tailbite: for each line on stdin, time a block and print seconds."""
    with socket.create_server(("127.0.0.1", port)) as server:
        for _ in sys.stdin:
            spent = []
            for _ in range(BLOCK):
                start = perf_counter()
                client = tailbite.create_connection(("127.0.0.1", port))
                spent.append(perf_counter() - start)
                server.accept()[0].close()
                abort(client)
            print(median(spent), flush=True)


def main() -> None:
    """Measure and print."""
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory() as folder:
        found = peers(Path(folder))  # before the network goes: go may look for its toolchain
        enter_private_network()
        for name, command in found.items():
            with side(*command, str(PORT)) as peer, side(*OURS, str(PORT + 2)) as ours:
                ratios.append(compare(f"tailbite.create_connection beside {name}", peer, ours, blocks=40))
            with side(*command, str(PORT)) as plain, side(*RUN, *command, str(PORT + 2)) as guarded:
                ratios.append(compare(f"tailbite run: {name}", plain, guarded, blocks=40))
    report("connects of other languages", ratios)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        dial(int(sys.argv[1]))
    else:
        no_options(__doc__)
        main()
