"""Clients in other languages, compiled once per session from ``tests/peers``."""

from __future__ import annotations

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
    """``compiled("client.c")`` is the command that starts it; everybody may execute it."""
    folder = tmp_path_factory.mktemp("compiled")
    open_to_all(folder)

    @cache
    def build(name: str) -> tuple[str, ...]:
        source, target = SOURCES / name, str(folder / name.replace(".", "-"))
        match source.suffix:
            case ".c":
                command = [find_peer("cc"), "-O1", "-pthread", "-o", target, str(source)]
            case ".rs":
                command = [find_peer("rustc"), "-O", "-o", target, str(source)]
            case ".go":
                command = [find_peer("go"), "build", "-o", target, str(source)]
            case ".java":
                command = [find_peer("javac"), "-d", target, str(source)]
        environment = {
            "PATH": f"/usr/bin:/bin:{Path(command[0]).parent}",
            "HOME": str(Path.home()),
            "CGO_ENABLED": "0",  # Go: static, and system calls of its own
            "GOCACHE": str(folder / "go"),
            "GO111MODULE": "off",
        }
        subprocess.run(command, check=True, env=environment, timeout=110)
        if source.suffix == ".java":
            return (find_peer("java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", target, source.stem)
        return (target,)

    return lambda name: list(build(name))
