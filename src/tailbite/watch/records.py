"""The records of this package: one self-connect as an event, and the state of a watch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint
    from tailbite.host.see.records import Namespace, NotVisible, Process
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["EndResult", "Moment", "SelfConnectEvent", "SourceKind", "SourceState"]


class SourceKind(Enum):
    """A source of events."""

    BPF = "bpf"
    DESTROY = "destroy"
    POLL = "poll"

    @property
    def label(self) -> str:
        """The word in JSON."""
        return self.value

    @property
    def description(self) -> str:
        """The reports of the source, in words."""
        return {
            SourceKind.BPF: "eBPF: every self-connect of the machine, when it is established",
            SourceKind.DESTROY: "destroyed sockets: self-connects of this network namespace, when they end",
            SourceKind.POLL: "inspections: self-connects that an inspection finds open or in TIME-WAIT",
        }[self]


class Moment(Enum):
    """The point of a self-connect's life at which it was noticed."""

    ESTABLISHED = "established"
    FOUND = "found"
    """By an inspection: open since an unknown time, or in TIME-WAIT."""
    ENDED = "ended"

    @property
    def label(self) -> str:
        """The word in JSON."""
        return self.value


@dataclass(frozen=True, slots=True)
class EndResult:
    """An attempt to destroy a self-connect (SOCK_DESTROY).

    Attributes:
        is_destroyed: True if the socket is gone.
        is_port_free: True if a server can bind the port now; False if its owner had bound the port itself.
        microseconds: from the event to the end of the attempt; for eBPF from ESTABLISHED.
        refused: the reason of a failure, in words; "" without one.
    """

    is_destroyed: bool
    is_port_free: bool
    microseconds: int
    refused: str = ""


@dataclass(frozen=True, slots=True)
class SelfConnectEvent:
    """One self-connect that was noticed.

    Attributes:
        time: seconds since the epoch.
        moment: the point of its life.
        source: the source that noticed it.
        endpoint: both ends of the connection.
        family: AF_INET or AF_INET6.
        namespace: the network namespace; None if it is not known (its process has ended).
        pid: the process that dialled, or has the socket open; 0 if unknown.
        name: the process's name; "" if unknown.
        process: more about the process; None if it is unknown or gone.
        uid: the user that owns the socket; None if unknown.
        traffic: what went through it; None if unknown.
        end: the result of ``--kill``; None if nothing was tried.
    """

    time: float
    moment: Moment
    source: SourceKind
    endpoint: Endpoint
    family: int
    namespace: Namespace | None
    pid: int = 0
    name: str = ""
    process: Process | None = None
    uid: int | None = None
    traffic: TcpInfo | None = None
    end: EndResult | None = None

    @property
    def where(self) -> str:
        """``host`` for the watcher's own network namespace, ``container`` for another, or ``unknown``."""
        if self.namespace is None:
            return "unknown"
        return "host" if self.namespace.is_own else "container"


@dataclass(frozen=True, slots=True)
class SourceState:
    """The source in use, and why it is not a better one.

    Attributes:
        kind: the source.
        lost: events that are known to be lost; for destroyed sockets, how many times some were.
        is_paused: True while destroyed sockets are not listened to, because too many sockets close.
        refused: the sources that this system does not allow, each with the reason.
    """

    kind: SourceKind
    lost: int = 0
    is_paused: bool = False
    refused: tuple[NotVisible, ...] = ()
