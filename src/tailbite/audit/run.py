"""One audit, inside its namespaces: the client in one trap after another, and what was seen of it.

Everything here runs in the watcher, a process of one thread that :mod:`tailbite.audit.warden` starts for one audit.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.audit import trap
from tailbite.audit.jail import Jail
from tailbite.audit.live import BUILD, Live, Setting, write_files
from tailbite.audit.observe import Watch
from tailbite.audit.records import UNSUPPORTED_STATUS, BindAttempt, Client, Limits, Observation, Output, Phase, Stdin
from tailbite.audit.recover import measure_recovery
from tailbite.kernel import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailbite.kernel.packets import Packet

__all__ = ["Evidence", "run_audit", "run_phase"]

_LONGEST_PREPARATION = 180.0
"""Seconds a compiler may take."""

_SHORTEST_ECHO = 4
"""Bytes: less may stand in any output by chance."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What ``--evidence`` keeps of a phase beside the observation.

    Attributes:
        packets: what the capture kept, in order.
        sysctls: the namespace's settings.
    """

    packets: tuple[Packet, ...]
    sysctls: Mapping[str, str]


def run_audit(
    client: Client, limits: Limits, scratch: Path, keep: Callable[[Observation, Evidence], None]
) -> list[Observation]:
    """Run the client in all traps it needs, and return what was seen.

    Args:
        client: the client.
        limits: how long to watch.
        scratch: an empty folder for its files.
        keep: is called with each observation as soon as it is there.

    Raises:
        OSError: namespaces, packet sockets or sock_diag are not to be had.
    """
    if not limits.quick:
        own = client.limits
        limits = replace(
            limits,
            dial=own.get("dial", limits.dial),
            watch=own.get("watch", limits.watch),
            hold=own.get("hold", limits.hold),
            total=own.get("total", limits.total),
        )
    if client.prepare:
        _prepare(client, scratch)
    seen: list[Observation] = []
    while (
        where := trap.next_phase(seen, quick=limits.quick, has_ipv6=Path("/proc/net/if_inet6").exists())
    ) is not None:
        observation, evidence = run_phase(client, where, limits, scratch)
        seen.append(observation)
        keep(observation, evidence)
        if observation.trouble or observation.exit_status == UNSUPPORTED_STATUS:
            return seen
    if limits.patience is not None:
        where = next((o.phase for o in seen if o.self_connects and o.phase.is_certain), seen[0].phase)
        where = replace(where, name=f"{where.name}-recovery")
        observation, evidence = run_phase(client, where, limits, scratch, recover=True)
        seen.append(observation)
        keep(observation, evidence)
    return seen


def _prepare(client: Client, scratch: Path) -> None:
    """Run the command that comes before the first trap; compilers may use their caches.

    Raises:
        OSError: it failed.
    """
    folder = scratch / BUILD
    write_files(folder, client.files)
    command = [part.replace("{build}", str(folder)) for part in client.prepare]
    with Jail(command, environment={**os.environ, **client.environment}, folder=folder, stdin=Stdin.EMPTY) as jail:
        end = time.monotonic() + _LONGEST_PREPARATION
        while jail.exit_status is None and time.monotonic() < end:
            select.select(jail.descriptors(), [], [], 0.1)
            jail.pump()
    if jail.exit_status != 0:
        said = jail.trouble or jail.output.output().text.strip() or "it took too long"
        raise OSError(f"its preparation failed: {said[-300:]}")


def run_phase(
    client: Client, where: Phase, limits: Limits, scratch: Path, *, recover: bool = False
) -> tuple[Observation, Evidence]:
    """Run the client once in one trap, in a network namespace of its own; nothing of it is left afterwards.

    Raises:
        OSError: see :func:`run_audit`.
    """
    with namespace.fresh_network():
        sysctls = trap.pin(where)
        if not trap.control(where):
            trouble = f"a plain client did not connect to itself on {where.host} in this trap"
            return Observation(where, control=False, duration=0.0, trouble=trouble), Evidence((), sysctls)
        setting = Setting(client, where, scratch / where.name, sys.executable)
        with Watch(where.port) as watch:
            with Live(setting, watch) as live:
                observation = _watch(live, where, limits, setting, recover)
            evidence = Evidence(tuple(watch.packets), sysctls)
        # One that did connect to itself has shown that the trap springs.
        if not observation.self_connects and not recover and not trap.control(where):
            trouble = f"the trap on {where.host} no longer sprang for a plain client after this one had run"
            observation = replace(observation, control=False, trouble=trouble)
        return observation, evidence


def _watch(live: Live, where: Phase, limits: Limits, setting: Setting, recover: bool) -> Observation:
    watch, recovery = live.watch, None
    if recover:
        server = Setting(
            replace(setting.client, command=limits.server or (), files={}),
            where,
            setting.folder / "server",
            sys.executable,
        )
        recovery = measure_recovery(live, where, limits, server)
    else:
        while not live.is_over(limits):
            live.tick()
    held = watch.last_look()
    duration = watch.now
    bind = BindAttempt(
        watch.now,
        **{
            name: all(trap.server_can_bind(host, where.port, reuse=reuse) for host in where.addresses)
            for name, reuse in (("plain", False), ("reuse", True))
        },
    )
    counted = watch.counted()
    output, driven = live.last_output()
    seen = watch.self_connects
    return Observation(
        phase=where,
        control=True,
        duration=duration,
        dials=seen.dials,
        dialled=tuple(seen.dialled),
        self_connects=seen.found,
        counted=counted,
        lost_packets=watch.lost,
        states=watch.timeline.spans(duration),
        held_at_end=held,
        bind=None if recover else bind,
        exit_status=live.jail.exit_status,
        has_exited_at=live.exited_at,
        echoed=_came_out(bytes(seen.written), live.jail.answers.output()),
        succeeded=_matches(setting.client.success, output, driven),
        failed=_matches(setting.client.failure, output, driven),
        output=_joined(output, driven),
        recovery=recovery,
        trouble=live.jail.trouble,
    )


def _came_out(written: bytes, answers: Output) -> bool:
    """Tell whether a line of what it wrote to itself stands in what it printed as an answer."""
    printed = answers.head + answers.tail
    lines = {line.strip() for line in written.splitlines()}
    return any(line in printed for line in lines if len(line) >= _SHORTEST_ECHO)


def _matches(pattern: str | None, *outputs: Output) -> bool:
    return pattern is not None and any(re.search(pattern, output.text, re.MULTILINE) for output in outputs)


def _joined(own: Output, driven: Output) -> Output:
    """Put the driver's output after the client's."""
    if not driven.total:
        return own
    mark = b"\n--- driver ---\n"
    return Output(own.head + own.tail, mark + driven.head + driven.tail, own.total + len(mark) + driven.total)
