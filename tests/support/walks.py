"""Counting of the requests that make the kernel walk its table of connections, which all namespaces share."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tailbite.kernel.netlink import Netlink
from tailbite.kernel.sock_diag import TcpState

if TYPE_CHECKING:
    import pytest

_SOCK_DIAG_BY_FAMILY = 20


def record_walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the inode of the network namespace of each such request from now on."""
    seen: list[int] = []
    plain = Netlink.dump

    def dump(self: Netlink, kind: int, payload: bytes, *rest: object) -> object:
        # inet_diag_req_v2 has its states at byte 4, the older inet_diag_req at byte 52.
        offset = 4 if kind == _SOCK_DIAG_BY_FAMILY else 52
        if int.from_bytes(payload[offset : offset + 4], sys.byteorder) & 1 << TcpState.ESTABLISHED:
            seen.append(os.stat("/proc/thread-self/ns/net").st_ino)  # noqa: PTH116
        return plain(self, kind, payload, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Netlink, "dump", dump)
    return seen
