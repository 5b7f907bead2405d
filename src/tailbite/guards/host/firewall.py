"""The host guard: a firewall rule that refuses every self-connect of a network namespace, of any program.

It is one rule in a chain of its own, for IPv4 and for IPv6::

    INPUT     -p tcp --syn -j TAILBITE
    TAILBITE  -p tcp -m bpf --bytecode "..." -j REJECT --reject-with tcp-reset

The program (:mod:`tailbite.guards.host.bpf_match`) matches a SYN whose source is its destination. It is answered
with RST, so connect(2) says ECONNREFUSED at once; dropping it would make connect(2) hang. Nothing else is touched:
a connection from 127.0.0.2:P to 127.0.0.1:P passes.

The interface is not compared. A self-connect arrives on ``lo``, or on the device of its VRF (``vrf_local_xmit``),
which has any name. A SYN from another host whose source is this host's own address and the destination's port cannot
become a connection. Linux drops it as a martian source (``fib_validate_source``, without accept_local); where it
does not, the answer is RST as well.

This module finds the firewall's programs, reads the rules, and decides which commands are missing. It runs commands
in :func:`run_firewall` and :func:`apply_commands` only. Both variants of iptables are known, the one for nf_tables
and the legacy one. They hold separate rules, so the one that the host's firewall uses is the one to use.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tailbite.errors import FirewallError
from tailbite.guards.host.bpf_match import IpVersion, bytecode, self_connect_filter

__all__ = [
    "CHAIN",
    "Firewall",
    "FirewallState",
    "apply_commands",
    "delete_empty_table",
    "find_firewall",
    "find_firewalls",
    "install_commands",
    "parse_rules",
    "present_versions",
    "read_state",
    "remove_commands",
    "run_firewall",
]

CHAIN: Final = "TAILBITE"
VERSIONS: Final[tuple[IpVersion, ...]] = (4, 6)
_SYN = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"
# Every packet meets the jump, and to compare the interface's name costs as much as the rest of it.
_JUMP = ("-p", "tcp", "--syn", "-j", CHAIN)
_LOCK = "/run/xtables.lock"
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_TIMEOUT_S = 60
_NETWORK_FACTS = Path("/proc/thread-self/net")
_OF_EMPTY_TABLE = re.compile(
    r"table ip6? filter \{|chain (INPUT|FORWARD|OUTPUT) \{|type filter hook \w+ priority \w+; policy accept;|\}|"
)


def present_versions() -> list[IpVersion]:
    """Return the IP versions that the kernel has in the calling thread's network namespace.

    Without IPv6 there is nothing to guard. Where /proc is not mounted, IPv6 is taken to be there.
    """
    lacks_ipv6 = _NETWORK_FACTS.is_dir() and not (_NETWORK_FACTS / "if_inet6").exists()
    return [version for version in VERSIONS if version == 4 or not lacks_ipv6]


@dataclass(frozen=True, slots=True)
class Firewall:
    """The programs for one IP version.

    Attributes:
        version: 4 or 6.
        program: the path of iptables or ip6tables.
        save: the path of its iptables-save.
        variant: "nf_tables" or "legacy", as ``--version`` says.
    """

    version: IpVersion
    program: str
    save: str
    variant: str

    @property
    def rule(self) -> tuple[str, ...]:
        """The rule of our chain, as arguments."""
        program = bytecode(self_connect_filter(self.version))
        return ("-p", "tcp", "-m", "bpf", "--bytecode", program, "-j", "REJECT", "--reject-with", "tcp-reset")

    @property
    def table(self) -> tuple[str, str]:
        """The family and the name of the filter table in nft."""
        return {4: "ip", 6: "ip6"}[self.version], "filter"

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return a command line; ``-w`` waits for another program that changes rules."""
        return (self.program, "-w", "10", *arguments)


@dataclass(frozen=True, slots=True)
class FirewallState:
    """Our chain and rules in the filter table of one IP version.

    Attributes:
        version: 4 or 6.
        variant: "nf_tables" or "legacy".
        has_chain: True if our chain is there.
        rules: how many rules the chain has.
        is_current: True if the chain holds exactly our rule.
        jumps: the numbers in INPUT of the rules that lead into our chain, from 1.
        outdated: how many rules of earlier versions lead into our chain.
        ahead: the first rule before ours that may decide about a SYN on ``lo``, so that the SYN never meets ours.
        packets: SYNs refused since the rule was made: self-connects that did not happen.
        bytes: their size.
        is_dormant: True if the whole table is switched off (nft(8), flags dormant), so that no rule in it acts.
    """

    version: IpVersion
    variant: str
    has_chain: bool = False
    rules: int = 0
    is_current: bool = False
    jumps: tuple[int, ...] = ()
    outdated: int = 0
    ahead: str | None = None
    packets: int = 0
    bytes: int = 0
    is_dormant: bool = False

    @property
    def is_installed(self) -> bool:
        """True if self-connects of this IP version are refused."""
        return self.is_current and bool(self.jumps) and self.ahead is None and not self.is_dormant


def find_firewalls(version: IpVersion, variant: str | None = None) -> list[Firewall]:
    """Find the programs to use, first, and without ``variant`` those of the other variant if it has our chain.

    Raises:
        FirewallError: the programs to use are not installed.
    """
    found = [find_firewall(version, variant)]
    if variant is None:
        for other in ("nft", "legacy"):
            # Asking the legacy program would load the legacy tables into the kernel where nobody uses them.
            if other == "legacy" and not _has_legacy_filter(version):
                continue
            with contextlib.suppress(FirewallError):
                firewall = find_firewall(version, other)
                if firewall.variant != found[0].variant and read_state(firewall).has_chain:
                    found.append(firewall)
    return found


def _has_legacy_filter(version: IpVersion) -> bool:
    names = Path("/proc/thread-self/net") / {4: "ip_tables_names", 6: "ip6_tables_names"}[version]
    try:
        return "filter" in names.read_text(encoding="ascii").split()
    except OSError:
        return False


def find_firewall(version: IpVersion, variant: str | None = None) -> Firewall:
    """Find the programs; ``variant`` is "nft" or "legacy", None takes what ``iptables`` is.

    Raises:
        FirewallError: the programs are not installed.
    """
    name = {4: "iptables", 6: "ip6tables"}[version]
    stem = f"{name}-{variant}" if variant else name
    program, save = (shutil.which(found, path=_SEARCH) for found in (stem, f"{stem}-save"))
    if program is None or save is None:
        raise FirewallError((stem,), 127, f"{stem} is not installed (Debian and Ubuntu: apt install iptables)")
    words = run_firewall((program, "--version"))
    told = re.search(r"\((\w+)\)", words)
    return Firewall(version, program, save, told[1] if told else "legacy")


def read_state(firewall: Firewall) -> FirewallState:
    """Read the filter table of the calling thread's network namespace.

    Raises:
        FirewallError: not permitted, or the kernel lacks the tables.
    """
    if firewall.variant == "legacy":
        run_firewall(firewall.command("-S", "INPUT"))  # legacy's save is silent about a table it may not see
    state = parse_rules(run_firewall((firewall.save, "-c", "-t", "filter")), firewall)
    return replace(state, is_dormant=_is_dormant(firewall))


def _is_dormant(firewall: Firewall) -> bool:
    """Tell whether the filter table is switched off, which iptables-save does not show. False without nft."""
    nft = shutil.which("nft", path=_SEARCH)
    if firewall.variant != "nf_tables" or nft is None:
        return False
    try:
        table = run_firewall((nft, "-t", "list", "table", *firewall.table))
    except FirewallError:
        return False  # there is no such table
    return any("dormant" in line for line in table.splitlines() if line.strip().startswith("flags "))


def parse_rules(saved: str, firewall: Firewall) -> FirewallState:
    """Read the output of ``iptables-save -c -t filter``. Pure."""
    has_chain = False
    jumps: list[int] = []
    outdated = 0
    ahead: str | None = None
    ours: list[tuple[int, int, list[str]]] = []
    number = 0
    for line in saved.splitlines():
        if line.startswith(f":{CHAIN} "):
            has_chain = True
        counted = re.match(r"\[(\d+):(\d+)\] -A (\S+) ?(.*)", line)
        if counted is None:
            continue
        chain, rule = counted[3], counted[4]
        if chain == "INPUT":
            number += 1
            if rule == f"{_SYN} -j {CHAIN}":
                jumps.append(number)
            elif rule == f"-i lo {_SYN} -j {CHAIN}":
                outdated += 1
            elif not jumps and ahead is None and _may_decide(rule):
                ahead = rule
        elif chain == CHAIN:
            ours.append((int(counted[1]), int(counted[2]), shlex.split(rule)))
    return FirewallState(
        version=firewall.version,
        variant=firewall.variant,
        has_chain=has_chain,
        rules=len(ours),
        is_current=[rule for _, _, rule in ours] == [list(firewall.rule)],
        jumps=tuple(jumps),
        outdated=outdated,
        ahead=ahead if jumps else None,
        packets=sum(packets for packets, _, _ in ours),
        bytes=sum(size for _, size, _ in ours),
    )


def _may_decide(rule: str) -> bool:
    """Tell whether a rule of INPUT may decide about a TCP SYN on ``lo`` before the rules after it."""
    words = shlex.split(rule)
    if "-j" not in words and "-g" not in words:
        return False  # it only counts
    for option, values in (("-i", ("lo",)), ("-p", ("tcp", "all"))):
        if option in words:
            place = words.index(option)
            is_negated = place > 0 and words[place - 1] == "!"
            if (words[place + 1] in values) is is_negated:
                return False
    return True


def install_commands(state: FirewallState, firewall: Firewall) -> list[tuple[str, ...]]:
    """Return the commands that put the rule in place, first in INPUT where it matters; none if it is in place. Pure.

    The chain is filled before anything leads into it, and a rule is added before another one is removed, so no moment
    is worse than the one before.
    """
    commands = []
    if not state.has_chain:
        commands.append(firewall.command("-N", CHAIN))
    if not state.is_current:
        commands.append(firewall.command("-A", CHAIN, *firewall.rule))
        commands += [firewall.command("-D", CHAIN, "1")] * state.rules
    wrong = state.jumps[1:] if state.ahead is None else state.jumps
    if not state.jumps or state.ahead is not None:
        commands.append(firewall.command("-I", "INPUT", "1", *_JUMP))
        wrong = tuple(number + 1 for number in wrong)
    commands += [firewall.command("-D", "INPUT", str(number)) for number in reversed(wrong)]
    return commands + _remove_outdated(state, firewall)


def remove_commands(state: FirewallState, firewall: Firewall) -> list[tuple[str, ...]]:
    """Return the commands that leave nothing of ours behind. Pure."""
    commands = [firewall.command("-D", "INPUT", *_JUMP) for _ in state.jumps]
    commands += _remove_outdated(state, firewall)
    if state.has_chain:
        commands += [firewall.command("-F", CHAIN), firewall.command("-X", CHAIN)]
    return commands


def _remove_outdated(state: FirewallState, firewall: Firewall) -> list[tuple[str, ...]]:
    return [firewall.command("-D", "INPUT", "-i", "lo", *_JUMP)] * state.outdated


def firewall_environment() -> dict[str, str]:
    """Return the variables that the commands need in addition to this process's environment.

    The legacy variant locks a file that only root can open; in a network namespace of your own, another file
    is enough, named after the namespace.
    """
    lock = Path(_LOCK)
    if "XTABLES_LOCKFILE" in os.environ or os.access(lock if lock.exists() else lock.parent, os.W_OK):
        return {}
    namespace = Path("/proc/thread-self/ns/net").stat().st_ino
    return {"XTABLES_LOCKFILE": f"{tempfile.gettempdir()}/xtables-{namespace}.lock"}


def apply_commands(changes: list[tuple[Firewall, FirewallState, list[tuple[str, ...]]]]) -> None:
    """Run the commands of each firewall; if one fails, remove what the others made.

    Args:
        changes: the firewalls, each with its state before and the commands to run.

    Raises:
        FirewallError: a command failed. A chain that was not there before is not there afterwards either.
    """
    begun = []
    try:
        for firewall, before, commands in changes:
            begun.append((firewall, before))
            for line in commands:
                run_firewall(line)
    except FirewallError:
        for firewall, before in reversed(begun):
            if not before.has_chain:
                with contextlib.suppress(FirewallError):
                    for line in remove_commands(read_state(firewall), firewall):
                        run_firewall(line)
                    delete_empty_table(firewall)
        raise


def delete_empty_table(firewall: Firewall) -> None:
    """Delete the filter table that iptables-nft made for us, if it holds nothing but its own empty chains.

    iptables-nft makes a table and its three chains with the first rule, and leaves them. Without a rule and with the
    policy ACCEPT they decide nothing; iptables-nft makes them again when it needs them.

    Raises:
        FirewallError: nft could not delete the table.
    """
    nft = shutil.which("nft", path=_SEARCH)
    if firewall.variant != "nf_tables" or nft is None:
        return
    family, _ = firewall.table
    lines = [line.strip() for line in run_firewall((nft, "list", "table", *firewall.table)).splitlines()]
    if not all(_OF_EMPTY_TABLE.fullmatch(line) for line in lines):
        return
    # In one transaction: a chain that has got a rule meanwhile cannot be deleted, and then nothing is.
    chains = [f"delete chain {family} filter {line.split()[1]}" for line in lines if line.startswith("chain ")]
    run_firewall((nft, "; ".join([*chains, f"delete table {family} filter"])))


def run_firewall(command: tuple[str, ...]) -> str:
    """Run one command and return its output.

    Raises:
        FirewallError: the command failed; the error holds what it printed.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **firewall_environment(), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallError(command, 126, getattr(error, "strerror", None) or str(error)) from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("#")]
        raise FirewallError(command, done.returncode, " ".join(said) or f"exit status {done.returncode}")
    return done.stdout
