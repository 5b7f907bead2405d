"""Looking, with a note of what could not be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.host.see.records import Blind
from tailbite.kernel.sock_diag import SockDiag

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from tailbite.kernel.sock_diag import Listing, TcpSocket

    T = TypeVar("T")

__all__ = ["Look"]


class Look:
    """Looks, and writes down what could not be looked at.

    Attributes:
        blind: what could not.
    """

    def __init__(self) -> None:
        self.blind: list[Blind] = []

    def at(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what ``read`` returns, or None."""
        try:
            return read()
        except OSError as error:
            self.blind.append(Blind.of(what, error))
        except ValueError as error:
            self.blind.append(Blind(what, str(error)))
        return None

    def sockets(self, what: str, ask: Callable[[SockDiag], Listing]) -> tuple[TcpSocket, ...]:
        """Return the sockets that ``ask`` lists in the calling thread's namespace."""

        def read() -> Listing:
            with SockDiag() as diag:
                return ask(diag)

        listing = self.at(what, read)
        if listing is None:
            return ()
        if not listing.complete:
            self.blind.append(Blind(what, "they changed faster than they could be listed, so one may be missing"))
        return listing.sockets
