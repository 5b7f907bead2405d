"""Cells about prevention: each "no self-connect" stands beside a control that had one in the same namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.outcome import FaultError, NotRunError, Run, dial, expect, expect_status, last_line, tailbite
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
    """Connect to three servers from a small range of source ports as often as a plain socket can."""
    counts = {}
    ways = ["plain", "create_connection", "guard"]
    if has_ability("SECCOMP_REPORTS_END"):
        ways.append("run")
    for way in ways:
        with namespace.fresh_network():
            write_ephemeral_range(PortRange(40000, 39999 + run.source_ports))
            command = [sys.executable, str(HERE / "capacity.py"), way, str(run.connections)]
            if way == "run":
                command = [sys.executable, "-m", "tailbite", "run", "--require", "--", *command]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
        expect_status(done, 0)
        counts[way] = json.loads(done.stdout)
    plain = counts["plain"]["connected"]
    for way, seen in counts.items():
        others = seen["plain connect afterwards"]
        expect(seen["connected"] >= plain, f"{way}: {seen}, plain {counts['plain']}")
        expect(others == "ok", f"{way}: a connect of another program afterwards: {others}")
    connected = ", ".join(f"{way} {seen['connected']:,}" for way, seen in counts.items())
    return f"{connected} of {run.connections:,} from {run.source_ports:,} source ports"


def _server_starts(*ways: str) -> Callable[[Run], str]:
    """Return the cell that starts servers of eight kinds beside twenty clients, each with fifty connects a second."""
    script = HERE.parents[1] / "bench/fallback.py"

    def cell(run: Run) -> str:
        command = [sys.executable, str(script), "--json", "--tries", str(run.starts), *ways]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
        expect_status(done, 0)
        seen = [json.loads(line) for line in done.stdout.splitlines()]
        expect([each["way"] for each in seen] == list(ways), f"not measured: {done.stdout}")
        return ", ".join(_judge_starts(each["way"], each["starts"], run.starts) for each in seen)

    return cell


def _judge_starts(way: str, started: dict[str, int], tries: int) -> str:
    """Return how many starts worked. One in a hundred may meet a self-connect in the moment before it is reset."""
    wanted, done = tries * len(started), sum(started.values())
    expect(done >= 0.99 * wanted, f"{way}: starts of {tries}: {started}")
    return f"{done} of {wanted} beside {way}"


def _under_run(way: str, *options: str) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        needed = "PIDFD_OPEN" if options else "SECCOMP_REPORTS_END"
        if not has_ability(needed):
            raise NotRunError(f"the kernel lacks {needed}; {_refused_run(*options)}")
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


def _refused_run(*options: str) -> str:
    """Run where no program can be guarded: the command says so, and with --require it does not start the program."""
    words = (*options, "--", sys.executable, "-c", "print('started')")
    told, refused = tailbite("run", *words), tailbite("run", "--require", *words)
    expect_status(told, 0)
    expect_status(refused, 4)
    expect("started" in told.stdout and "started" not in refused.stdout, f"started or not: {told}, {refused}")
    expect("--in-process" in told.stderr, f"another way is not named: {told.stderr}")
    works = has_ability("PIDFD_OPEN")
    expect(("--port" in told.stderr) is works, f"--port works: {works}, but the line is: {told.stderr}")
    return f"with --require exit status 4: {last_line(refused)}"


def yama(run: Run) -> str:
    """Run a client as nobody under each scope of Yama (Documentation/admin-guide/LSM/Yama.rst)."""
    setting = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not setting.exists():
        raise NotRunError("the kernel is built without Yama")
    if not has_ability("SECCOMP_REPORTS_END"):
        raise NotRunError("the kernel lacks SECCOMP_REPORTS_END")
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


def multipath(run: Run) -> str:
    """Guard a client with sockets of Multipath TCP, which lack the port range option before Linux 6.8."""
    if not has_ability("MPTCP"):
        raise NotRunError("the kernel lacks MPTCP")
    guards = [("run", "--in-process")]
    if has_ability("SECCOMP_REPORTS_END"):
        guards.append(("run", "--require"))
    count = min(run.connects, 200)
    for way in ("plain, MPTCP", "bind 0, MPTCP"):
        for under in guards:
            with namespace.fresh_network():
                Trap(binds_first=way != "plain, MPTCP").set()
                expect(dial(way, 60)["self"], f"the control did not self-connect: {way}")
                counts = dial(way, count, under=under)
            expect(counts["self"] == 0, f"{counts['self']} self-connects of {count}: {way}, {' '.join(under)}")
            expect(counts["refused"] == count, f"not only refused: {counts}, {way}, {' '.join(under)}")
    return f"{count} connects each under {' and '.join(map(' '.join, guards))}, 0 self-connects"


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
    """Reserve the port: the kernel no longer chooses it."""
    with namespace.fresh_network():
        Trap().set()
        before = dial("plain", 40)["self"]
        expect_status(tailbite("fix", "--reserve", str(PORT), "--apply", "--no-files", "--netns", "self"), 0)
        write_ephemeral_range(PortRange(PORT, PORT + 3))
        counts = dial("plain", 200)
        expect(before and counts["self"] == 0, f"control {before}, then {counts['self']} self-connects of 200")
    return "200 plain connects, 0 self-connects"


def reserve_elsewhere(_: Run) -> str:
    """Plan a reserved port in new network namespaces: the host's files do not apply to them."""
    command = ["fix", "--reserve", str(PORT)]
    with namespace.fresh_network():
        shown = [tailbite(*command)]
    unshared = ["unshare", "-Urn", sys.executable, "-m", "tailbite", *command]
    shown.append(subprocess.run(unshared, check=False, capture_output=True, text=True, timeout=300))
    for done in shown:
        expect(str(PORT) in done.stdout + done.stderr, f"nothing is planned: {last_line(done)}")
        expect("/etc/sysctl" not in done.stdout, f"a file of the host is planned: {done.stdout}")
    return "unshare -n and unshare -Urn: no file of the host is planned"


def _host_guard(variant: str, ability: str) -> Callable[[Run], str]:
    def cell(_: Run) -> str:
        if not has_ability(ability):
            return _failed_install(variant, ability)
        with namespace.fresh_network():
            Trap().set().control()
            expect_status(tailbite("host-guard", "install", "--variant", variant, "--apply"), 0)
            counts = dial("plain", 200)
            expect_status(tailbite("host-guard", "status"), 0)
            # Whichever variant is the default here, the rule is found and removed.
            expect_status(tailbite("host-guard", "remove", "--apply"), 0)
            expect(counts["self"] == 0 and counts["refused"] == 200, f"installed: {counts}")
            Trap().control()
        return "200 plain connects refused, 0 self-connects"

    return cell


def _failed_install(variant: str, ability: str) -> str:
    """Install where the kernel lacks the rule's match: whatever was made until then is removed again."""
    with namespace.fresh_network():
        before = _firewall(variant)
        done = tailbite("host-guard", "install", "--variant", variant, "--apply")
        expect_status(done, 4)
        after = _firewall(variant)
        expect(after == before, f"left by the install that failed: {after}")
        expect_status(tailbite("host-guard", "status", "--variant", variant), 1, 4)
    raise NotRunError(f"the kernel lacks {ability}; exit status 4, and no rule or chain is left: {last_line(done)}")


def _firewall(variant: str) -> list[str]:
    """Return the chains and rules of a variant of iptables; packet counts and comments are left out."""
    words = f"for each in iptables ip6tables; do $each-{variant}-save -t filter; done"
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    done = subprocess.run(["sh", "-c", words], check=False, capture_output=True, text=True, env=environment)
    kept = (line for line in done.stdout.splitlines() if "tailbite" in line.lower() or line.startswith("-A"))
    return [line.partition("[")[0] for line in kept]


CELLS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("trap: create_connection", _trap("create_connection")),
    ("trap: open_connection", _trap("open_connection")),
    ("trap: guard()", _trap("guard")),
    ("source ports used", capacity),
    ("server starts", _server_starts("library", "guard")),
    ("server starts, run", _server_starts("run without port ranges", "run without pidfd_getfd")),
    ("run", _under_run("plain")),
    ("run, client binds port 0", _under_run("bind 0")),
    ("run --port", _under_run("plain", "--port", str(PORT))),
    ("run --in-process", run_in_process),
    ("Multipath TCP", multipath),
    ("run as nobody, by Yama scope", yama),
    ("run -v under a pipe", run_ends_under_a_pipe),
    ("fix --reserve", reserve),
    ("fix --reserve in a namespace", reserve_elsewhere),
    ("host-guard, nft", _host_guard("nft", "XT_BPF_NFT")),
    ("host-guard, legacy", _host_guard("legacy", "XT_BPF_LEGACY")),
)
