"""The acts of the demonstration, in order.

Acts speak through a :class:`~tailbite.lab.demo.records.Narrator` and end as records. An act whose result is not the
expected one says so (``shown`` is False); nothing is assumed.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange
from tailbite.kernel import procfs
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range
from tailbite.lab.clients import PlainClient, TelnetClient, UnguardedClient
from tailbite.lab.demo.guarded import play_guarded
from tailbite.lab.demo.probes import DEMO_HOST, TIME_WAIT_LIMIT, bind_both_ways, sockets_on, wait_until_bindable
from tailbite.lab.demo.records import DemoAct, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.lab.demo.records import DemoSettings, Narrator

__all__ = ["play_demo", "play_natural_demo"]

_GUARDED_ATTEMPTS = 500
_FIN_LIMIT = 2.0


def play_demo(narrator: Narrator, settings: DemoSettings) -> Iterator[DemoAct]:
    """Play all six acts in network namespaces of their own, and yield each result.

    Raises:
        NamespaceUnavailable: this process may not create network namespaces.
    """
    narrow = PortRange(settings.port, settings.port + 1)
    with fresh_network():
        yield _show_dead_port(narrator, settings, narrow)
        client = TelnetClient.find() or PlainClient()
        with client:
            yield _reconnect_until_successful(narrator, settings.port, client)
            yield _show_netstat(narrator, settings.port, client)
            yield _start_server(narrator, settings.port)
    with fresh_network():
        write_ephemeral_range(narrow)
        yield _compare_and_close(narrator, settings)
    with fresh_network():
        write_ephemeral_range(narrow)
        yield play_guarded(narrator, settings.port, _GUARDED_ATTEMPTS)


def play_natural_demo(narrator: Narrator, settings: DemoSettings) -> Iterator[DemoAct]:
    """Play five acts in the current network namespace with its own ephemeral range, where chance decides.

    Act 5 (compare and close) is left out: its TIME-WAIT would stay on the machine for a minute.
    """
    yield _show_natural_dead_port(narrator, settings)
    client = PlainClient(settings.most_attempts, narrator.count_attempts)
    with client:
        yield _reconnect_until_successful(narrator, settings.port, client)
        yield _show_netstat(narrator, settings.port, client)
        yield _start_server(narrator, settings.port)
        needed = client.attempts
    yield play_guarded(narrator, settings.port, max(2 * needed, _GUARDED_ATTEMPTS), control=False)


def _show_natural_dead_port(narrator: Narrator, settings: DemoSettings) -> DemoAct:
    title = "A dead port in the ephemeral range"
    narrator.begin_act(1, title)
    ephemeral = settings.ephemeral
    narrator.show_line("$ cat /proc/sys/net/ipv4/ip_local_port_range")
    narrator.show_line(f"{ephemeral.low}\t{ephemeral.high}")
    dead = not sockets_on(settings.port)
    reachable = settings.port in ephemeral and settings.port % 2 == ephemeral.low % 2
    if reachable:
        narrator.explain(
            f"Nobody listens on {DEMO_HOST}:{settings.port}. The port lies in the range and has the parity of the "
            f"range's low end ({'odd' if settings.port % 2 else 'even'}): connect(2) chooses such ports first."
        )
    else:
        narrator.explain(
            f"Port {settings.port} does not have the parity of the range's low end, {ephemeral.low}: connect(2) "
            f"chooses ports of the other parity."
        )
    return DemoAct(
        1,
        title,
        "the kernel can choose the port",
        f"{settings.port} in {ephemeral}",
        dead and reachable,
        (
            Measurement("port", settings.port),
            Measurement("ephemeral_range", str(ephemeral)),
            Measurement("listeners", int(not dead)),
        ),
    )


def _show_dead_port(narrator: Narrator, settings: DemoSettings, narrow: PortRange) -> DemoAct:
    title = "A dead port in the ephemeral range"
    narrator.begin_act(1, title)
    write_ephemeral_range(settings.ephemeral)
    narrator.show_line("$ cat /proc/sys/net/ipv4/ip_local_port_range")
    before = read_ephemeral_range()
    narrator.show_line(f"{before.low}\t{before.high}")
    narrator.explain(
        f"Nobody listens on {DEMO_HOST}:{settings.port}, and the kernel may choose {settings.port} as a source port. "
        f"In that range this takes thousands of attempts. Here, in a private network, the range is made two ports "
        f"wide, so that it is certain."
    )
    write_ephemeral_range(narrow)
    after = read_ephemeral_range()
    narrator.show_line(f"$ echo '{narrow.low} {narrow.high}' > /proc/sys/net/ipv4/ip_local_port_range")
    dead = not sockets_on(settings.port)
    return DemoAct(
        1,
        title,
        "the kernel can choose the port; nobody listens on it",
        f"{settings.port} in {before}, narrowed to {after}",
        dead and before == settings.ephemeral and after == narrow and settings.port in before,
        (
            Measurement("port", settings.port),
            Measurement("ephemeral_range", str(before)),
            Measurement("narrowed_to", str(after)),
            Measurement("listeners", int(not dead)),
        ),
    )


def _reconnect_until_successful(narrator: Narrator, port: int, client: UnguardedClient) -> DemoAct:
    title = "A client reconnects until it is successful"
    narrator.begin_act(2, title)
    connected = client.connect(DEMO_HOST, port, narrator.show_line)
    sent = "hello"
    echoed = client.ask(sent) if connected else ""
    if connected:
        narrator.show_line(f"{sent}        <- typed")
        narrator.show_line(f"{echoed}        <- came back")
        narrator.explain("The client believes that it is connected to a server. It is talking to itself.")
        measured = f"{client.name}: attempt {client.attempts:,} connected, {echoed!r} came back"
    else:
        narrator.explain(f"No self-connect in {client.attempts:,} attempts.")
        measured = f"{client.name}: {client.attempts:,} attempts, none connected"
    return DemoAct(
        2,
        title,
        "connected with nobody listening; what it sends comes back",
        measured,
        connected and echoed == sent,
        (
            Measurement("client", client.name),
            Measurement("attempts", client.attempts),
            Measurement("sent", sent),
            Measurement("came_back", echoed),
        ),
    )


def _show_netstat(narrator: Narrator, port: int, client: UnguardedClient) -> DemoAct:
    title = "What netstat shows"
    narrator.begin_act(3, title)
    sockets = sockets_on(port)
    established = [s for s in sockets if s.is_self_connected and s.state is TcpState.ESTABLISHED]
    listeners = [s for s in sockets if s.state is TcpState.LISTEN]
    holders = procfs.socket_holders([s.inode for s in established]).by_inode
    owned = [s for s in established if client.pid in holders.get(s.inode, ())]
    for sock in established:
        owner = f"{client.pid}/{client.name}" if sock in owned else "-"
        narrator.show_line(
            f"tcp {sock.receive_queue} {sock.send_queue} {_endpoint_columns(sock)} {sock.state.label:<11} {owner}"
        )
    if established:
        ends = established[0].endpoints
        narrator.explain("One socket is both ends of one connection; there is no listener.")
        line = f"{ends.local} {ends.remote} {established[0].state.label}"
    else:
        line = "nothing"
    return DemoAct(
        3,
        title,
        "source and destination are the same; nobody listens",
        line,
        len(owned) == 1 and not listeners,
        (
            Measurement("socket", line),
            Measurement("process", f"{client.pid}/{client.name}"),
            Measurement("process_owns_it", bool(owned)),
            Measurement("listeners", len(listeners)),
        ),
    )


def _endpoint_columns(sock: TcpSocket) -> str:
    return f"{sock.endpoints.local!s:<17} {sock.endpoints.remote!s:<17}"


def _start_server(narrator: Narrator, port: int) -> DemoAct:
    title = "The real server starts"
    narrator.begin_act(4, title)
    plain, reuse = bind_both_ways(narrator, port)
    return DemoAct(
        4,
        title,
        "Address already in use, also with SO_REUSEADDR",
        f"{plain}; with SO_REUSEADDR {reuse}",
        plain == reuse == "EADDRINUSE",
        (Measurement("bind", plain), Measurement("bind_with_so_reuseaddr", reuse)),
    )


def _compare_and_close(narrator: Narrator, settings: DemoSettings) -> DemoAct:
    title = "The usual fix: compare the endpoints, close, retry"
    narrator.begin_act(5, title)
    attempts, is_self = _connect_and_close(settings.port)
    if is_self:
        narrator.explain(
            f"Attempt {attempts} was a self-connect. The client noticed, closed the socket, and would retry."
        )
    left = _time_waits(settings.port) if is_self else []
    for sock in left:
        seconds = sock.expires_ms / 1000
        narrator.show_line(f"tcp 0 0 {_endpoint_columns(sock)} {sock.state.label:<11} for {seconds:.0f} s")
    closed = time.monotonic()
    plain, reuse = bind_both_ways(narrator, settings.port)
    state = left[0].state.label if left else "nothing"
    measurements = [
        Measurement("attempts", attempts),
        Measurement("left", state),
        Measurement("left_for_seconds", round(left[0].expires_ms / 1000, 1) if left else 0),
        Measurement("bind", plain),
        Measurement("bind_with_so_reuseaddr", reuse),
    ]
    measured = f"{state}; {plain}, with SO_REUSEADDR {reuse}"
    shown = is_self and bool(left) and plain == reuse == "EADDRINUSE"
    if settings.wait:
        waited = _time_the_outage(narrator, settings.port, closed)
        measurements.append(Measurement("server_kept_down_seconds", round(waited, 1)))
        measured += f"; kept down for {waited:.1f} s"
        shown = shown and waited < TIME_WAIT_LIMIT
    elif left:
        narrator.explain("The socket is gone, and its TIME-WAIT keeps the server down (--full waits, and times it).")
    return DemoAct(5, title, "the server still cannot start", measured, shown, tuple(measurements))


def _time_waits(port: int) -> list[TcpSocket]:
    """Return the sockets in TIME-WAIT once there are some: a busy kernel delivers the FIN after close(2) returned."""
    deadline = time.monotonic() + _FIN_LIMIT
    while True:
        left = [s for s in sockets_on(port) if s.state is TcpState.TIME_WAIT]
        if left or time.monotonic() >= deadline:
            return left
        time.sleep(0.01)


def _connect_and_close(port: int) -> tuple[int, bool]:
    """Connect until the client sees a self-connect, then close it; return the attempts, and whether it did."""
    attempts, is_self = 0, False
    while not is_self and attempts < 100:
        attempts += 1
        with socket.socket() as sock, contextlib.suppress(ConnectionRefusedError):
            sock.connect((DEMO_HOST, port))
            is_self = sock.getsockname() == sock.getpeername()
    return attempts, is_self


def _time_the_outage(narrator: Narrator, port: int, closed: float) -> float:
    narrator.explain("Waiting until the server can start (about a minute) ...")
    waited = wait_until_bindable(port, closed)
    narrator.explain(f"The server could start {waited:.1f} s after the client had closed its connection.")
    return waited
