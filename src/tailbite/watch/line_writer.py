"""Lines for a reader that may be slow: watching, and destroying, must not wait for it."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_WAITING", "LineWriter"]

MOST_WAITING: Final = 10_000
"""Lines that wait for a reader; later ones are dropped and counted until it reads again."""


class LineWriter:
    """Writes lines to a descriptor from a thread of its own.

    Args:
        descriptor: where to; stays open.
        dropped_line: makes the line that stands for dropped ones, of their number.
        most: how many lines may wait.

    Attributes:
        dropped: how many lines were dropped because the reader was too slow.
        is_closed: True once the reader is gone (EPIPE) or the file is full; everything is dropped from then on.
        error: the reason; None while it works.
    """

    def __init__(
        self, descriptor: int, dropped_line: Callable[[int], str] | None = None, *, most: int = MOST_WAITING
    ) -> None:
        self.dropped = 0
        self.is_closed = False
        self.error: OSError | None = None
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._told = 0
        self._waiting: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="tailbite-writer", daemon=True)
        self._thread.start()

    def put_line(self, line: str) -> None:
        """Have a line written, without waiting; drop it if too many wait already."""
        try:
            if self._dropped_line is not None and self._told < self.dropped:
                self._waiting.put_nowait(self._dropped_line(self.dropped - self._told))
                self._told = self.dropped
            self._waiting.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most ``timeout`` seconds."""
        try:
            self._waiting.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            if self.is_closed:
                continue
            data = f"{line}\n".encode("utf-8", "replace")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                self.error, self.is_closed = error, True
