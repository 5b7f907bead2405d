"""What the rooms of the audit hand to each other: the client, the phases of its trap, what was seen, the verdict.

Plain records: no socket, no clock, no file. Times are seconds since the client was started, unless a name says
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.core.ports import PortRange

__all__ = [
    "GAVE_UP_WITHIN",
    "UNSUPPORTED_STATUS",
    "Allocator",
    "Believed",
    "BindAttempt",
    "Client",
    "Driver",
    "Ending",
    "Left",
    "Limits",
    "Observation",
    "Output",
    "Phase",
    "Recovery",
    "SelfConnect",
    "StateSpan",
    "Stdin",
    "Verdict",
    "Word",
]

GAVE_UP_WITHIN = 1.0
"""Seconds: a client that drops a self-connect within this time "gave it up", for the verdict *aborts*."""

UNSUPPORTED_STATUS = 127
"""Exit status with which a client says that it cannot do what is asked; also the shell's "command not found"."""


class Allocator(Enum):
    """Which of the kernel's two source port allocators a client draws from; their parities are opposite."""

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
    """

    name: str
    host: str
    port: int
    ephemeral: PortRange
    allocator: Allocator

    @property
    def is_certain(self) -> bool:
        """True if a client of this allocator gets P as its source port at the first dial."""
        return len(self.ephemeral) == 2

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that a server on :attr:`host` would listen on."""
        return ("127.0.0.1", "::1") if self.host == "localhost" else (self.host,)


class Stdin(Enum):
    """What a client finds on its standard input."""

    SILENT = "silent"
    """A pipe that stays open and never says anything: a user who does not type."""
    EMPTY = "empty"
    """End of file at once."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A second program that makes a daemon under audit dial, over a unix socket so as to use up no port of the trap.

    Attributes:
        command: what to run; the same placeholders as in :class:`Client`.
        every: seconds between two runs; None runs it once.
        ready: a path that appears when the daemon can be driven.
    """

    command: tuple[str, ...]
    every: float | None = None
    ready: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A program under audit.

    ``{host}``, ``{port}``, ``{dir}`` (a scratch directory of this run) and ``{python}`` (an interpreter) are filled
    in, in commands, files and environment.

    Attributes:
        name: what the report calls it.
        command: program and arguments.
        version: what it says of itself; "" if not known.
        files: contents by path below the scratch directory, such as a daemon's configuration.
        environment: variables that are set for it.
        stdin: what it finds on its standard input.
        prepare: a command that is run once before the first trap, such as a compiler; it finds the files in its
            folder, which ``{build}`` stands for in the other commands.
        driver: what makes it dial, if it does not by itself.
        success: a regular expression; output that matches it claims a connection.
        failure: a regular expression; output that matches it denies one.
        in_scratch: True to run it in the scratch directory (as home, too), False where tailbite was called.
        limits: what of :class:`Limits` this client needs otherwise, such as a longer ``dial`` for a slow starter.
        groups: names for ``--catalogue``.
    """

    name: str
    command: tuple[str, ...]
    version: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: Stdin = Stdin.SILENT
    prepare: tuple[str, ...] = ()
    driver: Driver | None = None
    success: str | None = None
    failure: str | None = None
    in_scratch: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the audit watches, in seconds.

    Attributes:
        dial: a client that has not dialled after this time is not going to.
        watch: how long a client is watched after its first dial, when it is not connected to itself then.
        hold: a self-connect that lasts this long is held.
        total: no phase lasts longer.
        quick: only the phases on 127.0.0.1 that are needed for a verdict.
        patience: how long the server tries to start; None does not measure recovery.
        settle: how long the client is left alone before the server starts to try.
        server: the command of a real server, which must serve ``{host}`` and ``{port}``; None uses a plain listener.
    """

    dial: float = 6.0
    watch: float = 1.5
    hold: float = 1.6
    total: float = 20.0
    quick: bool = False
    patience: float | None = None
    settle: float = 1.5
    server: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.hold <= GAVE_UP_WITHIN:
            raise ValueError(
                f"hold must be more than {GAVE_UP_WITHIN:g} s: sooner nobody can tell holding from aborting"
            )
        for name in ("dial", "watch", "total", "settle"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0 seconds")
        if self.patience is not None and self.patience <= 0:
            raise ValueError("patience must be more than 0 seconds")


class Ending(Enum):
    """How a self-connect ended."""

    OPEN = "open"
    """Not at all, as long as it was watched."""
    CLOSED = "closed"
    """By FIN: TIME-WAIT stays for 60 s (RFC 9293 section 3.6; simultaneous close with itself)."""
    RESET = "reset"
    """By RST: nothing stays."""


@dataclass(frozen=True, slots=True)
class SelfConnect:
    """One connection of the client to itself.

    Attributes:
        start: when it was ESTABLISHED.
        end: when it was dropped; None if it was not.
        ending: how.
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


@dataclass(frozen=True, slots=True)
class StateSpan:
    """A socket on P was seen in this state from start to end (sock_diag, polled)."""

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
    """What the client wrote, to stdout and stderr together in the order it came, and how much of it is kept.

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
        """What is kept, as text."""
        kept = len(self.head) + len(self.tail)
        gap = f"\n[... {self.total - kept} bytes left out ...]\n".encode() if self.total > kept else b""
        return (self.head + gap + self.tail).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What happened when a server wanted the port.

    Attributes:
        began: when the server tried for the first time.
        plain_after: seconds until a bind without SO_REUSEADDR worked; None if it never did.
        reuse_after: the same with SO_REUSEADDR.
        served_after: seconds until the server listened; None if it never did.
        recovered_after: seconds until the client was connected to it; None if it never was.
        gave_up_after: seconds after which the measuring ended.
        real_server: True if ``served_after`` is a real server's; binds are not tried beside one.
    """

    began: float
    plain_after: float | None
    reuse_after: float | None
    served_after: float | None
    recovered_after: float | None
    gave_up_after: float
    real_server: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one run of the client in one trap.

    Attributes:
        phase: the trap.
        control: True if a plain client connected itself to P before, and again after if this one did not.
        duration: how long it was watched.
        dials: SYNs to P; at least that many, if packets were lost.
        dialled: when they were sent (the first thousand).
        self_connects: every one that the packets show.
        counted: self-connects by the counters of /proc/net/snmp (ActiveOpens - AttemptFails - PassiveOpens), which
            miss those that end by RST from a closing socket; None if they could not be read.
        lost_packets: packets the capture had no room for.
        states: the states of sockets on P.
        held_at_end: True if sock_diag showed a self-connected socket on P at the end.
        bind: a server's attempt at the end, before the client was killed.
        exit_status: the client's; negative for a signal; None if it was still running.
        has_exited_at: when.
        echoed: True if bytes that it sent to itself came out of its stdout.
        succeeded: True if its output, or its driver's, matched the success pattern.
        failed: True if it matched the failure pattern.
        output: what it wrote.
        recovery: what happened when a server wanted the port; None if that was not measured.
        trouble: one sentence if the observation could not be made as it should.
    """

    phase: Phase
    control: bool
    duration: float
    dials: int = 0
    dialled: tuple[float, ...] = ()
    self_connects: tuple[SelfConnect, ...] = ()
    counted: int | None = None
    lost_packets: int = 0
    states: tuple[StateSpan, ...] = ()
    held_at_end: bool = False
    bind: BindAttempt | None = None
    exit_status: int | None = None
    has_exited_at: float | None = None
    echoed: bool = False
    succeeded: bool = False
    failed: bool = False
    output: Output = Output()
    recovery: Recovery | None = None
    trouble: str | None = None


class Word(Enum):
    """The verdict in one word, from the best to the worst; the last three are no verdict on self-connects."""

    IMMUNE = "immune"
    """It dialled P and never connected to itself, where a plain client did."""
    ABORTS = "aborts"
    """It connected to itself, dropped it within a second, and left the port free."""
    BLOCKS = "blocks"
    """It dropped it, and what it left kept a server from binding P."""
    HOLDS = "holds"
    """It kept it."""
    UNEXERCISED = "unexercised"
    """It never dialled P. That is no pass."""
    INCONCLUSIVE = "inconclusive"
    """The trap did not spring for the control client, or it could not be watched."""
    UNSUPPORTED = "unsupported"
    """It said so itself (exit status 127), or it is not installed."""

    @property
    def label(self) -> str:
        """The word as reports spell it."""
        return self.value


class Believed(Enum):
    """Did the client take the connection to itself for one to the server?"""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Left(Enum):
    """What the worst of its self-connects left on P."""

    NOTHING = "nothing"
    TIME_WAIT = "time-wait"
    ESTABLISHED = "established"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found out about one client.

    Attributes:
        client: its name.
        version: what it says of itself.
        verdict: the word.
        reason: one sentence of why.
        believed: whether it took itself for the server.
        self_connects: how many, over all phases.
        dials: how many SYNs it sent to P.
        longest_hold: seconds; one that was still open counts as long as it was watched.
        bytes_to_itself: bytes it wrote to itself.
        left: what was left on P.
        server_down_plain: seconds a server without SO_REUSEADDR was kept from starting; None if not measured, or
            not over when patience was.
        server_down_reuse: the same with SO_REUSEADDR.
        server_down: the same for the server of ``--server``.
        recovered_after: seconds from the server's first attempt until the client was connected to it; None if not
            measured or never.
        dials_to_hit: how many dials the first self-connect took in a range of 16 ports; None if there was none.
        observations: what it rests on.
        command: what was run.
        groups: its groups in the catalogue.
    """

    client: str
    version: str
    verdict: Word
    reason: str
    believed: Believed = Believed.UNKNOWN
    self_connects: int = 0
    dials: int = 0
    longest_hold: float | None = None
    bytes_to_itself: int = 0
    left: Left | None = None
    server_down_plain: float | None = None
    server_down_reuse: float | None = None
    server_down: float | None = None
    recovered_after: float | None = None
    dials_to_hit: int | None = None
    observations: tuple[Observation, ...] = ()
    command: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
