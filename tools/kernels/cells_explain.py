"""Cells about what is shown and proved: the demo, the audit, the laboratory, and the other commands."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

from kernels.outcome import NotRunError, expect, expect_status, tailbite
from support.abilities import has_ability
from support.trap import PORT, Trap
from tailbite.core.odds import odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.kernel import namespace
from tailbite.kernel.sysctl import write_reserved_ports, write_sysctl
from tailbite.lab.loop import ExperimentSettings, run_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels.outcome import Run

__all__ = ["CELLS"]

RESTLESS = """
import socket, sys
for _ in range(400):
    sock = socket.socket()
    try:
        sock.connect((sys.argv[1], int(sys.argv[2])))
        sock.recv(1)
    except OSError:
        pass
    sock.close()
"""
"""A client without any protection."""

GUARDED = "import tailbite\ntailbite.guard()" + RESTLESS


def demo(_: Run) -> str:
    """Show the effect and its cure."""
    done = tailbite("demo")
    expect_status(done, 0)
    return "exit status 0"


def audit(_: Run) -> str:
    """Judge a plain client and a guarded one."""
    found = {}
    for name, code in (("plain", RESTLESS), ("guarded", GUARDED)):
        client = ("--", sys.executable, "-c", code, "{host}", "{port}")
        # Under qemu on a busy machine it can take a minute until a client dials.
        done = tailbite("audit", "--quick", "--timeout", "300s", "--json", *client, timeout=900)
        expect_status(done, 0, 1)
        verdict = json.loads(done.stdout)
        found[name] = verdict.get("verdict") or verdict["clients"][0]["verdict"]
    expect(found["plain"] in ("holds", "blocks"), f"a plain socket: {found['plain']}")
    # Without a port range for the socket, guard() lets the kernel connect it and undoes a self-connect at once.
    good = ("immune",) if has_ability("IP_LOCAL_PORT_RANGE") else ("immune", "aborts")
    expect(found["guarded"] in good, f"a guarded socket: {found['guarded']}")
    return f"a plain socket: {found['plain']}; a guarded one: {found['guarded']}"


def wait(_: Run) -> str:
    """Wait for a server that is there, and for one that is not."""
    with namespace.fresh_network():
        Trap().set().control()
        done = tailbite("wait", "--timeout", "3", f"127.0.0.1:{PORT}")
        expect(done.returncode != 0, "it reports a server that does not exist")
        with socket.create_server(("127.0.0.1", 20000)):
            expect_status(tailbite("wait", "--timeout", "60", "127.0.0.1:20000"), 0)
    return "a server is there: 0; a dead port in the trap: not"


def _lab(*words: str) -> Callable[[Run], str]:
    def cell(_: Run) -> str:
        done = tailbite("lab", *words, timeout=900)
        expect_status(done, 0)
        text = (done.stderr or done.stdout).strip().splitlines()
        return f"exit status 0: {text[-1]}" if words[0] in ("loop", "odds") else "exit status 0"

    return cell


def step_width(_: Run) -> str:
    """Count self-connects where searches continue at random distances, beside the model that assumes so."""
    if not has_ability("PORT_STEP_WIDTH"):
        raise NotRunError("the kernel lacks ip_local_port_step_width")
    ephemeral, taken = PortRange(40000, 40799), PortSet.parse("40100-40249,40300-40399")
    seen = []
    for binds_first in (False, True):
        port = 40400 + binds_first  # behind a block: without random steps it would be hit in each lap
        with namespace.fresh_network():
            write_sysctl("ip_local_port_step_width", "700")
            write_reserved_ports(taken)
            settings = ExperimentSettings(port, ephemeral, 301, 10**6, binds_first)
            (tally,) = run_loop(settings, lambda hits, attempts: None)
        waits = tally.hits[1:]
        mean = sum(waits) / len(waits)
        model = odds(port, ephemeral, taken, binds_first=binds_first, scatters=True).between
        plain = odds(port, ephemeral, taken, binds_first=binds_first).between
        seen.append(f"{mean:.0f} attempts between two, model {model:.0f}, without the width {plain:.0f}")
        expect(abs(mean / model - 1) < (0.3 if not binds_first else 0.5), seen[-1])
    return f"connect: {seen[0]}; bind first: {seen[1]}"


def others(_: Run) -> str:
    """Run the commands that only print: they need nothing of the kernel."""
    for words in (("schema",), ("completion", "bash"), ("man",), ("--version",)):
        done = tailbite(*words)
        expect_status(done, 0)
        expect(done.stdout, f"{words[0]} prints nothing")
    return "exit status 0 each"


CELLS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("audit --quick", audit),
    ("wait", wait),
    ("lab parity", _lab("parity")),
    ("lab loop", lambda run: _lab("loop", "--port", "32774", "--hits", str(run.hits))(run)),
    ("lab odds", _lab("odds", "--port", "32774")),
    ("lab handshake", _lab("handshake")),
    (
        "lab cures",
        _lab("cures", "--restarts", "1", "--clients", "5", "--only", "naive", "--only", "compare and close"),
    ),
    ("ip_local_port_step_width", step_width),
    ("schema, completion, man", others),
)
