"""The effect and its cure in six acts, each one really happening on the kernel.

What is told and how it looks is the caller's: acts speak through a :class:`Narrator` and end as records. An act
that did not show what it claims says so (``shown`` is False); nothing is assumed.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import tailbite
from tailbite.core.ports import PortRange
from tailbite.kernel import procfs
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range
from tailbite.lab.clients import PlainClient, StuckClient, TelnetClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Act", "Fact", "Narrator", "Settings", "tell", "tell_natural"]

HOST = "127.0.0.1"
GREETING = b"the real server\n"
TAILBITE_ATTEMPTS = 500
FULL_WAIT = 90.0
"""Seconds after which waiting for TIME-WAIT to end (60 s, include/net/tcp.h TCP_TIMEWAIT_LEN) is given up."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to play.

    Attributes:
        port: the dead port.
        ephemeral: the range of the story, shown before it is narrowed; the machine's own in a natural run.
        wait: wait until the TIME-WAIT of the usual cure is over, and time it.
        most_attempts: after how many attempts a natural run gives up.
    """

    port: int
    ephemeral: PortRange
    wait: bool = False
    most_attempts: int = 400_000


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was measured."""

    name: str
    value: int | float | str | bool


@dataclass(frozen=True, slots=True)
class Act:
    """One act that is over.

    Attributes:
        number: 1 to 6.
        title: what it is about.
        claim: what it is to show, in a few words.
        measured: what was seen, in a few words.
        shown: True if what was seen is what was claimed.
        facts: the figures.
    """

    number: int
    title: str
    claim: str
    measured: str
    shown: bool
    facts: tuple[Fact, ...]


class Narrator(Protocol):
    """Who tells it while it happens."""

    def begin(self, number: int, title: str) -> None:
        """An act begins."""

    def say(self, text: str) -> None:
        """Tell what happens, in prose."""

    def show(self, text: str) -> None:
        """Show a line as a terminal would: a command, or what a program printed."""

    def count(self, attempts: int) -> None:
        """The number of attempts so far climbs."""


class _Start(Protocol):
    def __call__(self, *, reuse: bool) -> str: ...


def tell(narrator: Narrator, settings: Settings) -> Iterator[Act]:
    """Play the acts, each in a network namespace made for it; the process must be free to make them.

    Raises:
        NamespaceUnavailable: it is not.
    """
    narrow = PortRange(settings.port, settings.port + 1)
    with fresh_network():
        yield _set_the_scene(narrator, settings, narrow)
        client = TelnetClient.find() or PlainClient()
        with client:
            yield _reconnect_until_successful(narrator, settings.port, client)
            yield _look(narrator, settings.port, client)
            yield _start_the_server(narrator, settings.port)
    with fresh_network():
        write_ephemeral_range(narrow)
        yield _the_usual_cure(narrator, settings)
    with fresh_network():
        write_ephemeral_range(narrow)
        yield _the_cure(narrator, settings.port, TAILBITE_ATTEMPTS)


def tell_natural(narrator: Narrator, settings: Settings) -> Iterator[Act]:
    """Play the acts in the network namespace we are in, with its own range: by chance, as it happens in life.

    The usual cure is left out, since its TIME-WAIT would stay behind for a minute.
    """
    narrator.begin(1, "A dead port in the ephemeral range")
    ephemeral = settings.ephemeral
    narrator.show("$ cat /proc/sys/net/ipv4/ip_local_port_range")
    narrator.show(f"{ephemeral.low}\t{ephemeral.high}")
    dead = not _sockets_on(settings.port)
    narrator.say(
        f"Nobody listens on {HOST}:{settings.port}. It is in the range, and {'odd' if settings.port % 2 else 'even'} "
        f"as the range's low end is: connect(2) draws those ports first."
    )
    inside = settings.port in ephemeral and settings.port % 2 == ephemeral.low % 2
    yield Act(
        1,
        "A dead port in the ephemeral range",
        "the port can be drawn",
        f"{settings.port} in {ephemeral}",
        dead and inside,
        (Fact("port", settings.port), Fact("ephemeral_range", str(ephemeral)), Fact("listeners", int(not dead))),
    )
    client = PlainClient(settings.most_attempts, narrator.count)
    with client:
        yield _reconnect_until_successful(narrator, settings.port, client)
        yield _look(narrator, settings.port, client)
        yield _start_the_server(narrator, settings.port)
        needed = client.attempts
    yield _the_cure(narrator, settings.port, max(2 * needed, TAILBITE_ATTEMPTS), control=False)


def _set_the_scene(narrator: Narrator, settings: Settings, narrow: PortRange) -> Act:
    title = "A dead port in the ephemeral range"
    narrator.begin(1, title)
    write_ephemeral_range(settings.ephemeral)
    narrator.show("$ cat /proc/sys/net/ipv4/ip_local_port_range")
    before = read_ephemeral_range()
    narrator.show(f"{before.low}\t{before.high}")
    narrator.say(
        f"Nobody listens on {HOST}:{settings.port}, and the kernel may draw {settings.port} as a source port. "
        f"In that range it takes thousands of attempts; here, in a network of its own, the range is made two ports "
        f"wide, so that it is certain."
    )
    write_ephemeral_range(narrow)
    after = read_ephemeral_range()
    narrator.show(f"$ echo '{narrow.low} {narrow.high}' > /proc/sys/net/ipv4/ip_local_port_range")
    dead = not _sockets_on(settings.port)
    return Act(
        1,
        title,
        "the port can be drawn, nobody listens on it",
        f"{settings.port} in {before}, narrowed to {after}",
        dead and before == settings.ephemeral and after == narrow and settings.port in before,
        (
            Fact("port", settings.port),
            Fact("ephemeral_range", str(before)),
            Fact("narrowed_to", str(after)),
            Fact("listeners", int(not dead)),
        ),
    )


def _reconnect_until_successful(narrator: Narrator, port: int, client: StuckClient) -> Act:
    title = "A client reconnects until it is successful"
    narrator.begin(2, title)
    connected = client.connect(HOST, port, narrator.show)
    sent = "hello"
    echoed = client.ask(sent) if connected else ""
    if connected:
        narrator.show(f"{sent}        <- typed")
        narrator.show(f"{echoed}        <- came back")
        narrator.say("It believes it is connected, and to a server. It is talking to itself.")
    return Act(
        2,
        title,
        "connected with nobody listening; what it sends comes back",
        f"{client.name}: attempt {client.attempts:,} connected, {echoed!r} came back",
        connected and echoed == sent,
        (
            Fact("client", client.name),
            Fact("attempts", client.attempts),
            Fact("sent", sent),
            Fact("came_back", echoed),
        ),
    )


def _look(narrator: Narrator, port: int, client: StuckClient) -> Act:
    title = "What netstat shows"
    narrator.begin(3, title)
    found = [s for s in _sockets_on(port) if s.is_self_connected and s.state is TcpState.ESTABLISHED]
    listeners = [s for s in _sockets_on(port) if s.state is TcpState.LISTEN]
    holders = procfs.socket_holders([s.inode for s in found]).by_inode
    owned = [s for s in found if client.pid in holders.get(s.inode, ())]
    for one in found:
        ends = one.endpoints
        owner = f"{client.pid}/{client.name}" if one in owned else "-"
        narrator.show(
            f"tcp {one.receive_queue} {one.send_queue} {ends.local!s:<17} {ends.remote!s:<17} "
            f"{one.state.label:<11} {owner}"
        )
    narrator.say("One socket, both ends of one connection; no listener.")
    line = f"{found[0].endpoints.local} {found[0].endpoints.remote} {found[0].state.label}" if found else "nothing"
    return Act(
        3,
        title,
        "source and destination are the same, nobody listens",
        line,
        len(owned) == 1 and not listeners,
        (
            Fact("socket", line),
            Fact("process", f"{client.pid}/{client.name}"),
            Fact("process_owns_it", bool(owned)),
            Fact("listeners", len(listeners)),
        ),
    )


def _start_the_server(narrator: Narrator, port: int) -> Act:
    title = "The real server starts"
    narrator.begin(4, title)
    plain, reuse = _try_both(narrator, port)
    return Act(
        4,
        title,
        "Address already in use, also with SO_REUSEADDR",
        f"{plain}; with SO_REUSEADDR {reuse}",
        plain == reuse == "EADDRINUSE",
        (Fact("bind", plain), Fact("bind_with_so_reuseaddr", reuse)),
    )


def _the_usual_cure(narrator: Narrator, settings: Settings) -> Act:
    title = "The usual cure: compare the endpoints, close, retry"
    narrator.begin(5, title)
    attempts = 0
    itself = False
    while not itself and attempts < 100:
        attempts += 1
        sock = socket.socket()
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect((HOST, settings.port))
            itself = sock.getsockname() == sock.getpeername()
        sock.close()
    narrator.say(f"Attempt {attempts} was a self-connect; the client saw that, closed it, and would retry.")
    left = [s for s in _sockets_on(settings.port) if s.state is TcpState.TIME_WAIT]
    for one in left:
        narrator.show(
            f"tcp 0 0 {one.endpoints.local!s:<17} {one.endpoints.remote!s:<17} "
            f"{one.state.label:<11} for {one.expires_ms / 1000:.0f} s"
        )
    closed = time.monotonic()
    plain, reuse = _try_both(narrator, settings.port)
    facts = [
        Fact("attempts", attempts),
        Fact("left", left[0].state.label if left else "nothing"),
        Fact("left_for_seconds", round(left[0].expires_ms / 1000, 1) if left else 0),
        Fact("bind", plain),
        Fact("bind_with_so_reuseaddr", reuse),
    ]
    measured = f"{facts[1].value}; {plain}, with SO_REUSEADDR {reuse}"
    shown = itself and bool(left) and plain == reuse == "EADDRINUSE"
    if settings.wait:
        narrator.say("Waiting until the server can start (about a minute) ...")
        waited = _wait_until_bindable(settings.port, closed)
        narrator.say(f"The server could start {waited:.1f} s after the client had closed its connection.")
        facts.append(Fact("server_kept_down_seconds", round(waited, 1)))
        measured += f"; kept down for {waited:.1f} s"
        shown = shown and waited < FULL_WAIT
    else:
        narrator.say("The socket is gone and its TIME-WAIT keeps the server down (--full waits, and times it).")
    return Act(5, title, "the server still cannot start", measured, shown, tuple(facts))


def _the_cure(narrator: Narrator, port: int, attempts: int, *, control: bool = True) -> Act:
    title = "tailbite: the same endless reconnect"
    narrator.begin(6, title)
    sprung = not control or any(_plain_self_connect(port) for _ in range(4))
    if control:
        narrator.say(
            "First a plain socket, to prove that the trap is still set: it connected to itself, and was reset."
        )
    narrator.show(f"sock = tailbite.create_connection(({HOST!r}, {port}))")
    loop = _GuardedLoop(port, narrator.count)
    loop.start()
    loop.reached(attempts)
    left = len(_sockets_on(port))
    began = time.monotonic()
    outcome, took = "ok", 0.0
    answer = ""
    try:
        with socket.socket() as server:  # without SO_REUSEADDR, which create_server would set
            server.bind((HOST, port))
            server.listen()
            took = time.monotonic() - began
            server.settimeout(10)
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(GREETING)
                answer = loop.finish()
    except OSError as error:
        outcome = errno.errorcode.get(error.errno or 0, str(error))
        loop.stop()
    narrator.say(
        f"{loop.attempts:,} attempts while the server was down, {loop.self_connects} of them to itself, "
        f"{left} sockets left on the port. The server started at the first try: {outcome}, in {took * 1000:.1f} ms."
    )
    narrator.show(f"the client reads: {answer!r}")
    return Act(
        6,
        title,
        "never itself; the server starts at once and answers",
        f"{loop.attempts:,} attempts, {loop.self_connects} to itself; server: {outcome}; answer {answer!r}",
        sprung
        and outcome == "ok"
        and loop.self_connects == 0
        and left == 0
        and loop.attempts >= attempts
        and answer == GREETING.decode().strip(),
        (
            Fact("control_self_connected", sprung and control),
            Fact("attempts", loop.attempts),
            Fact("self_connects", loop.self_connects),
            Fact("sockets_left_on_the_port", left),
            Fact("bind", outcome),
            Fact("server_start_milliseconds", round(took * 1000, 2)),
            Fact("answer", answer),
        ),
    )


class _GuardedLoop:
    """The client of act 6 in a thread of its own: reconnect until there is a server, then read one line."""

    def __init__(self, port: int, count: Callable[[int], None]) -> None:
        self.attempts = 0
        self.self_connects = 0
        self._port = port
        self._count = count
        self._answer = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reached(self, attempts: int) -> None:
        while self.attempts < attempts and self._thread.is_alive():
            time.sleep(0.005)
            self._count(self.attempts)

    def finish(self) -> str:
        self._thread.join(10)
        return self._answer

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                sock = tailbite.create_connection((HOST, self._port), timeout=5)
            except ConnectionRefusedError:
                self.attempts += 1
                continue
            with sock:
                if tailbite.is_self_connected(sock):
                    self.self_connects += 1
                    abort(sock)
                    continue
                self._answer = sock.makefile().readline().strip()
                return


def _sockets_on(port: int) -> list[TcpSocket]:
    with SockDiag() as diag:
        return [s for s in diag.dump(families=(socket.AF_INET,)) if s.endpoints.local.port == port]


def _plain_self_connect(port: int) -> bool:
    with socket.socket() as sock:
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect((HOST, port))
            itself: bool = sock.getsockname() == sock.getpeername()
            abort(sock)
            return itself
    return False


def _bind(port: int, *, reuse: bool) -> str:
    with socket.socket() as server:
        if reuse:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((HOST, port))
            server.listen()
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def _try_both(narrator: Narrator, port: int) -> tuple[str, str]:
    outcomes = []
    for reuse in (False, True):
        outcome = _bind(port, reuse=reuse)
        words = "Address already in use" if outcome == "EADDRINUSE" else outcome
        narrator.show(f"server{' with SO_REUSEADDR' if reuse else ''}: bind({HOST}:{port}): {words}")
        outcomes.append(outcome)
    return outcomes[0], outcomes[1]


def _wait_until_bindable(port: int, since: float) -> float:
    while _bind(port, reuse=True) != "ok" and time.monotonic() - since < FULL_WAIT:
        time.sleep(0.02)
    return time.monotonic() - since
