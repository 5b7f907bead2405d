"""One audit, inside its namespaces: the client in one trap after another, and the observations of it.

The processes of an audit, each the parent of the next::

    caller     your process: ``tailbite audit``, pytest, or a program that calls ``tailbite.audit.audit``
    warden     ``python -m tailbite.audit`` (warden.py): makes the scratch folder, and removes all at the end
    observer   this module: enters the private network, arms the traps, records; of one thread
    guard      (jail.py) makes the client's pid namespace, and ends it when it is killed
    init       (jail.py) pid 1 there: starts the client, reaps its orphans
    client     the program under audit, with whatever it starts; a driver has a guard and init of its own

Whichever of them is killed, all below it end, and the warden or the caller removes the files.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from tailbite.audit import trap
from tailbite.audit.client import Client, Stdin
from tailbite.audit.jail import Jail
from tailbite.audit.observe import Recorder, cut
from tailbite.audit.records import (
    COMEBACKS,
    UNSUPPORTED_STATUS,
    BindAttempt,
    Claim,
    Limits,
    Observation,
    Output,
    Phase,
)
from tailbite.audit.recover import measure_recovery
from tailbite.audit.running import BUILD, RunningClient, Workspace, write_files
from tailbite.kernel import namespace
from tailbite.kernel.sock_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tailbite.kernel.packets import Packet

__all__ = ["Evidence", "run_audit", "run_phase"]

_LONGEST_PREPARATION = 600.0
"""Seconds a compiler may take."""

_MOST_CLAIMS = 50

_SHORTEST_ECHO = 4
"""Bytes: less may stand in any output by chance."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of a phase beside the observation, for ``--evidence``.

    Attributes:
        packets: the packets that the capture kept, in order.
        sysctls: the namespace's settings.
    """

    packets: tuple[Packet, ...]
    sysctls: Mapping[str, str]


def run_audit(
    client: Client, limits: Limits, scratch: Path, keep: Callable[[Observation, Evidence], None]
) -> list[Observation]:
    """Run the client in all traps it needs, and return the observations.

    A trouble in one phase does not end the others; it is reported for that phase only.

    Args:
        client: the client.
        limits: how long to watch; the client's own limits count where they are longer.
        scratch: an empty folder for its files.
        keep: is called with each observation as soon as it is there.

    Raises:
        OSError: this system gives no namespaces, packet sockets or sock_diag.
    """
    limits = limits.lengthened(client.limits)
    if client.prepare:
        _prepare(client, scratch)
    seen: list[Observation] = []
    has_ipv6 = trap.has_ipv6()
    while (where := trap.next_phase(seen, quick=limits.quick, has_ipv6=has_ipv6)) is not None:
        long_enough = replace(limits, watch=max(limits.watch, min(_longest_exit(seen), limits.patience)))
        observation, evidence = run_phase(client, where, long_enough, scratch, must_come_back=_could_pass(seen))
        seen.append(observation)
        keep(observation, evidence)
        if observation.exit_status == UNSUPPORTED_STATUS and not observation.dials:
            return seen
    if limits.recovery and (where := _where_to_recover(seen)) is not None:
        observation, evidence = run_phase(client, where, limits, scratch, recover=True)
        seen.append(observation)
        keep(observation, evidence)
    return seen


def _could_pass(seen: list[Observation]) -> bool:
    """Tell whether it could still be *immune* or *aborts*: nothing worse was seen, and every client came back."""
    return not any(
        not all(hit.is_aborted for hit in o.self_connects)
        or (o.had_to_come_back and o.dials and not o.is_gone and o.rounds < COMEBACKS)
        for o in seen
    )


def _longest_exit(seen: list[Observation]) -> float:
    """Return for how long a client that is refused must be watched, to compare its exit with those on itself."""
    exits = [
        o.has_exited_at - o.dialled[0] for o in seen if o.self_connects and o.has_exited_at is not None and o.dialled
    ]
    return 1.5 * max(exits, default=0.0) + 0.25


def _where_to_recover(seen: list[Observation]) -> Phase | None:
    """Choose the trap in which the client did harm, or one in which it dialled; None if it dialled in none."""
    certain = [o.phase for o in seen if o.self_connects and o.phase.is_certain]
    where = next(iter(certain), next((o.phase for o in seen if o.dials), None))
    return where and replace(where, name=f"{where.name}-recovery")


def _prepare(client: Client, scratch: Path) -> None:
    """Run the command that comes before the first trap; compilers may use their caches, but no other folder of ours.

    Raises:
        OSError: it failed.
    """
    folder = scratch / BUILD
    write_files(folder, client.files)
    command = [part.replace("{build}", str(folder)) for part in client.prepare]
    with Jail(
        command,
        environment={**os.environ, "TMPDIR": str(folder), **client.environment},
        folder=folder,
        stdin=Stdin.EMPTY,
    ) as jail:
        end = time.monotonic() + _LONGEST_PREPARATION
        while jail.exit_status is None and time.monotonic() < end:
            select.select(jail.descriptors(), [], [], 0.1)
            jail.pump()
    if jail.exit_status != 0:
        said = jail.trouble or jail.output.output().text.strip() or "it took too long"
        raise OSError(f"the client's preparation failed: {said[-300:]}")


def run_phase(
    client: Client,
    where: Phase,
    limits: Limits,
    scratch: Path,
    *,
    recover: bool = False,
    must_come_back: bool = False,
) -> tuple[Observation, Evidence]:
    """Run the client once in one trap, in a network namespace of its own; nothing of it is left afterwards.

    Raises:
        OSError: see :func:`run_audit`.
    """
    with namespace.fresh_network(), trap.occupy(where):
        sysctls = trap.pin(where)
        if not trap.control(where):
            trouble = f"a plain client did not connect to itself on {where.host} in this trap"
            return Observation(where, control=False, duration=0.0, trouble=trouble), Evidence((), sysctls)
        workspace = Workspace(client, where, scratch / where.folder, sys.executable)
        with Recorder(where.port, where.ephemeral) as recorder:
            with RunningClient(workspace, recorder) as running:
                if recover:
                    observation = _recover(running, where, limits, workspace)
                else:
                    observation = _watch(running, where, limits, must_come_back)
                # The capture stays open until the last process is gone: whatever it still does counts.
                ended = recorder.now
                running.end()
                recorder.read_all_packets()
            observation = _completed(observation, recorder, ended)
            evidence = Evidence(tuple(recorder.packets), sysctls)
        # A client that did connect to itself has shown that the trap works; one that listened on P broke it.
        proven = observation.self_connects or observation.served or recover
        if not proven and not trap.control(where):
            trouble = f"a plain client no longer connected to itself on {where.host} after this one had run"
            observation = replace(observation, control=False, trouble=trouble)
        return observation, evidence


def _recover(running: RunningClient, where: Phase, limits: Limits, workspace: Workspace) -> Observation:
    serving = replace(workspace.client, command=limits.server or (), files={}, image=None)
    server = Workspace(serving, where, workspace.folder / "server", sys.executable)
    recovery = measure_recovery(running, where, limits, server)
    return replace(_observed(running, where, limits), recovery=recovery, bind=None)


def _watch(running: RunningClient, where: Phase, limits: Limits, must_come_back: bool) -> Observation:
    while not running.is_over(limits, where, must_come_back=must_come_back):
        running.tick()
    bind = BindAttempt(
        running.recorder.now,
        **{
            name: all(trap.server_can_bind(host, where.port, reuse=reuse) for host in where.addresses)
            for name, reuse in (("plain", False), ("reuse", True))
        },
    )
    return replace(_observed(running, where, limits), bind=bind, had_to_come_back=must_come_back)


def _observed(running: RunningClient, where: Phase, limits: Limits) -> Observation:
    """Return the observation of the client as it is now."""
    recorder, client = running.recorder, running.client
    held = any(found.is_self_connected and found.state is TcpState.ESTABLISHED for found in recorder.poll())
    duration = recorder.now
    output, driven = running.last_output()
    seen = recorder.self_connects
    return Observation(
        phase=where,
        control=True,
        duration=duration,
        watched_hold=limits.hold,
        rounds=seen.rounds,
        served=seen.answered is not None,
        crowded=recorder.crowded_since is not None,
        states=recorder.timeline.spans(duration),
        held_at_end=held,
        exit_status=running.jail.exit_status,
        has_exited_at=running.exited_at,
        was_single=running.jail.was_single,
        is_gone=running.is_gone,
        echoed=_is_echoed(bytes(seen.written), running.jail.answers.output()),
        claims=_claims(client, output, driven),
        output=_joined(output, driven),
        trouble=running.jail.trouble,
    )


def _completed(observation: Observation, recorder: Recorder, ended: float) -> Observation:
    """Add the dials and self-connects up to the end of the client; an end that the audit caused does not count."""
    seen = recorder.self_connects
    waiting = any(
        span.state == "TIME-WAIT to itself" and span.end >= observation.duration for span in observation.states
    )
    hits = cut(seen.established, ended, polled=observation.duration, held=observation.held_at_end, time_wait=waiting)
    return replace(
        observation,
        duration=ended,
        dials=seen.dials,
        dialled=tuple(seen.dialled),
        self_connects=hits,
        counted=recorder.counted(),
        lost_packets=recorder.lost,
    )


def _is_echoed(written: bytes, answers: Output) -> bool:
    """Tell whether a line that the client wrote to itself is a whole line of its stdout.

    An error message that quotes the line does not count: the client then knows that it is not an answer.
    """
    sent = {line.strip() for line in written.splitlines()}
    printed = {line.strip() for line in (answers.head + b"\n" + answers.tail).splitlines()}
    return any(len(line) >= _SHORTEST_ECHO for line in sent & printed)


def _claims(client: Client, *outputs: Output) -> tuple[Claim, ...]:
    """Return the first lines that claim a connection or deny one, in order; the client's before the driver's."""
    found: list[Claim] = []
    for output in outputs:
        text = output.text
        matches = [
            (match.start(), connected)
            for pattern, connected in ((client.failure, False), (client.success, True))
            if pattern
            for match in islice(re.finditer(pattern, text, re.MULTILINE), _MOST_CLAIMS)
        ]
        found += [Claim(connected, _line_at(text, start)) for start, connected in sorted(matches)]
    return tuple(found[:_MOST_CLAIMS])


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    return text[start : start + 200].partition("\n")[0].strip()


def _joined(own: Output, driven: Output) -> Output:
    """Put the driver's output after the client's."""
    if not driven.total:
        return own
    mark = b"\n--- driver ---\n"
    return Output(own.head + own.tail, mark + driven.head + driven.tail, own.total + len(mark) + driven.total)
