"""Destinations of connections: host and port, or the path of a Unix socket."""

from __future__ import annotations

import operator
import os
import socket
from dataclasses import dataclass
from typing import Any

__all__ = ["Target"]

_LONGEST_UNIX_PATH = 107
"""sun_path has 108 bytes, the last of them NUL (unix(7))."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to connect to.

    Attributes:
        host: a name or an address; for a Unix socket its path (a leading NUL: the abstract namespace, unix(7)).
        port: a port, or a service name; None for a Unix socket.
    """

    host: str
    port: int | str | None = None

    @classmethod
    def of(cls, address: Any, port: int | str | None = None) -> Target:
        """Make a target of ``("db", 5432)``, of ``"db", 5432``, or of the path of a Unix socket.

        Args:
            address: a pair of host and port, a host, or the path of a Unix socket.
            port: the port, or the name of a service, if ``address`` is a host.

        Raises:
            TypeError: the address has another type.
            ValueError: the port is not a port number, or the path is too long for the kernel.
        """
        if isinstance(address, tuple) and len(address) == 2 and port is None:
            address, port = address
            if port is None:
                raise TypeError("a port is missing: pass (host, port), or the path of a Unix socket")
        if isinstance(address, bytes | os.PathLike):
            address = os.fsdecode(address)
        if not isinstance(address, str) or isinstance(port, bool):
            raise TypeError(f"{address!r} is not a valid address: pass (host, port), or the path of a Unix socket")
        if port is None:
            return cls._of_path(address)
        if not isinstance(port, str):
            try:
                port = operator.index(port)
            except TypeError:
                raise TypeError(
                    f"{port!r} is not a valid port: pass a whole number or the name of a service"
                ) from None
        if isinstance(port, int) and not 0 < port <= 65535:
            raise ValueError(f"{port} is not a valid port to connect to: it must be 1 to 65535")
        return cls(address, port)

    @classmethod
    def _of_path(cls, path: str) -> Target:
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError("this system has no Unix sockets: pass (host, port)")
        if "/" not in path and not path.startswith("\0"):
            # "db" is far more often a host whose port was forgotten than a socket in the working directory.
            raise TypeError(f"the port of {path!r} is missing; if it is a Unix socket, write ./{path}")
        if len(os.fsencode(path)) > _LONGEST_UNIX_PATH:
            raise ValueError(f"{path!r} is too long for a Unix socket: at most {_LONGEST_UNIX_PATH} bytes")
        return cls(path)

    @property
    def is_unix(self) -> bool:
        """True for a Unix socket, which has no ports and cannot connect to itself."""
        return self.port is None

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host.replace(chr(0), '@', 1)}"  # "@" is how ss(8) and systemd write the NUL
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
