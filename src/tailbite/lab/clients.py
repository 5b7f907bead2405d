"""Unguarded clients that reconnect until they are connected: telnet, or a plain Python socket.

Each is a context manager that leaves no process behind and resets its socket.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["PlainClient", "TelnetClient", "UnguardedClient"]

_MOST_SECONDS = 10.0


class UnguardedClient(Protocol):
    """A client without any protection against self-connects.

    Attributes:
        name: the program's name.
        pid: the process that holds the socket.
        attempts: number of connects so far.
    """

    name: str
    attempts: int

    @property
    def pid(self) -> int: ...
    def connect(self, host: str, port: int, show: Callable[[str], None]) -> bool:
        """Reconnect until connected; False if it gave up first."""

    def ask(self, line: str) -> str:
        """Send one line and return the line that comes back, "" without one."""

    def __enter__(self) -> UnguardedClient: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainClient:
    """A plain Python socket in this process."""

    name = Path(sys.executable).name

    def __init__(self, most_attempts: int = 100, count: Callable[[int], None] | None = None) -> None:
        self.attempts = 0
        self._most = most_attempts
        self._count = count
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The number of this process."""
        return os.getpid()

    def connect(self, host: str, port: int, show: Callable[[str], None]) -> bool:
        """Call connect(2) on a new socket until one connects; False after the maximum of attempts."""
        show(f">>> while sock.connect_ex(({host!r}, {port})): ...    # 111, Connection refused, then a new socket")
        while self.attempts < self._most:
            self.attempts += 1
            sock = socket.socket()
            if sock.connect_ex((host, port)) == 0:
                self._socket = sock
                if self._count is not None:
                    self._count(self.attempts)
                show(f"0    # attempt {self.attempts:,}: connected")
                return True
            sock.close()
            if self._count is not None and self.attempts % 256 == 0:
                self._count(self.attempts)
        return False

    def ask(self, line: str) -> str:
        """Send one line and read one."""
        assert self._socket is not None
        self._socket.settimeout(_MOST_SECONDS)
        self._socket.sendall(line.encode() + b"\n")
        return self._socket.makefile().readline().strip()

    def __enter__(self) -> PlainClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            abort(self._socket)


class TelnetClient:
    """The telnet program, started again and again as a shell loop does."""

    name = "telnet"

    def __init__(self, program: str) -> None:
        self.attempts = 0
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def find(cls) -> TelnetClient | None:
        """Return a client if telnet is installed."""
        program = shutil.which("telnet")
        return None if program is None else cls(program)

    @property
    def pid(self) -> int:
        """The number of the running telnet process, 0 without one."""
        return self._process.pid if self._process is not None else 0

    def connect(self, host: str, port: int, show: Callable[[str], None]) -> bool:
        """Start telnet until it prints that it is connected; False after 10 seconds."""
        show(f"$ while ! telnet {host} {port}; do :; done")
        deadline = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < deadline:
            self.attempts += 1
            self._process = subprocess.Popen(
                [self._program, host, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
            while (line := self._read_line(deadline)) is not None:
                show(line)
                if line.startswith("Escape character"):
                    return True
            self._end()
        return False

    def ask(self, line: str) -> str:
        """Type one line and read what telnet prints."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return self._read_line(time.monotonic() + _MOST_SECONDS) or ""

    def _read_line(self, deadline: float) -> str | None:
        """Return the next line without its end, or None at the end of the output or after the deadline."""
        assert self._process is not None
        output: IO[bytes] | None = self._process.stdout
        assert output is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(output.fileno(), 1) if ready else b""
            if not piece:
                return None
            line += piece
        return line.decode(errors="replace").strip()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> TelnetClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
