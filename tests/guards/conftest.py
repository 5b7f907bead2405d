"""Clients in other languages, compiled once per session from ``tests/peers``."""

from __future__ import annotations

import fcntl
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.users import open_to_all

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).parents[1] / "peers"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return a function: ``compiled("client.c")`` is the command that starts it; every user may execute it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    folder.mkdir(exist_ok=True)
    open_to_all(folder)

    @cache
    def build(name: str) -> tuple[str, ...]:
        source, target = SOURCES / name, folder / name.replace(".", "-")
        compiler, command = _commands(source, target)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # xdist's workers share the folder
            if not target.exists():
                _compile(compiler, folder)
        return tuple(command)

    return lambda name: list(build(name))


def _commands(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Return the commands that compile a client and that start it."""
    match source.suffix:
        case ".c":
            return [find_peer("cc"), "-O1", "-pthread", "-o", str(target), str(source)], [str(target)]
        case ".rs":
            return [find_peer("rustc"), "-O", "-o", str(target), str(source)], [str(target)]
        case ".go":
            return [find_peer("go"), "build", "-o", str(target), str(source)], [str(target)]
        case ".java":
            start = [find_peer("java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(target), source.stem]
            return [find_peer("javac"), "-d", str(target), str(source)], start
        case other:
            raise ValueError(f"there is no compiler for {other!r}")


def _compile(command: list[str], folder: Path) -> None:
    environment = {
        "PATH": f"/usr/bin:/bin:{Path(command[0]).parent}",
        "HOME": str(Path.home()),
        "CGO_ENABLED": "0",  # Go: static, and system calls of its own
        "GOCACHE": os.environ["GOCACHE"],
        "GO111MODULE": "off",
    }
    subprocess.run(command, check=True, env=environment, timeout=110)
