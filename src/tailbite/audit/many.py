"""Several audits at a time; each has namespaces of its own, so they do not meet."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from tailbite.audit.judge import judge
from tailbite.audit.verdict import Verdict, Word
from tailbite.audit.warden import Audit
from tailbite.errors import NamespaceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from tailbite.audit.client import Client
    from tailbite.audit.records import Limits, Observation
    from tailbite.audit.run import Evidence

__all__ = ["audit_many"]

_LONGEST_WAIT = 0.5
"""Seconds. A signal that arrives between Python's last look at its signals and the system call that waits for a lock
does not interrupt that call: without a limit, Ctrl-C would be honoured when the next audit is done."""


class _Running:
    """The audits under way. Ended together, none is left, and no other begins."""

    def __init__(self) -> None:
        self._audits: set[Audit] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextlib.contextmanager
    def begun(self, client: Client, limits: Limits, *, with_packets: bool) -> Iterator[Audit]:
        """Begin an audit, and close it in the end.

        Raises:
            InterruptedError: the audits were stopped.
        """
        with self._lock:
            if self._stopped:
                raise InterruptedError("the audit was stopped")
            current = Audit(client, limits, with_packets=with_packets)
            self._audits.add(current)
        try:
            with current:
                yield current
        finally:
            with self._lock:
                self._audits.discard(current)

    def stop(self) -> None:
        """Request the end of every audit."""
        with self._lock:
            self._stopped = True
            for audit in self._audits:
                audit.stop()


def audit_many(
    clients: Sequence[Client],
    limits: Limits,
    *,
    jobs: int,
    keep: Callable[[Client, Observation, Evidence], None] | None = None,
    progress: Callable[[Client, Observation], None] | None = None,
) -> Generator[Verdict, None, None]:
    """Yield the verdicts as they come. If the caller leaves early, the running audits end and no more start.

    A client that could not be watched gets the verdict *inconclusive*, with the reason; the other audits continue.

    Args:
        clients: the clients to audit.
        limits: how long to watch each.
        jobs: how many at a time.
        keep: is called with each observation and its evidence, from several threads.
        progress: is called with each observation, from several threads.

    Raises:
        NamespaceUnavailable: this system does not allow the private namespaces.
    """
    running = _Running()

    def audit_one(client: Client) -> Verdict:
        seen: list[Observation] = []
        try:
            with running.begun(client, limits, with_packets=keep is not None) as current:
                for observation, evidence in current.observations():
                    seen.append(observation)
                    if keep is not None and evidence is not None:
                        keep(client, observation, evidence)
                    if progress is not None:
                        progress(client, observation)
        except NamespaceUnavailable:
            raise
        except OSError as error:
            return _not_watched(client, error, seen)
        return judge(client, seen, recovery_asked=limits.recovery)

    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="tailbite-audit") as pool:
        try:
            pending = {pool.submit(audit_one, client) for client in clients}
            while pending:
                done, pending = wait(pending, timeout=_LONGEST_WAIT, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            running.stop()
            pool.shutdown(cancel_futures=True)


def _not_watched(client: Client, error: OSError, seen: Sequence[Observation]) -> Verdict:
    return Verdict(
        client=client.name,
        version=client.version,
        verdict=Word.INCONCLUSIVE,
        reason=f"the client could not be watched: {error.strerror or error}",
        observations=tuple(seen),
        command=client.command,
        groups=client.groups,
        image=client.image.name if client.image else "",
    )
