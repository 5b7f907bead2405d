"""The checkout that is released: its folders, its version, and a command that fails with what the program printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
SHARE = ROOT / "share"
URL = "https://github.com/tailbite/tailbite"
MAINTAINER = "The tailbite developers <tailbite@localhost>"
SUMMARY = "Find, explain and prevent TCP self-connects"
DESCRIPTION = """\
A client that keeps reconnecting to a local server that is down can connect to
itself: the kernel chooses the destination port as source port, and the server
can no longer start. tailbite finds and explains such connections on a host,
prevents them for any program, and watches for new ones."""
EPOCH = 1_700_000_000
"""The modification time of every file in an artefact: two builds of one tree are equal, byte for byte."""


def version() -> str:
    """Return the version of this checkout, as in PEP 440."""
    text = (ROOT / "src/tailbite/_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "(.+?)"', text)
    assert found is not None
    return found[1]


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program and return its output; end with what it printed if it fails."""
    done = subprocess.run([*map(str, command)], env=env, cwd=cwd, check=False, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
