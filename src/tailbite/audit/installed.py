"""Search for the clients of the catalogue that are installed here, and their versions.

Programs are looked for in PATH and the administrator's folders. Python distributions and Node packages are looked
for in ``$TAILBITE_PEERS`` too, the folder that ``make peers`` fills: ``bin/python`` is a virtual environment's,
``node_modules`` npm's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STDLIB", "Found", "Requirement", "look_for"]

STDLIB: Final = "stdlib"
"""In place of a Python distribution: nothing but Python itself."""

_SECONDS = 20
_NODE_FOLDERS = (
    "/usr/local/lib/node_modules",
    "/usr/lib/node_modules",
    "/usr/share/nodejs",
    "/usr/share/node_modules",
)

# Names as PyPI compares them (PEP 503).
_DISTRIBUTIONS = """
import importlib.metadata as m, json, re
print(json.dumps({re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in m.distributions() if d.name}))
"""


_asking = threading.Lock()
"""Held while a Python lists its distributions, so that no other thread starts it for the same list."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """Requirements of a client; all of them must be met.

    Attributes:
        programs: found in PATH.
        python: a Python distribution, or ``stdlib``.
        node: a Node package.
        files: paths of which one must exist; ``{peers}`` is ``$TAILBITE_PEERS``.
        version: a command that prints the version; that of the distribution or package if not given.
        pattern: the regular expression that finds it there: its first group, or all it matches.
    """

    programs: tuple[str, ...] = ()
    python: str | None = None
    node: str | None = None
    files: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    pattern: str = r"\d+(?:\.\d+)+\w*"


@dataclass(frozen=True, slots=True)
class Found:
    """The place and version of an installed client.

    Attributes:
        version: its version, "" if it does not tell.
        placeholders: ``{python}``, ``{file}``.
        environment: variables that it needs to be found by what runs it.
    """

    version: str
    placeholders: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _peers() -> Path | None:
    folder = os.environ.get("TAILBITE_PEERS")
    return Path(folder) if folder else None


def look_for(wanted: Requirement) -> Found | None:
    """Return where a client is, or None if something that it needs is missing."""
    version = ""
    placeholders = {"{python}": sys.executable}
    environment = {"PATH": _path()}
    if any(shutil.which(program, path=_path()) is None for program in wanted.programs):
        return None
    if wanted.python is not None:
        if (python := _find_python(wanted.python)) is None:
            return None
        placeholders["{python}"], version = python
    if wanted.node is not None:
        if (node := _find_node(wanted.node)) is None:
            return None
        environment["NODE_PATH"], version = node
    if wanted.files:
        peers = str(_peers() or "/nonexistent")
        file = next((path for name in wanted.files if Path(path := name.replace("{peers}", peers)).exists()), None)
        if file is None:
            return None
        placeholders["{file}"] = file
    if wanted.version:
        command = tuple(_filled(word, placeholders) for word in wanted.version)
        version = _version(command, wanted.pattern)
    return Found(version, placeholders, environment)


def _filled(text: str, placeholders: Mapping[str, str]) -> str:
    for placeholder, value in placeholders.items():
        text = text.replace(placeholder, value)
    return text


def _find_python(distribution: str) -> tuple[str, str] | None:
    """Return the interpreter that has it, and its version."""
    if distribution == STDLIB:
        return sys.executable, ".".join(map(str, sys.version_info[:3]))
    name = re.sub(r"[-_.]+", "-", distribution).lower()
    peers = _peers()
    for python in (
        peers and str(peers / "bin" / "python"),
        sys.executable,
        shutil.which("python3"),
        "/usr/bin/python3",
    ):
        with _asking:
            version = _distributions(python).get(name) if python else None
        if python and version is not None:
            return python, version
    return None


@lru_cache
def _distributions(python: str) -> dict[str, str]:
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _DISTRIBUTIONS],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True,
        )  # fmt: skip
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return found


def _find_node(package: str) -> tuple[str, str] | None:
    """Return the folder of packages that has it, and its version."""
    if shutil.which("node", path=_path()) is None:
        return None
    peers = _peers()
    for folder in (*([str(peers / "node_modules")] if peers else []), *_NODE_FOLDERS):
        try:
            about = json.loads((Path(folder) / package / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return folder, str(about.get("version", ""))
    return None


@lru_cache
def _version(command: tuple[str, ...], pattern: str) -> str:
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS, check=False,
            env={**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8"}, text=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(pattern, answer.stdout)
    if match is None:
        return ""
    return str(match.group(1) if match.re.groups else match.group())
