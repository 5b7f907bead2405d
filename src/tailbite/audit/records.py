"""Records of the audit: the phases of the trap, the limits of the watch, the observations.

Plain records: no socket, no clock, no file. Times are seconds since the client was started, unless a name says
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.core.ports import PortRange

__all__ = [
    "COMEBACKS",
    "SHORT",
    "TIME_WAIT",
    "UNSUPPORTED_STATUS",
    "Allocator",
    "BindAttempt",
    "Claim",
    "ConnectionToItself",
    "Ending",
    "Limits",
    "Observation",
    "Output",
    "Phase",
    "Recovery",
    "StateSpan",
]

SHORT = 1.5
"""Seconds: a server that is kept down for less than this counts as not harmed, for the verdict *aborts*.

Many clients drop a connection after exactly one second. The limit is not one second, so that no verdict depends on a
millisecond.
"""

TIME_WAIT = 60.0
"""Seconds a socket stays in TIME-WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h)."""

COMEBACKS = 3
"""Rounds of dials that a running client must show before it can be called *immune* or *aborts*: the first, and two
more. A client may guard its first connect alone."""

UNSUPPORTED_STATUS = 127
"""Exit status with which a client says that it cannot do what is asked; also the shell's "command not found"."""


class Allocator(Enum):
    """The kernel's two source port allocators; they prefer opposite parities."""

    CONNECT = "connect"
    """connect(2) on an unbound socket: the parity of the range's low end first (Linux 4.2)."""
    BIND = "bind"
    """bind(2) to port 0: the other parity first."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One trap: a dead port, the range that makes it certain or likely, and the address to dial.

    Attributes:
        name: unique in an audit, such as ``connect-127.0.0.1``.
        host: what ``{host}`` in the client's command becomes: 127.0.0.1, ::1 or localhost.
        port: the dead port P.
        ephemeral: the namespace's ephemeral range.
        allocator: the one the trap is set for.
        occupied: ports of the range that the audit itself holds, so that P is the only one left of its parity.
    """

    name: str
    host: str
    port: int
    ephemeral: PortRange
    allocator: Allocator
    occupied: tuple[int, ...] = ()

    @property
    def folder(self) -> str:
        """The name as a file system has it: some do not allow a colon, and artifact stores refuse it."""
        return self.name.replace("::1", "ipv6")

    @property
    def is_certain(self) -> bool:
        """True if a client of this allocator gets P as its source port at the first dial."""
        return len(self.ephemeral) == 2 or bool(self.occupied)

    @property
    def is_narrow(self) -> bool:
        """True if the range has two ports only: not enough for a listener of the client's own."""
        return len(self.ephemeral) == 2

    @property
    def has_wider(self) -> bool:
        """True if there is a wide trap for the same clients."""
        return self.is_narrow and self.allocator is Allocator.CONNECT and self.host == "127.0.0.1"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that a server on :attr:`host` would listen on."""
        return ("127.0.0.1", "::1") if self.host == "localhost" else (self.host,)


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of the audit, in seconds. All but ``dial`` and ``patience`` count from the client's first dial.

    Attributes:
        dial: a client that has not dialled after this time is not going to.
        watch: how long a client is watched at least, when it is not connected to itself.
        hold: how long a self-connect is watched; one that lasts as long is held.
        total: no phase lasts longer than this after the first dial.
        quick: only the phases on 127.0.0.1 that are needed for a verdict.
        patience: how long a client that runs on is given to come back, and how long a server tries to start.
        recovery: True to measure for how long a server is kept down, and when the client comes back to it.
        settle: how long the client is left alone before the server starts to try.
        server: the command of a real server, which must serve ``{host}`` and ``{port}``; None uses a plain listener.
    """

    dial: float = 15.0
    watch: float = 2.0
    hold: float = 1.8
    total: float = 600.0
    quick: bool = False
    patience: float = 135.0
    recovery: bool = False
    settle: float = 1.5
    server: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.hold > SHORT:  # nan is not more than anything either
            raise ValueError(f"hold must be more than {SHORT:g} s: sooner nobody can tell holding from aborting")
        for name in ("dial", "watch", "total", "settle", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0 seconds")

    @classmethod
    def of_quick(cls) -> Limits:
        """Return the limits of ``--quick``: the two phases on 127.0.0.1, each as short as its verdict allows."""
        return cls(dial=10.0, watch=0.5, hold=1.6, quick=True, patience=6.0)

    def lengthened(self, own: Mapping[str, float]) -> Limits:
        """Return these limits with each of ``own`` (a catalogue entry's) that is longer."""
        longer = {name: value for name, value in own.items() if value > getattr(self, name)}
        return replace(self, **longer) if longer else self  # type: ignore[arg-type]


class Ending(Enum):
    """The end of a self-connect."""

    OPEN = "open"
    """None, as long as it was watched."""
    CLOSED = "closed"
    """By FIN: TIME-WAIT stays for 60 s (RFC 9293 section 3.6; simultaneous close with itself)."""
    RESET = "reset"
    """By RST: nothing stays."""


@dataclass(frozen=True, slots=True)
class ConnectionToItself:
    """One connection of the client to itself.

    Attributes:
        start: when it was ESTABLISHED.
        end: when it was dropped; None if it was not.
        ending: the way it ended.
        host: the address.
        sent: bytes the client wrote, and got back.
    """

    start: float
    end: float | None
    ending: Ending
    host: str
    sent: int

    def lasted(self, until: float) -> float:
        """Return for how long it stood; one that is open counts until ``until``."""
        return max(0.0, (until if self.end is None else self.end) - self.start)

    @property
    def is_aborted(self) -> bool:
        """True if it was reset so soon that no server was kept down for the verdict."""
        return self.ending is Ending.RESET and self.end is not None and self.end - self.start < SHORT


@dataclass(frozen=True, slots=True)
class StateSpan:
    """A socket on P was seen in one state, by polling sock_diag.

    Attributes:
        state: the TCP state, such as ESTABLISHED.
        start: the first time it was seen, in seconds since the client's first dial.
        end: the last time it was seen.
    """

    state: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class BindAttempt:
    """A server's attempt to bind P.

    Attributes:
        at: when.
        plain: True if a bind without SO_REUSEADDR worked.
        reuse: True if one with SO_REUSEADDR worked.
    """

    at: float
    plain: bool
    reuse: bool


@dataclass(frozen=True, slots=True)
class Output:
    """The client's stdout and stderr together, in the order they came.

    Attributes:
        head: the first bytes.
        tail: the last bytes, if there were more.
        total: all of them, counted.
    """

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    @property
    def text(self) -> str:
        """The bytes that are kept, as text."""
        kept = len(self.head) + len(self.tail)
        gap = f"\n[... {self.total - kept} bytes left out ...]\n".encode() if self.total > kept else b""
        return (self.head + gap + self.tail).decode("utf-8", "replace")

    @property
    def last_line(self) -> str:
        """The last line with anything in it, at most 160 characters; "" without output."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][:160] if lines else ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Course of events when a server wanted the port.

    Attributes:
        began: when the server tried for the first time.
        plain_after: seconds until a bind without SO_REUSEADDR worked; None if it did not within the time.
        reuse_after: the same with SO_REUSEADDR.
        served_after: seconds until the server listened; None if it did not within the time.
        recovered_after: seconds until the client was connected to it; None if it was not within the time.
        gave_up_after: seconds after which the measuring ended.
        real_server: True if ``served_after`` is a real server's; binds are not tried beside one.
        client_gone: True if the client had ended by then, so that it can never come back.
    """

    began: float
    plain_after: float | None
    reuse_after: float | None
    served_after: float | None
    recovered_after: float | None
    gave_up_after: float
    real_server: bool = False
    client_gone: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A line of output by which the client claims a connection, or denies one.

    Attributes:
        connected: True if the line matches the success pattern, False if it matches the failure pattern.
        line: the line, at most 200 characters.
    """

    connected: bool
    line: str


@dataclass(frozen=True, slots=True)
class Observation:
    """Observations of one run of the client in one trap.

    Attributes:
        phase: the trap.
        control: True if a plain client connected itself to P before, and again after if this one did not.
        duration: how long it was watched.
        watched_hold: how long a self-connect was watched, at least; see :attr:`Limits.hold`.
        dials: SYNs to P; at least that many, if packets were lost.
        dialled: when they were sent (the first thousand).
        rounds: dials that lie at least a quarter of a second apart: how often it came, bursts counted once.
        had_to_come_back: True if it was watched until it came back, or patience was over.
        served: True if a listener of the client's own took P and answered, so that the trap was out of order.
        crowded: True if a socket of the client's own took another port of the trap's range.
        self_connects: every one that the packets show.
        counted: self-connects by the counters of /proc/net/snmp (ActiveOpens - AttemptFails - PassiveOpens), which
            miss those that end by RST from a closing socket; None if they could not be read.
        lost_packets: packets that the capture dropped.
        states: the states of sockets on P.
        held_at_end: True if sock_diag showed a self-connected socket on P at the end.
        bind: a server's attempt at the end, before the client was killed.
        exit_status: the client's; negative for a signal; None if it was still running.
        has_exited_at: when.
        was_single: True if it has exited and had started no other process; its exit status is then that of the
            process that held its connections, and not of a shell, a supervisor or a parent.
        is_gone: True if neither the client nor anything it started was left at the end.
        echoed: True if a line of its stdout is a line that it sent to itself, and nothing else.
        claims: the lines of its output, and of its driver's, that match the success or the failure pattern, in order.
        output: its output.
        recovery: the course of events when a server wanted the port; None if that was not measured.
        trouble: one sentence if the observation could not be made as it should.
    """

    phase: Phase
    control: bool
    duration: float
    watched_hold: float = 1.8
    dials: int = 0
    dialled: tuple[float, ...] = ()
    rounds: int = 0
    had_to_come_back: bool = False
    served: bool = False
    crowded: bool = False
    self_connects: tuple[ConnectionToItself, ...] = ()
    counted: int | None = None
    lost_packets: int = 0
    states: tuple[StateSpan, ...] = ()
    held_at_end: bool = False
    bind: BindAttempt | None = None
    exit_status: int | None = None
    has_exited_at: float | None = None
    was_single: bool = False
    is_gone: bool = False
    echoed: bool = False
    claims: tuple[Claim, ...] = ()
    output: Output = Output()
    recovery: Recovery | None = None
    trouble: str | None = None
