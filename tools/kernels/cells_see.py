"""Cells about what is seen, explained and ended: each command meets a self-connect that is really there."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.outcome import FaultError, NotRunError, expect, expect_status, last_line, tailbite
from support.abilities import has_ability
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.kernel import namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels.outcome import Run

__all__ = ["CELLS"]

SELF = ("--netns", "self")


def _connect_to_itself() -> socket.socket:
    """Return a socket that the kernel connected to itself: it chose the port."""
    Trap().set()
    for _ in range(60):
        sock = socket.socket()
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect(("127.0.0.1", PORT))
            if sock.getsockname() == sock.getpeername():
                return sock
        sock.close()
    raise FaultError("the control did not self-connect")


def scan(_: Run) -> str:
    """Find a self-connect, and report nothing without one."""
    with namespace.fresh_network():
        expect_status(tailbite("scan", *SELF), 0)
        with _connect_to_itself():
            done = tailbite("scan", *SELF, "--json")
            expect_status(done, 1)
            expect(str(PORT) in done.stdout, "the self-connect is not in its output")
    return "finds it, exit status 1; 0 without one"


def why(_: Run) -> str:
    """Explain a held port, open and in TIME-WAIT."""
    with namespace.fresh_network():
        with _connect_to_itself():
            _expect_finding("TB101")
        _expect_finding("TB102")
    return "TB101 while it is open, TB102 in TIME-WAIT"


def _expect_finding(code: str) -> None:
    done = tailbite("why", str(PORT), *SELF)
    expect_status(done, 1)
    expect(code in done.stdout + done.stderr, f"{code} is not in its answer: {last_line(done)}")


def doctor(_: Run) -> str:
    """Judge a namespace with a self-connect."""
    with namespace.fresh_network(), _connect_to_itself():
        done = tailbite("doctor", *SELF, "--json")
        expect_status(done, 1)
        text = json.dumps(json.loads(done.stdout))
        expect("TB101" in text, "TB101 is not in its answer")
    return "TB101, exit status 1"


def kill_established(_: Run) -> str:
    """Destroy an open self-connect."""
    with namespace.fresh_network(), _connect_to_itself():
        done = tailbite("fix", "--kill", str(PORT), "--apply", *SELF)
        if not has_ability("SOCK_DESTROY"):
            expect_status(done, 4)
            raise NotRunError(f"the kernel lacks SOCK_DESTROY; exit status 4: {last_line(done)}")
        expect_status(done, 0)
        expect(server_can_bind(), f"a server cannot bind: {last_line(done)}")
    return "a server can bind at once"


def kill_time_wait(_: Run) -> str:
    """End the TIME-WAIT that an ordinary close leaves: by SOCK_DESTROY, or by TCP_REPAIR."""
    with namespace.fresh_network():
        _connect_to_itself().close()
        expect(leftovers() != [], "the control left no TIME-WAIT")
        done = tailbite("fix", "--kill", str(PORT), "--apply", *SELF)
        expect_status(done, 0)
        expect(server_can_bind(), f"a server cannot bind: {last_line(done)}")
    way = "SOCK_DESTROY" if has_ability("SOCK_DESTROY_TIME_WAIT") else "TCP_REPAIR"
    return f"a server can bind at once ({way})"


def _watched(*words: str, close: bool) -> tuple[dict[str, Any], bool]:
    """Watch while a self-connect happens; return its event, with --kill the one that says how it ended.

    The second value tells whether a server can bind then; the client has closed its socket only with ``close``.
    """
    command = [sys.executable, "-m", "tailbite", "watch", *SELF, "--for", "120s", "--json", *words]
    with (
        namespace.fresh_network(),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        source = process.stderr.readline()  # it watches now
        sock = _connect_to_itself()
        if close:
            sock.close()
        try:
            for event in map(json.loads, process.stdout):
                if event["event"] == "self-connect" and ("--kill" not in words or _is_last_word(event["end"], close)):
                    return event, server_can_bind()
        finally:
            process.terminate()
            sock.close()
    raise FaultError(f"no event: {source.strip()}")


def _is_last_word(end: dict[str, Any] | None, close: bool) -> bool:
    """Tell whether an event's end is what --kill came to: a refusal of an open one is not, if it is then closed."""
    return end is not None and (end["is_destroyed"] or not close)


def watch(_: Run) -> str:
    """Report a self-connect with the best source of events that there is."""
    event, _free = _watched(close=True)
    expect(event["endpoint"] == f"127.0.0.1:{PORT}", f"another endpoint: {event}")
    return f"reported, source {event['source']}, moment {event['moment']}"


def watch_bpf(_: Run) -> str:
    """Report a self-connect when it is established, with the process that dialled."""
    if not has_ability("BPF_TRACEPOINT"):
        done = tailbite("watch", "--source", "bpf", "--for", "1s")
        raise NotRunError(f"the kernel lacks BPF_TRACEPOINT; exit status {done.returncode}: {last_line(done)}")
    event, _free = _watched("--source", "bpf", close=True)
    expect(event["moment"] == "established" and event["pid"], f"not when it was established: {event}")
    return "reported when it was established, with its process"


def watch_kill(_: Run) -> str:
    """End each self-connect as soon as it is seen; where no connection can be destroyed, end its TIME-WAIT."""
    can_destroy = has_ability("SOCK_DESTROY")
    event, is_free = _watched("--kill", close=not can_destroy)
    expect(event["end"]["is_destroyed"] and is_free, f"a server cannot bind: {event['end']}")
    return "a server can bind at once" if can_destroy else "a server can bind after the TIME-WAIT was ended"


def exporter(_: Run) -> str:
    """Write the metrics once, beside a self-connect."""
    with namespace.fresh_network(), tempfile.NamedTemporaryFile("r", suffix=".prom") as file, _connect_to_itself():
        expect_status(tailbite("exporter", "--textfile", file.name, "--once", *SELF), 0)
        lines = [line for line in Path(file.name).read_text(encoding="utf-8").splitlines() if str(PORT) in line]
        expect(lines, "no metric names the port")
    return lines[0]


def check(_: Run) -> str:
    """Check once for a monitoring system, with a self-connect and without."""
    with namespace.fresh_network():
        expect_status(tailbite("check", "--as", "nagios", *SELF), 0)
        with _connect_to_itself():
            expect_status(tailbite("check", "--as", "nagios", *SELF), 2)
        expect_status(tailbite("check", "--as", "nagios", *SELF), 1)
    return "OK without one, CRITICAL while it is open, WARNING in TIME-WAIT"


def report(_: Run) -> str:
    """Merge what scan and doctor print on this kernel."""
    with namespace.fresh_network(), tempfile.TemporaryDirectory() as folder, _connect_to_itself():
        for command in ("scan", "doctor"):
            text = tailbite(command, *SELF, "--json").stdout
            Path(folder, f"here.{command}.json").write_text(text, encoding="utf-8")
        done = tailbite("report", folder)
        expect_status(done, 1)
        expect(str(PORT) in done.stdout, f"the port is not in it: {last_line(done)}")
    return "names the host and the port"


CELLS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("scan", scan),
    ("why", why),
    ("doctor", doctor),
    ("fix --kill, ESTABLISHED", kill_established),
    ("fix --kill, TIME-WAIT", kill_time_wait),
    ("watch", watch),
    ("watch --source bpf", watch_bpf),
    ("watch --kill", watch_kill),
    ("exporter", exporter),
    ("check", check),
    ("report", report),
)
