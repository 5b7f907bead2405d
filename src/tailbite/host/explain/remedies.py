"""Remedies for a held port, each offered only where it helps; the most helpful and least harmful comes first. Pure.

==========================  ==================================================================
remedy                      offered when
==========================  ==================================================================
destroy a self-connect      the kernel has SOCK_DESTROY (or TCP_REPAIR for its TIME-WAIT), and
                            the port can have been chosen by the kernel: a program that bound
                            it keeps it after the connection is gone
destroy a connection        the same, by ``ss -K``, which ends any connection
restart the holder          there is one; by its systemd unit or container where it has one
reserve the port            the kernel may choose it now, and others are left; it does not stop a
                            program's own bind
``tailbite run``            the same, and it can guard a program here, with the options for that
SO_REUSEADDR on the server  a server left what is in the way, and nobody listens
wait                        it is TIME-WAIT, or a connection that the kernel is closing
see who holds it            a process has it, and none that is visible
==========================  ==================================================================
"""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.finding import Remedy
from tailbite.host.explain.phrases import join_words, oldest_first, time_left
from tailbite.host.see.records import Container
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tailbite.core.address import Endpoint
    from tailbite.host.explain.evaluation import Evaluation
    from tailbite.host.see.port import PortUse
    from tailbite.host.see.records import Process, Supervisor

__all__ = [
    "UNLESS_BOUND",
    "destroy_connection",
    "destroy_self_connect",
    "find_holder",
    "guard_client",
    "reserve_port",
    "restart_holders",
    "reuse_address",
    "wait_for_end",
]

UNLESS_BOUND = " (no help if the client binds the port itself)"
_LONGEST = 120  # letters of a command that are worth repeating
_RESTART = {
    "docker": "docker restart {}",
    "podman": "podman restart {}",
    "lxc": "lxc-stop --reboot --name {}",
    "machinectl": "machinectl reboot {}",
    "kubernetes": "crictl stop {}",
}
_STOP = {
    **_RESTART,
    "docker": "docker stop {}",
    "podman": "podman stop {}",
    "lxc": "lxc-stop --name {}",
    "machinectl": "machinectl poweroff {}",
}
_ENTER = {
    "docker": "docker exec {}",
    "podman": "podman exec {}",
    "lxc": "lxc-attach -n {} --",
    "machinectl": "systemd-run --machine={} --wait --pipe --quiet",
    "kubernetes": "crictl exec {}",
}
"""Beginnings of commands that run the rest of it in a container."""
_SUPERVISED = {
    "supervisord": "supervisorctl {verb} {service}",
    "runit": "sv {verb} {service}",
    "s6": "s6-svc {flag} {service}",
    "daemontools": "svc {term} {service}",
    "openrc": "rc-service {service} {verb}",
}
_FORWARDERS = {
    "docker-proxy": "docker ps{}",
    "rootlesskit": "docker ps{}",
    "rootlessport": "podman port --all",
    "pasta": "podman port --all",
    "pasta.avx2": "podman port --all",
}
"""Programs that hold a port for a container, and the command that tells which one."""
_STARTERS = frozenset({"cron", "crond", "atd", "sshd", "sshd-session", "dropbear"})
_LEAVES_CHILDREN = re.compile(r"(?:cron|crond|cronie|atd|sshd?|sshd?@.*|dropbear)\.service")
"""Services of sessions and jobs: a restart leaves these alone (KillMode=process, systemd.kill(5))."""
_MACHINE = re.compile(r"(?:qemu|lxc)-\d+-(.+)")
"""The name that libvirt gives systemd-machined for a machine (virSystemdMakeMachineName)."""
_INITS = ("systemd", "init")
_INIT = 1
_MOST_RESTARTS = 5  # holders, each with its own command


def destroy_self_connect(found: Evaluation, use: PortUse) -> tuple[Remedy, ...]:
    """Return the remedy that destroys a self-connect or its TIME-WAIT, if this kernel can and it frees the port."""
    able = found.abilities
    left = use.socket.state is TcpState.TIME_WAIT
    if left:
        can = able.destroy_time_wait is not False or able.repair
        text = "end the TIME-WAIT now instead of waiting"
    else:
        # Outside what the kernel chooses from, the program bound the port itself, and keeps it without a connection.
        can = able.destroy is not False and found.can_have_been_chosen
        text = "destroy the connection: the program gets ECONNABORTED, and the port is free unless it was bound"
    if not can:
        return ()
    command = found.shot.namespace.tailbite(f"fix --kill {found.port} --apply")
    return (Remedy(text, (command,), needs_root=True),)


def destroy_connection(found: Evaluation, uses: Sequence[PortUse]) -> tuple[Remedy, ...]:
    """Return the remedy that destroys connections with ``ss -K``, if this kernel can and it frees the port."""
    left = all(use.socket.state is TcpState.TIME_WAIT for use in uses)
    can = found.abilities.destroy_time_wait if left else found.abilities.destroy
    if can is False or not (left or found.can_have_been_chosen or all(not use.socket.inode for use in uses)):
        return ()
    if left:
        line = f"ss -K -t state time-wait sport = :{found.port}"
    else:
        ends = uses[0].socket.endpoints
        line = f"ss -K -t state all src {_ss_name(ends.local)} dst {_ss_name(ends.remote)}"
    number = f" ({len(uses)} of them: one command each)" if not left and len(uses) > 1 else ""
    owner = "; its owner gets ECONNABORTED" if any(use.socket.inode for use in uses) else ""
    if owner and found.is_reserved_only_now:
        owner += ", and the port is free unless the program bound it"
    text = "end the TIME-WAIT now" if left else f"end the connection{number}{owner}"
    return (Remedy(text, (found.shot.namespace.enter(line),), needs_root=True),)


def reserve_port(found: Evaluation, unless: str = "") -> tuple[Remedy, ...]:
    """Return the remedy that keeps the kernel from choosing the port, if it may choose it now.

    Args:
        found: the port and what holds it.
        unless: the case in which reserving does not help, to be added in parentheses.
    """
    if not found.is_exposed:
        return ()
    available = PortSet.of([found.shot.ephemeral or found.port]) - (found.shot.reserved or PortSet())
    if not available - PortSet.of([found.port]):
        text = "move the service or the ephemeral range: with the port reserved, no source port would be left"
        return (Remedy(text),)
    return (
        Remedy(
            "keep the kernel from choosing the port as a source port; servers may still bind it" + unless,
            (found.shot.namespace.tailbite(f"fix --reserve {found.port} --apply"),),
            needs_root=True,
        ),
    )


def guard_client(found: Evaluation, use: PortUse) -> tuple[Remedy, ...]:
    """Return the remedy for a client that cannot be changed, if it helps: not against its own bind of the port."""
    if found.is_reserved_only_now:
        return (Remedy(f"if it is connected to itself again, make the client stop binding port {found.port}"),)
    if not found.is_exposed:
        return (
            Remedy(
                f"make the client stop binding port {found.port} before it connects: the kernel does not choose "
                "this port, so neither reserving it nor `tailbite run` would help"
            ),
        )
    command = _command_of(use)
    options = found.abilities.run
    if options is None and not (use.owners and use.owners[0].name.startswith("python")):
        return ()
    words = " --in-process" if options is None else options.replace("PORT", str(found.port))
    text = f"start the client so that the kernel cannot choose this port for it{UNLESS_BOUND}"
    return (Remedy(text, (f"tailbite run{words} -- {command}",)),)


def reuse_address() -> Remedy:
    """Return the remedy for connections that a server left."""
    return Remedy("let the server set SO_REUSEADDR before it binds; it helps if the server before had set it too")


def wait_for_end(found: Evaluation, uses: Iterable[PortUse]) -> Remedy:
    """Return the remedy that needs nothing but time."""
    last = max(uses, key=lambda use: use.socket.expires_ms)
    return Remedy(
        f"wait: the last TIME-WAIT ends in {time_left(last)}",
        (f"tailbite wait --free {found.port}",) if found.shot.namespace.is_own else (),
    )


def find_holder(found: Evaluation, uses: Sequence[PortUse]) -> tuple[Remedy, ...]:
    """Return what shows who has sockets open that no visible process has; nothing where no process can have them."""
    if all(use.owners or not use.socket.inode for use in uses):
        return ()
    if found.shot.sees_processes:
        outside = Remedy("run this command outside this container, where root sees the processes of every namespace")
        return (
            *((outside,) if found.shot.in_pid_namespace else ()),
            Remedy(
                "find the Unix sockets with descriptors in flight (scm_fds is not 0): one of them may carry it",
                ("grep -ls 'scm_fds:[[:space:]]*[1-9]' /proc/[0-9]*/fdinfo/*",),
                needs_root=True,
            ),
        )
    if found.shot.as_root:
        return (Remedy("run this command outside this container, where root sees every process"),)
    return (Remedy("run this command as root to see which program holds it", needs_root=True),)


def restart_holders(
    owners: Iterable[Process], *, verb: str = "restart", port: int | None = None
) -> tuple[Remedy, ...]:
    """Return remedies that restart or stop whatever manages the processes: unit, container, or the process itself.

    Args:
        owners: the processes that hold the socket.
        verb: "restart" or "stop".
        port: the port that they hold.
    """
    remedies = [_restart(some, verb, port) for some in _groups(owners, verb, port)]
    if more := remedies[_MOST_RESTARTS:]:
        look = () if port is None else (f"ss -tanp sport = :{port}",)
        return (*remedies[:_MOST_RESTARTS], Remedy(f"and so on, for {len(more)} more that hold it", look))
    return tuple(remedies)


def _groups(owners: Iterable[Process], verb: str, port: int | None) -> Iterable[list[Process]]:
    """Group processes that one command restarts: those of a unit or container, and a server with its workers.

    To end only the server would leave the port to the workers that have its listener too, and a worker that is ended
    alone is started again by its server.
    """
    known = {owner.pid: owner for owner in owners}
    groups: dict[object, list[Process]] = {}
    for owner in oldest_first(known.values()):
        alone = _restart([owner], verb, port)
        is_killed = alone.commands == (f"kill {owner.pid}",)
        groups.setdefault(_family(owner, known) if is_killed else alone.commands or alone, []).append(owner)
    return groups.values()


def _family(owner: Process, known: Mapping[int, Process]) -> tuple[str, str, int]:
    """Return what a process has in common with its relatives: name, user and parent of the eldest that is known."""
    for _ in known:  # at most: a process may have got the number of one that ended
        owner = known.get(owner.parent, owner)
    return owner.name, owner.user, owner.parent


def _restart(owners: Sequence[Process], verb: str, port: int | None) -> Remedy:
    owner, *others = owners
    who = f"{owner}{_since(owner)}{f', and {len(others)} more' if others else ''}"
    if owner.name in _FORWARDERS:
        find = _FORWARDERS[owner.name].format("" if port is None else f" --filter publish={port}")
        return Remedy(
            f"{verb} the container that publishes the port; {who} only {'forward' if others else 'forwards'} it",
            (_as_manager(owner, find),),
        )
    if owner.name in _INITS and (owner.pid == _INIT or (owner.user_unit and not owner.unit)):
        return _stop_socket_unit(owner, who)
    belong = "belong" if others else "belongs"
    if owner.supervisor is not None:
        return _restart_supervised(owner, owner.supervisor, f"{who} {belong}", verb)
    if owner.unit and not _outlives_unit(owner):
        return _restart_unit(owner, f"{who} {belong}", verb)
    if owner.container and not owner.unit:
        return _restart_container(owner, f"{who} {'run' if others else 'runs'}", verb)
    if owner.pid == _INIT:
        return Remedy(f"do not end {who}, which is the first process here: {verb} this container from outside")
    return _end_processes(owner, others, verb)


def _end_processes(owner: Process, others: Sequence[Process], verb: str) -> Remedy:
    """Return the remedy that ends a process and its relatives."""
    are_workers = any(one.parent == owner.pid for one in others)
    more, its, it = "", "its", "it"
    if are_workers:
        more = f", and {_processes(len(others))} that it started"
    elif others:
        more, its, it = f", and {_processes(len(others))} like it", "their", "them"
    parent = ""
    if owner.parent > _INIT and owner.parent_name:
        parent = f"; {its} parent {owner.parent_name} (pid {owner.parent}) may start {it} again"
    line = " ".join(["kill", *(str(one.pid) for one in (owner, *others))])
    return Remedy(f"{verb} {owner}{_since(owner)}{more}{parent}", (line,))


def _processes(number: int) -> str:
    return f"{number} process{'' if number == 1 else 'es'}"


def _outlives_unit(owner: Process) -> bool:
    """Tell whether a restart of the unit leaves the process: a job of cron, a session of sshd."""
    is_job = owner.name not in _STARTERS or owner.parent_name in _STARTERS
    return is_job and _LEAVES_CHILDREN.fullmatch(owner.unit) is not None


def _stop_socket_unit(owner: Process, who: str) -> Remedy:
    """Return the remedy against systemd, which listens for units that it starts when a client comes."""
    line = _as_manager(owner, f"{_systemctl(owner)} list-sockets")
    return Remedy(f"do not end {who}: it holds the port for a socket unit; stop that unit", (line,))


def _restart_unit(owner: Process, who: str, verb: str) -> Remedy:
    where = f" in container {owner.container}" if owner.within else ""
    line = f"{_entering(owner.within)}{_systemctl(owner)} {verb} {shlex.quote(owner.unit)}"
    needs_root = not owner.user_unit or bool(owner.manager or owner.within)
    return Remedy(f"{verb} {owner.unit}{where}, which {who} to", (line,), needs_root)


def _entering(within: Iterable[Container]) -> str:
    """Return the beginning of a command that runs the rest of it in containers, with a blank behind it."""
    return "".join(f"{_ENTER[one.runtime].format(shlex.quote(one.name))} " for one in within if one.runtime in _ENTER)


def _restart_supervised(owner: Process, supervisor: Supervisor, who: str, verb: str) -> Remedy:
    line = _SUPERVISED[supervisor.name].format(
        verb=verb,
        service=shlex.quote(supervisor.service),
        flag="-d" if verb == "stop" else "-r",
        term="-d" if verb == "stop" else "-t",  # SIGTERM: supervise starts it again
    )
    around = (
        owner.within
        if owner.unit or not owner.container
        else (*owner.within, Container(owner.container, owner.runtime))
    )
    return Remedy(
        f"{verb} {supervisor.service}, a service of {supervisor.name} that {who} to",
        (f"{_entering(around)}{line}",),
        needs_root=True,
    )


def _systemctl(owner: Process) -> str:
    if not owner.user_unit:
        return "systemctl"
    return f"systemctl --user --machine={owner.manager}@" if owner.manager else "systemctl --user"


def _restart_container(owner: Process, who: str, verb: str) -> Remedy:
    if owner.runtime == "machinectl" and (machine := _MACHINE.fullmatch(owner.container)) is not None:
        name = shlex.quote(machine[1])
        lines = (f"virsh shutdown {name}", *((f"virsh start {name}",) if verb == "restart" else ()))
        return Remedy(f"{verb} virtual machine {machine[1]}, in which {who}", lines, not owner.user_unit)
    template = (_STOP if verb == "stop" else _RESTART).get(owner.runtime, "")
    line = f"{_entering(owner.within)}{template.format(shlex.quote(owner.container))}" if template else ""
    again = "; the kubelet starts it again unless its pod is deleted" if owner.runtime == "kubernetes" else ""
    return Remedy(
        f"{verb} container {owner.container}, in which {who}{again}",
        (_as_manager(owner, line),) if line else (),
        not owner.user_unit or bool(owner.manager),
    )


def _as_manager(owner: Process, line: str) -> str:
    """Return a command that asks a user's own systemd or container engine, which root's own tools do not know."""
    if not owner.manager or line.startswith("systemctl"):
        return line
    # The engines of another user are found by the path of that user's runtime directory.
    directory = f"XDG_RUNTIME_DIR=/run/user/$(id -u {owner.manager})"
    return f"runuser -u {owner.manager} -- env {directory} {line}"


def _since(owner: Process) -> str:
    parts = [f"of user {owner.user}"] if owner.user else []
    if owner.started is not None:
        then = time.localtime(owner.started)
        today = then[:3] == time.localtime()[:3]
        parts.append(f"running since {time.strftime('%H:%M:%S' if today else '%Y-%m-%d %H:%M', then)}")
    return f" {join_words([', '.join(parts)])}" if parts else ""


def _command_of(use: PortUse) -> str:
    command = use.owners[0].command if use.owners else ""
    # Quotation marks at both ends: a title that the program wrote over its arguments, 'nginx: worker process'.
    is_title = command.startswith("'") and command.find("'", 1) == len(command) - 1
    is_usable = command and len(command) <= _LONGEST and command.isprintable() and not is_title
    return command if is_usable else "PROGRAM ..."


def _ss_name(end: Endpoint) -> str:
    return f"[{end.host}]:{end.port}" if ":" in end.host else f"{end.host}:{end.port}"
