"""Each self-connect counted once, though several sources may notice it at several moments. Pure.

============  =====================================  ==========================================================
noticed       counts                                 except
============  =====================================  ==========================================================
established   always                                 -
found         if it is new                           an event or an earlier inspection noticed this connection
ended         if it is new                           it was noticed before, open or in TIME-WAIT, without its end
============  =====================================  ==========================================================

Two connections at the same endpoint are distinguished by the kernel's cookie where an inspection sees both open. What
was noticed is remembered for longer than a TIME-WAIT lasts, and at most :data:`MOST_REMEMBERED` endpoints are. After
more than that, a TIME-WAIT that an inspection finds may be a forgotten one: it does not count until those are gone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tailbite.watch.records import Moment

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint

__all__ = ["MOST_PORTS", "MOST_REMEMBERED", "OTHER_PORTS", "PortLabels", "Tally"]

MOST_REMEMBERED: Final = 4096
MOST_PORTS: Final = 50
"""Ports with a label of their own; later ones share :data:`OTHER_PORTS`: a label may not have 65 535 values."""
OTHER_PORTS: Final = "other"
_REMEMBERED_S: Final = 90.0
"""TIME-WAIT lasts 60 s, and an inspection may come 15 s late."""

_Key = tuple[int, "Endpoint"]


@dataclass(slots=True)
class _Noticed:
    until: float
    awaits_end: bool  # its end was not reported yet
    cookie: tuple[int, int] | None


class PortLabels:
    """The ports that have a label of their own: the first :data:`MOST_PORTS` that were seen."""

    def __init__(self) -> None:
        self._ports: set[int] = set()

    def label(self, port: int) -> str:
        """Return the label of a port."""
        if port not in self._ports:
            if len(self._ports) >= MOST_PORTS:
                return OTHER_PORTS
            self._ports.add(port)
        return str(port)


class Tally:
    """Counts of self-connects since the start.

    Attributes:
        total: all of them.
        by_label: by the port's label and the place ("host", "container", "unknown").
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_label: dict[tuple[str, str], int] = {}
        self.labels = PortLabels()
        self._noticed: OrderedDict[_Key, _Noticed] = OrderedDict()
        self._forgotten_until = float("-inf")

    def notice(
        self,
        moment: Moment,
        namespace: int,
        endpoint: Endpoint,
        now: float,
        *,
        where: str = "host",
        is_open: bool = True,
        cookie: tuple[int, int] | None = None,
    ) -> bool:
        """Take note of a self-connect; return True if it is one that was not counted yet.

        Args:
            moment: the point of its life.
            namespace: inode of its network namespace; 0 if unknown.
            endpoint: both of its ends.
            now: seconds of a monotonic clock.
            where: the place, for the label.
            is_open: False if an inspection found a TIME-WAIT.
            cookie: the kernel's name of the socket, where an inspection found it open.
        """
        known = self._recall(namespace, endpoint, now)
        is_new = self._is_new(moment, known, cookie, is_open=is_open)
        if known is None and moment is Moment.FOUND and not is_open and now <= self._forgotten_until:
            is_new = False
        if moment is Moment.FOUND and known is not None and not is_new:
            cookie = cookie or known.cookie
        awaits_end = self._awaits_end(moment, known, is_open=is_open)
        self._remember((namespace, endpoint), _Noticed(now + _REMEMBERED_S, awaits_end, cookie))
        if is_new:
            self.total += 1
            label = self.labels.label(endpoint.port), where
            self.by_label[label] = self.by_label.get(label, 0) + 1
        return is_new

    @staticmethod
    def _awaits_end(moment: Moment, known: _Noticed | None, *, is_open: bool) -> bool:
        """Tell whether the end is still to be reported: an inspection can find the TIME-WAIT before that or after."""
        if moment is not Moment.FOUND or is_open or known is None:
            return moment is not Moment.ENDED
        return known.awaits_end

    @staticmethod
    def _is_new(moment: Moment, known: _Noticed | None, cookie: tuple[int, int] | None, *, is_open: bool) -> bool:
        if moment is Moment.ESTABLISHED or known is None:
            return True
        if moment is Moment.ENDED:
            return not known.awaits_end
        if is_open and not known.awaits_end:
            return True  # the one that was noticed has ended
        return cookie is not None and known.cookie is not None and cookie != known.cookie

    def _recall(self, namespace: int, endpoint: Endpoint, now: float) -> _Noticed | None:
        """Find what was noticed at an endpoint; an event of an unknown namespace stands for any."""
        while self._noticed and next(iter(self._noticed.values())).until < now:
            self._noticed.popitem(last=False)
        for key in ((namespace, endpoint), (0, endpoint)):
            if (known := self._noticed.get(key)) is not None:
                return known
        return None

    def _remember(self, key: _Key, noticed: _Noticed) -> None:
        self._noticed[key] = noticed
        self._noticed.move_to_end(key)
        if len(self._noticed) > MOST_REMEMBERED:
            _, forgotten = self._noticed.popitem(last=False)
            self._forgotten_until = forgotten.until
