"""IPv6 addresses of devices that tests make."""

from __future__ import annotations

import contextlib
import socket

from support.guarded import wait_until

__all__ = ["wait_for_address"]


def wait_for_address(host: str, scope: int = 0) -> None:
    """Wait until an address can be used: the kernel learns a moment later that a new device's other end is up."""

    def is_usable() -> bool:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.bind((host, 0, 0, scope))
            sock.connect((host, 9, 0, scope))
            return True
        return False

    wait_until(is_usable, f"{host} can be used")
