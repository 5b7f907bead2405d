"""Cells about prevention: each "no self-connect" stands beside a control that had one in the same namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.outcome import FaultError, NotRunError, Run, dial, expect, expect_status, tailbite
from support.abilities import has_ability
from support.trap import PORT, Trap, leftovers
from support.users import NOBODY, python_as_nobody
from tailbite.core.ports import PortRange
from tailbite.kernel import namespace
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CELLS"]

HERE = Path(__file__).parent
ADDRESSES = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def _trap(way: str) -> Callable[[Run], str]:
    """Return the cell of one API: v4, v6 and mapped, with and without a source address, P low and P high."""

    def cell(run: Run) -> str:
        places = [(host, source, high) for host in ADDRESSES for source in ("", host) for high in (False, True)]
        tries = sum(_one_trap(way, run.connects, *place) for place in places)
        return f"{tries:,} connects in {len(places)} traps, 0 self-connects"

    return cell


def _one_trap(way: str, count: int, host: str, source: str, high: bool) -> int:
    with namespace.fresh_network():
        trap = Trap(binds_first=high).set()
        where = f"{host}, source {source or 'none'}, P {'high' if high else 'low'}"
        bound = source or ("::" if ":" in host else "0.0.0.0")
        control = bound if high or source else None
        before = any(trap.connects_to_itself(host, control) for _ in range(60))
        counts = dial(way, count, host=host, source=source)
        expect(counts["self"] == 0, f"{counts['self']} self-connects of {counts['tries']}: {where}")
        after = any(trap.connects_to_itself(host, control) for _ in range(60))
        # A client that binds takes the other parity: with P low it meets P on older allocators only.
        if not before and not after and not (source and not high):
            raise FaultError(f"the control did not self-connect: {where}")
        expect(leftovers() == [], f"sockets are left on the port: {where}")
        return counts["tries"]


def capacity(run: Run) -> str:
    """Connect to three servers from 5 000 source ports as often as a plain socket can."""
    counts = {}
    for way in ("plain", "create_connection", "guard"):
        with namespace.fresh_network():
            write_ephemeral_range(PortRange(40000, 44999))
            command = [sys.executable, str(HERE / "capacity.py"), way, str(run.connections)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
        expect_status(done, 0)
        counts[way] = json.loads(done.stdout)
    plain = counts["plain"]["connected"]
    for way, seen in counts.items():
        others = seen["plain connect afterwards"]
        expect(seen["connected"] >= plain, f"{way}: {seen}, plain {counts['plain']}")
        expect(others == "ok", f"{way}: a connect of another program afterwards: {others}")
    connected = ", ".join(f"{way} {seen['connected']:,}" for way, seen in counts.items())
    return f"{connected} of {run.connections:,}"


def server_starts(run: Run) -> str:
    """Start servers of eight kinds beside twenty clients that connect fifty times a second each."""
    script = HERE.parents[1] / "bench/fallback.py"
    command = [sys.executable, str(script), "--json", "--tries", str(run.starts), "library", "guard"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    expect_status(done, 0)
    for line in done.stdout.splitlines():
        seen = json.loads(line)
        failed = {kind: started for kind, started in seen["starts"].items() if started < run.starts}
        expect(not failed, f"{seen['way']}: starts of {run.starts}: {failed}")
    return f"{run.starts} of {run.starts} for each of eight kinds of server, beside the library and beside guard()"


def _under_run(way: str, *options: str) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        with namespace.fresh_network():
            Trap(binds_first=way != "plain").set()
            expect(dial(way, 60)["self"], "the control did not self-connect")
            with tempfile.TemporaryDirectory() as folder:
                stats = Path(folder, "stats.json")
                counts = dial(way, run.connects, under=("run", "--stats-json", str(stats), *options))
                told = json.loads(stats.read_text(encoding="utf-8"))
            expect(counts["self"] == 0, f"{counts['self']} self-connects of {run.connects}: {told}")
            expect(told["guarded"] is True, f"not guarded: {told}")
        return f"{run.connects} connects, 0 self-connects ({told['mechanism']})"

    return cell


def yama(run: Run) -> str:
    """Run a client as nobody under each scope of Yama (Documentation/admin-guide/LSM/Yama.rst)."""
    setting = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not setting.exists():
        raise NotRunError("the kernel is built without Yama")
    if not run.owns_machine:
        raise NotRunError("the settings of this machine are left alone")
    seen = []
    for scope in (0, 1, 2, 3):  # in this order: 3 cannot be lowered again
        setting.write_text(str(scope), encoding="ascii")
        seen.append(f"scope {scope}: {_guarded_nobody(min(run.connects, 100))}")
    return "; ".join(seen)


def _guarded_nobody(count: int) -> str:
    """Run a client as nobody in the trap; return how it was guarded, or the reason why not."""
    with namespace.fresh_network(), tempfile.TemporaryDirectory() as folder:
        Trap().set().control()
        stats = Path(folder, "stats.json")
        Path(folder).chmod(0o777)
        client = [*python_as_nobody(str(HERE / "client.py"))[len(NOBODY) :], "plain", "127.0.0.1", "", str(PORT)]
        words = ("-m", "tailbite", "run", "--stats-json", str(stats), "--", *client, str(count))
        command = python_as_nobody(*words)
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        expect_status(done, 0)
        counts, told = json.loads(done.stdout.splitlines()[-1]), json.loads(stats.read_text(encoding="utf-8"))
        expect(told["guarded"] or counts["self"], f"not guarded, and no self-connect of {count}: {told}")
        expect(not told["guarded"] or counts["self"] == 0, f"{counts['self']} self-connects of {count}: {told}")
    return f"guarded ({told['mechanism']})" if told["guarded"] else f"not guarded, and says so: {told['reason']}"


def run_in_process(run: Run) -> str:
    """Guard a Python program by guard() in it."""
    with namespace.fresh_network():
        Trap().set().control()
        counts = dial("plain", run.connects, under=("run", "--in-process"))
        expect(counts["self"] == 0, f"{counts['self']} self-connects of {run.connects}")
    return f"{run.connects} connects, 0 self-connects"


def run_ends_under_a_pipe(_: Run) -> str:
    """Read the pipes of ``run -v`` to their end before waiting, as subprocess.run() and CI runners do."""
    with namespace.fresh_network():
        try:
            done = tailbite("run", "-v", "--", sys.executable, "-c", "print(1)", timeout=120)
        except subprocess.TimeoutExpired as error:
            raise FaultError("it does not end while its parent reads its pipes") from error
    expect_status(done, 0)
    return "ends with its program"


def reserve(_: Run) -> str:
    """Reserve the port: the kernel does not choose it any more."""
    with namespace.fresh_network():
        Trap().set()
        before = dial("plain", 40)["self"]
        expect_status(tailbite("fix", "--reserve", str(PORT), "--apply", "--no-files", "--netns", "self"), 0)
        write_ephemeral_range(PortRange(PORT, PORT + 3))
        counts = dial("plain", 200)
        expect(before and counts["self"] == 0, f"control {before}, then {counts['self']} self-connects of 200")
    return "200 plain connects, 0 self-connects"


def _host_guard(variant: str, ability: str) -> Callable[[Run], str]:
    def cell(_: Run) -> str:
        if not has_ability(ability):
            raise NotRunError(f"the kernel lacks {ability}")
        with namespace.fresh_network():
            Trap().set().control()
            expect_status(tailbite("host-guard", "install", "--variant", variant, "--apply"), 0)
            counts = dial("plain", 200)
            expect_status(tailbite("host-guard", "remove", "--variant", variant, "--apply"), 0)
            expect(counts["self"] == 0 and counts["refused"] == 200, f"installed: {counts}")
            Trap().control()
        return "200 plain connects refused, 0 self-connects"

    return cell


CELLS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("trap: create_connection", _trap("create_connection")),
    ("trap: open_connection", _trap("open_connection")),
    ("trap: guard()", _trap("guard")),
    ("source ports used", capacity),
    ("server starts", server_starts),
    ("run", _under_run("plain")),
    ("run, client binds port 0", _under_run("bind 0")),
    ("run --port", _under_run("plain", "--port", str(PORT))),
    ("run --in-process", run_in_process),
    ("run as nobody, by Yama scope", yama),
    ("run -v under a pipe", run_ends_under_a_pipe),
    ("fix --reserve", reserve),
    ("host-guard, nft", _host_guard("nft", "XT_BPF_NFT")),
    ("host-guard, legacy", _host_guard("legacy", "XT_BPF_LEGACY")),
)
