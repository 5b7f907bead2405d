"""An inspector that notes what it could not inspect."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tailbite.host.see.records import NotVisible
from tailbite.kernel.sock_diag import SockDiag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from tailbite.kernel.sock_diag import Listing, TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

    T = TypeVar("T")

__all__ = ["Inspection"]


class Inspection:
    """Inspects, and notes what could not be inspected.

    Attributes:
        not_visible: what could not be inspected.
    """

    def __init__(self) -> None:
        self.not_visible: list[NotVisible] = []

    def read(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what ``read`` returns, or None."""
        try:
            return read()
        except OSError as error:
            self.not_visible.append(NotVisible.of(what, error))
        except ValueError as error:
            self.not_visible.append(NotVisible(what, str(error)))
        return None

    def list_sockets(self, what: str, ask: Callable[[SockDiag], Listing]) -> tuple[TcpSocket, ...]:
        """Return the sockets that ``ask`` lists in the calling thread's namespace."""

        def read() -> Listing:
            with SockDiag() as diag:
                return ask(diag)

        listing = self.read(what, read)
        if listing is None:
            return ()
        if not listing.complete:
            self.not_visible.append(
                NotVisible(what, "they changed faster than they could be listed, so one may be missing")
            )
        return listing.sockets

    def read_traffic(self, sockets: Sequence[TcpSocket]) -> tuple[TcpInfo | None, ...]:
        """Return the counters of each socket of the calling thread's namespace; None for one in TIME-WAIT."""
        if not sockets:
            return ()
        with SockDiag() as diag:
            return tuple(self.read("the traffic", partial(diag.traffic, one)) for one in sockets)
