"""Is anything of an audit left? Processes are known by a mark in their environment, files by their folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

MARK = "TAILBITE_TEST_MARK"


def wait_for(condition: Callable[[], bool], what: str, *, while_runs: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something holds; the time limit is that of every test. Fails early if the process has ended."""
    while not condition():
        assert while_runs is None or while_runs.poll() is None, f"the audit ended early: {what}"
        time.sleep(0.01)


def marked(mark: str) -> list[int]:
    """Every process but this one that carries the mark."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
    return found


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[dict[str, str]]:
    """Mark what is started here; at the end no process that has the mark is left, and no file in ``folder``.

    Processes must be gone at once: the audit that returned has waited for them.
    """
    mark = uuid.uuid4().hex
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    os.environ[MARK] = mark
    try:
        yield {MARK: mark, "TMPDIR": str(folder)}
        assert marked(mark) == []
        assert list(folder.iterdir()) == []
    finally:
        del os.environ[MARK]
        tempfile.tempdir = before
