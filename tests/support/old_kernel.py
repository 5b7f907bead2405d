"""Answers of kernels that the tests do not run on, in place of those of the running one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tailbite.errors import NetlinkError
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState

if TYPE_CHECKING:
    import pytest

__all__ = ["refuse_to_destroy"]


def refuse_to_destroy(monkeypatch: pytest.MonkeyPatch, *states: TcpState, number: int = errno.EOPNOTSUPP) -> None:
    """Refuse to destroy sockets in these states, or any: Linux 5.10 refuses TIME-WAIT, or all if built without."""
    destroy = SockDiag.destroy

    def answer(diag: SockDiag, target: TcpSocket) -> None:
        if not states or target.state in states:
            raise NetlinkError(number, f"destroying {target.endpoints}")
        destroy(diag, target)

    monkeypatch.setattr(SockDiag, "destroy", answer)
