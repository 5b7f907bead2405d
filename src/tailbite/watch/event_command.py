"""``--exec``: the user's command for each self-connect; a slow one does not stop the watch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MOST_QUEUED", "MOST_RUNNING", "EventCommand"]

MOST_RUNNING: Final = 8
MOST_QUEUED: Final = 1000


class EventCommand:
    """Runs a shell command for each event: its JSON on stdin, its fields in ``TAILBITE_`` variables.

    Args:
        command: for ``/bin/sh -c``.

    Attributes:
        dropped: events for which nothing was run, because too many were waiting.
        failed: commands that ended with another status than 0.
    """

    def __init__(self, command: str) -> None:
        self.dropped = 0
        self.failed = 0
        self._command = command
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._running: list[subprocess.Popen[bytes]] = []
        self._waiting: deque[tuple[Mapping[str, Any], str]] = deque()

    def submit(self, fields: Mapping[str, Any], document: str) -> None:
        """Run the command for an event, now or when one of the running ones has ended."""
        if len(self._waiting) >= MOST_QUEUED:
            self.dropped += 1
            return
        self._waiting.append((fields, document))
        self.start_waiting()

    def start_waiting(self) -> None:
        """Collect the commands that have ended, and start those that wait."""
        ended = [process for process in self._running if process.poll() is not None]
        self.failed += sum(process.returncode != 0 for process in ended)
        self._running = [process for process in self._running if process.returncode is None]
        while self._waiting and len(self._running) < MOST_RUNNING:
            self._start(*self._waiting.popleft())

    def _start(self, fields: Mapping[str, Any], document: str) -> None:
        # Names of processes are made by others: a NUL byte cannot stand in an environment.
        # In the C locale Python could not encode them either.
        given = {
            f"TAILBITE_{name.upper()}".encode(): str(value).replace("\0", "?").encode(errors="surrogateescape")
            for name, value in fields.items()
        }
        reading, writing = os.pipe()
        try:
            os.set_blocking(writing, False)
            try:
                os.write(writing, f"{document}\n".encode())  # a pipe takes 64 KiB at once; an event has 1
            except BlockingIOError:
                pass
            with self._own_priority():
                process = subprocess.Popen(
                    ["/bin/sh", "-c", self._command], stdin=reading, env={**os.environb, **given}
                )
        except OSError:
            self.failed += 1
            return
        finally:
            os.close(reading)
            os.close(writing)
        self._running.append(process)

    @contextlib.contextmanager
    def _own_priority(self) -> Iterator[None]:
        """Start children at the priority that this process had in the beginning: --kill raises its own."""
        raised = os.getpriority(os.PRIO_PROCESS, 0)
        if raised >= self._priority:
            yield
            return
        os.setpriority(os.PRIO_PROCESS, 0, self._priority)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, raised)

    def finish(self, timeout: float) -> None:
        """Run what waits, and wait for all of it at most ``timeout`` seconds.

        A command that still runs then continues, and one that still waits is dropped.
        """
        end = time.monotonic() + timeout
        while (self._running or self._waiting) and (left := end - time.monotonic()) > 0:
            self.start_waiting()
            if self._running:
                try:
                    self._running[0].wait(left)
                except subprocess.TimeoutExpired:
                    break
        self.dropped += len(self._waiting)
        self._waiting.clear()
