"""Several audits at a time; each has namespaces of its own, so they do not meet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from tailbite.audit.judge import judge
from tailbite.audit.verdict import Verdict, Word
from tailbite.audit.warden import Audit
from tailbite.errors import NamespaceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from tailbite.audit.client import Client
    from tailbite.audit.records import Limits, Observation
    from tailbite.audit.run import Evidence

__all__ = ["audit_many"]


def audit_many(
    clients: Sequence[Client],
    limits: Limits,
    *,
    jobs: int,
    keep: Callable[[Client, Observation, Evidence], None] | None = None,
    progress: Callable[[Client, Observation], None] | None = None,
) -> Generator[Verdict, None, None]:
    """Yield the verdicts as they come. Left early, it ends the running audits and starts no more.

    A client that could not be watched gets the verdict *inconclusive*, with the reason; the others go on.

    Args:
        clients: the clients to audit.
        limits: how long to watch each.
        jobs: how many at a time.
        keep: is called with each observation and its evidence, from several threads.
        progress: is called with each observation, from several threads.

    Raises:
        NamespaceUnavailable: this system does not allow the private namespaces.
    """
    running: set[Audit] = set()
    lock = threading.Lock()
    stopped = False

    def audit_one(client: Client) -> Verdict:
        with lock:
            if stopped:
                raise InterruptedError("the audit was stopped")
            current = Audit(client, limits, with_packets=keep is not None)
            running.add(current)
        seen = []
        try:
            with current:
                for observation, evidence in current.observations():
                    seen.append(observation)
                    if keep is not None and evidence is not None:
                        keep(client, observation, evidence)
                    if progress is not None:
                        progress(client, observation)
        except NamespaceUnavailable:
            raise
        except OSError as error:
            reason = f"the client could not be watched: {error}"
            return Verdict(
                client=client.name,
                version=client.version,
                verdict=Word.INCONCLUSIVE,
                reason=reason,
                observations=tuple(seen),
                command=client.command,
                groups=client.groups,
            )
        finally:
            with lock:
                running.discard(current)
        return judge(client, seen, recovery_asked=limits.recovery)

    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="tailbite-audit") as pool:
        try:
            for future in as_completed([pool.submit(audit_one, client) for client in clients]):
                yield future.result()
        finally:
            with lock:
                stopped = True
                for audit in running:
                    audit.stop()
            pool.shutdown(cancel_futures=True)
