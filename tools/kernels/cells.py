"""The cells of docs/kernels.md: what is run on each kernel, with a control wherever "no self-connect" is claimed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.abilities import has_ability
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.core.ports import PortRange
from tailbite.kernel import namespace
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CELLS", "FaultError", "NotRunError", "Run"]

CLIENT = """
import asyncio, json, socket, struct, sys
import tailbite
way, host, source, port, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
source_address = (source, 0) if source else None
family = socket.AF_INET6 if ":" in host else socket.AF_INET
def plain():
    sock = socket.socket(family)
    try:
        if source_address:
            sock.bind(source_address)
        sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    return sock
def bound():
    sock = socket.socket(family)
    try:
        sock.bind((source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port if way == "bind P" else 0))
        sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    return sock
async def stream():
    reader, writer = await tailbite.open_connection(host, port, **({"local_addr": source_address} if source else {}))
    return writer.get_extra_info("socket")
dial = {
    "plain": plain, "guard": plain, "bind 0": bound, "bind P": bound,
    "create_connection": lambda: tailbite.create_connection((host, port), source_address=source_address),
}.get(way)
if way == "guard":
    tailbite.guard()
result = {"tries": 0, "self": 0, "refused": 0, "other": {}}
async def over_asyncio():
    for _ in range(count):
        await one_try(stream)
async def one_try(connect):
    result["tries"] += 1
    try:
        sock = connect()
        sock = await sock if asyncio.iscoroutine(sock) else sock
    except ConnectionRefusedError:
        result["refused"] += 1
    except OSError as error:
        result["other"][str(error.errno)] = result["other"].get(str(error.errno), 0) + 1
    else:
        result["self"] += sock.getsockname() == sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
def over_sockets():
    for _ in range(count):
        try:
            one_try(dial).send(None)
        except StopIteration:
            pass
if way == "open_connection":
    asyncio.run(over_asyncio())
else:
    over_sockets()
print(json.dumps(result))
"""
"""One client of every kind; each connection is reset, so that nothing is left for the next try."""


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
"""A client without any protection, for the audit."""


class NotRunError(Exception):
    """The kernel, or this machine, lacks what the cell needs; the message says what."""


class FaultError(Exception):
    """The product did not do what it promises; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a kernel.

    Attributes:
        connects: tries of each trap.
        thorough: also what takes long.
    """

    connects: int = 500
    thorough: bool = True


def tailbite(*words: str, timeout: float = 120, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the product to its end; its output is text."""
    command = [sys.executable, "-m", "tailbite", *words]
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": timeout, **more}
    return subprocess.run(command, check=False, **options)  # type: ignore[call-overload,no-any-return]


def dial(
    way: str, count: int, *, host: str = "127.0.0.1", source: str = "", under: tuple[str, ...] = ()
) -> dict[str, int]:
    """Have the client of one kind connect to the dead port; return its counts."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(CLIENT)
        script.flush()
        command = [sys.executable, script.name, way, host, source, str(PORT), str(count)]
        if under:
            done = tailbite(*under, "--", *command, timeout=300)
        else:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 or not done.stdout.strip():
        raise FaultError(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise FaultError(message)


def _status(done: subprocess.CompletedProcess[str], *good: int) -> None:
    _expect(done.returncode in good, f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")


def _trap(way: str) -> Callable[[Run], str]:
    """Return the cell of one API: v4, v6 and mapped, with and without a source address, P low and P high."""

    def cell(run: Run) -> str:
        tries = 0
        for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            for source in ("", host):
                for high in (False, True):
                    tries += _one_trap(way, run.connects, host, source, high)
        return f"{tries} connects in 12 traps, 0 self-connects"

    return cell


def _one_trap(way: str, count: int, host: str, source: str, high: bool) -> int:
    with namespace.fresh_network():
        trap = Trap(binds_first=high).set()
        where = f"{host}, source {source or 'none'}, P {'high' if high else 'low'}"
        bound = source or ("::" if ":" in host else "0.0.0.0")
        control = bound if high or source else None
        before = any(trap.connects_to_itself(host, control) for _ in range(60))
        counts = dial(way, count, host=host, source=source)
        _expect(counts["self"] == 0, f"{counts['self']} self-connects of {counts['tries']}: {where}")
        after = any(trap.connects_to_itself(host, control) for _ in range(60))
        # A client that binds takes the other parity: with P low it meets P on older allocators only.
        if not before and not after and not (source and not high):
            raise FaultError(f"the control did not self-connect: {where}")
        _expect(leftovers() == [], f"sockets are left on the port: {where}")
        return counts["tries"]


def capacity(run: Run) -> str:
    """Connect to three servers as often as a plain socket can: more connections than source ports."""
    script = Path(__file__).with_name("capacity.py")
    counts = {}
    for way in ("plain", "create_connection", "guard"):
        with namespace.fresh_network():
            write_ephemeral_range(PortRange(40000, 41999))
            done = subprocess.run(
                [sys.executable, str(script), way, "4400"], check=False, capture_output=True, text=True, timeout=400
            )
        _expect(done.returncode == 0, f"{way}: {done.stderr.strip()[-300:]}")
        counts[way] = json.loads(done.stdout)
    plain = counts["plain"]["connected"]
    for way, seen in counts.items():
        _expect(seen["connected"] >= plain, f"{way}: {seen}, plain {counts['plain']}")
        _expect(
            seen["plain connect afterwards"] == "ok", f"{way}: other programs: {seen['plain connect afterwards']}"
        )
    return ", ".join(f"{way} {seen['connected']}" for way, seen in counts.items()) + " of 4400"


def demo(_: Run) -> str:
    done = tailbite("demo", timeout=200)
    _status(done, 0)
    return "exit status 0"


def _held_self_connect() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", PORT))
    sock.connect(("127.0.0.1", PORT))
    return sock


def scan(_: Run) -> str:
    with namespace.fresh_network():
        _status(tailbite("scan", "--netns", "self"), 0)
        with _held_self_connect():
            done = tailbite("scan", "--netns", "self", "--json")
            _status(done, 1)
            _expect(str(PORT) in done.stdout, "the self-connect is not in its output")
    return "finds it, exit status 1; 0 without one"


def why(_: Run) -> str:
    with namespace.fresh_network(), _held_self_connect():
        done = tailbite("why", str(PORT), "--netns", "self")
        _status(done, 1)
        _expect("TB101" in done.stdout + done.stderr, "TB101 is not in its answer")
    return "TB101"


def doctor(_: Run) -> str:
    with namespace.fresh_network(), _held_self_connect():
        done = tailbite("doctor", "--netns", "self", "--json")
        _status(done, 1)
        json.loads(done.stdout)
    return "exit status 1, JSON"


def kill_established(_: Run) -> str:
    with namespace.fresh_network(), _held_self_connect():
        done = tailbite("fix", "--kill", str(PORT), "--apply", "--netns", "self")
        if not has_ability("SOCK_DESTROY"):
            _expect(done.returncode in (0, 4), f"exit status {done.returncode}: {done.stderr[-200:]}")
            if done.returncode == 4:
                raise NotRunError(
                    f"the kernel lacks SOCK_DESTROY; exit status 4: {done.stderr.strip().splitlines()[-1]}"
                )
        _status(done, 0, 1)
        gone = [found for found in leftovers() if found.state.name == "ESTABLISHED"] == []
        _expect(gone, f"it is still there: {done.stdout[-200:]}")
    return "the connection is gone"


def kill_time_wait(_: Run) -> str:
    with namespace.fresh_network():
        _held_self_connect().close()
        _expect(leftovers() != [], "the control left no TIME-WAIT")
        done = tailbite("fix", "--kill", str(PORT), "--apply", "--netns", "self")
        if done.returncode == 4 and not has_ability("SOCK_DESTROY_TIME_WAIT"):
            raise NotRunError(f"exit status 4: {done.stderr.strip().splitlines()[-1]}")
        _status(done, 0, 1)
        _expect(server_can_bind(), f"a server cannot bind: {done.stdout[-200:]} {done.stderr[-200:]}")
    return "a server can bind at once"


def reserve(_: Run) -> str:
    with namespace.fresh_network():
        Trap().set()
        before = dial("plain", 40)["self"]
        done = tailbite("fix", "--reserve", str(PORT), "--apply", "--no-files", "--netns", "self")
        _status(done, 0)
        write_ephemeral_range(PortRange(PORT, PORT + 3))
        counts = dial("plain", 200)
        _expect(before and counts["self"] == 0, f"control {before}, then {counts['self']} self-connects of 200")
    return "200 plain connects, 0 self-connects"


def _host_guard(variant: str, ability: str) -> Callable[[Run], str]:
    def cell(_: Run) -> str:
        if not has_ability(ability):
            raise NotRunError(f"the kernel lacks {ability}")
        with namespace.fresh_network():
            Trap().set().control()
            words = ("--variant", variant)
            shown = tailbite("host-guard", "install", "--help").stdout
            apply = ("--apply",) if "--apply" in shown else ()
            _status(tailbite("host-guard", "install", *words, *apply), 0)
            counts = dial("plain", 200)
            _status(tailbite("host-guard", "remove", *words, *apply), 0)
            _expect(counts["self"] == 0 and counts["refused"] == 200, f"installed: {counts}")
            Trap().control()
        return "200 plain connects refused, 0 self-connects"

    return cell


def _under_run(way: str, *options: str) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        count = run.connects
        with namespace.fresh_network():
            binds = way != "plain"
            Trap(binds_first=binds).set()
            control = dial(way, 60)["self"]
            _expect(control, "the control did not self-connect")
            with tempfile.NamedTemporaryFile("r", suffix=".json") as stats:
                counts = dial(way, count, under=("run", "--stats-json", stats.name, *options))
                told = json.loads(stats.read() or "{}")
            _expect(counts["self"] == 0, f"{counts['self']} self-connects of {count}, guarded: {told.get('guarded')}")
            how = told.get("mechanism") or told.get("means") or "guarded"
        return f"{count} connects, 0 self-connects ({how})"

    return cell


def run_in_process(run: Run) -> str:
    with namespace.fresh_network():
        Trap().set().control()
        counts = dial("plain", run.connects, under=("run", "--in-process"))
        _expect(counts["self"] == 0, f"{counts['self']} self-connects of {run.connects}")
    return f"{run.connects} connects, 0 self-connects"


def run_ends_under_a_pipe(_: Run) -> str:
    """Read the pipes of ``run -v`` to their end before waiting, as subprocess.run() and CI runners do."""
    with namespace.fresh_network():
        try:
            done = tailbite("run", "-v", "--", sys.executable, "-c", "print(1)", timeout=60)
        except subprocess.TimeoutExpired as error:
            raise FaultError("it does not end while its parent reads its pipes") from error
    _status(done, 0)
    return "ends with its program"


def server_starts(_: Run) -> str:
    """Start servers beside twenty clients: bench/fallback.py measures it beside plain clients."""
    script = Path(__file__).parents[2] / "bench/fallback.py"
    if not script.exists():
        raise NotRunError("bench/fallback.py is not there")
    command = [sys.executable, str(script), "--json", "plain", "library", "guard"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    _expect(done.returncode == 0, f"exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    return " ".join(done.stdout.split())[:600]


def audit(_: Run) -> str:
    command = [sys.executable, "-c", RESTLESS, "{host}", "{port}"]
    done = tailbite("audit", "--quick", "--json", "--", *command, timeout=300)
    _expect(done.returncode in (0, 1), f"exit status {done.returncode}: {done.stderr[-300:]}")
    verdict = json.loads(done.stdout)
    found = verdict.get("verdict") or verdict["clients"][0]["verdict"]
    _expect(found in ("holds", "blocks"), f"a plain socket is {found}")
    return f"a plain socket: {found}"


def wait(_: Run) -> str:
    with namespace.fresh_network():
        Trap().set().control()
        done = tailbite("wait", "--timeout", "3", f"127.0.0.1:{PORT}")
        _expect(done.returncode != 0, "it reports a server that does not exist")
        with socket.create_server(("127.0.0.1", 20000)):
            _status(tailbite("wait", "--timeout", "20", "127.0.0.1:20000"), 0)
    return "a server is there: 0; a dead port in the trap: not"


def _lab(*words: str) -> Callable[[Run], str]:
    def cell(_: Run) -> str:
        done = tailbite("lab", *words, timeout=400)
        text = done.stderr.strip() or done.stdout.strip()
        if done.returncode == 4 and not has_ability("SOCK_DESTROY_TIME_WAIT"):
            raise NotRunError(f"exit status 4: {text.splitlines()[-1]}")
        _expect(done.returncode == 0, f"exit status {done.returncode}: {' '.join(text.splitlines()[-2:])[-300:]}")
        return "exit status 0"

    return cell


CELLS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("demo", demo),
    ("trap: create_connection", _trap("create_connection")),
    ("trap: open_connection", _trap("open_connection")),
    ("trap: guard()", _trap("guard")),
    ("source ports used", capacity),
    ("run", _under_run("plain")),
    ("run, client binds port 0", _under_run("bind 0")),
    ("run --port", _under_run("plain", "--port", str(PORT))),
    ("run --in-process", run_in_process),
    ("run -v under a pipe", run_ends_under_a_pipe),
    ("scan", scan),
    ("why", why),
    ("doctor", doctor),
    ("fix --reserve", reserve),
    ("fix --kill, ESTABLISHED", kill_established),
    ("fix --kill, TIME-WAIT", kill_time_wait),
    ("host-guard, nft", _host_guard("nft", "XT_BPF_NFT")),
    ("host-guard, legacy", _host_guard("legacy", "XT_BPF_LEGACY")),
    ("audit --quick", audit),
    ("wait", wait),
    ("lab parity", _lab("parity")),
    ("lab loop", _lab("loop", "--port", "32774", "--hits", "40")),
    ("lab odds", _lab("odds", "--port", "32774")),
    ("lab handshake", _lab("handshake")),
)
