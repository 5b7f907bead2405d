"""The warden: the process one audit runs in, and the handle by which the caller starts and ends it.

Each audit has a process of its own: entering a user namespace takes a process of one thread, a process cannot leave
it again, and several audits may run at once. The job goes in and the observations come out as pickles, between two
ends of the same program; no client has these pipes.

The warden makes the scratch folder, waits, and removes everything at the end: when the audit is done, when it has
to stop, and when the caller died, even by SIGKILL. Its child, the observer, runs the client; it may be killed at any
point, since nothing depends on its tidying up. All processes of an audit: :mod:`tailbite.audit.run`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tailbite._itself import python_module
from tailbite.audit.judge import judge
from tailbite.audit.records import Limits, Observation
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel import namespace
from tailbite.kernel.prctl import become_subreaper, die_with_parent, signal_when_parent_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.audit.client import Client
    from tailbite.audit.run import Evidence
    from tailbite.audit.verdict import Verdict

__all__ = ["Audit", "audit", "be_the_warden"]

_WAITED_FOR: Final = frozenset({signal.SIGTERM, signal.SIGCHLD})


@dataclass(frozen=True, slots=True)
class _Job:
    caller: int
    client: Client
    limits: Limits
    scratch: Path
    with_packets: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    observation: Observation
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


def audit(
    client: Client,
    limits: Limits | None = None,
    *,
    keep: Callable[[Observation, Evidence], None] | None = None,
    progress: Callable[[Observation], None] | None = None,
) -> Verdict:
    """Run a client in the traps and return the verdict. Nothing of the client is left, interrupted or not.

    Args:
        client: the client.
        limits: how long to watch; the defaults if not given.
        keep: is called with each observation and its evidence (packets and sysctls).
        progress: is called with each observation.

    Raises:
        NamespaceUnavailable: this system does not allow the private namespaces.
        OSError: the client cannot be watched here: no packet socket, no sock_diag.
    """
    limits = limits or Limits()
    with Audit(client, limits, with_packets=keep is not None) as running:
        seen = []
        for observation, evidence in running.observations():
            seen.append(observation)
            if keep is not None and evidence is not None:
                keep(observation, evidence)
            if progress is not None:
                progress(observation)
    return judge(client, seen, recovery_asked=limits.recovery)


class Audit:
    """Handle of a running audit. A context manager: left early, it ends the client and everything it started.

    Args:
        client: the client.
        limits: how long to watch.
        with_packets: True to hand out the packets, too.
    """

    def __init__(self, client: Client, limits: Limits, *, with_packets: bool = False) -> None:
        self._scratch = Path(tempfile.gettempdir()) / f"tailbite-audit-{secrets.token_hex(8)}"
        self._job = _Job(os.getpid(), client, limits, self._scratch, with_packets)
        self._process = subprocess.Popen(
            python_module("tailbite.audit"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on the terminal is the caller's
        )

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observations(self) -> Iterator[tuple[Observation, Evidence | None]]:
        """Yield the observations, phase by phase.

        Raises:
            NamespaceUnavailable: no private namespaces on this system.
            OSError: the client cannot be watched here, or the warden was killed.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump(self._job, stdin)
        stdin.close()
        while True:
            try:
                message: Any = pickle.load(stdout)
            except (EOFError, pickle.UnpicklingError):
                raise OSError("the process of this audit was killed") from None
            if message is None:
                return
            if isinstance(message, _Failed):
                raise message.error
            yield message.observation, message.evidence

    def stop(self) -> None:
        """Request the end of the audit, from any thread; :meth:`observations` raises then."""
        self._process.terminate()

    def close(self) -> None:
        """End the audit, and wait until nothing is left of the client: neither process, nor namespace, nor file."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            # Every process of the audit but the client holds the other end: at the end of file they are gone, and
            # the client with them.
            with contextlib.suppress(OSError):
                while process.stdout.read(1 << 16):
                    pass
            process.stdout.close()
        shutil.rmtree(self._scratch, ignore_errors=True)  # nothing, unless somebody killed the warden


def be_the_warden() -> NoReturn:
    """Read the job from stdin, run it in the observer, and remove all that it leaves."""
    # First of all: from here on signals are only received by sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller's SIG_IGN would be inherited, and waitpid would fail
    signal_when_parent_ends(signal.SIGTERM)
    try:
        job = pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):
        os._exit(0)  # the caller has ended, or changed its mind
    if os.getppid() != job.caller:
        os._exit(0)  # it died before die_with_parent() above
    sys.stdin.close()
    os.open(os.devnull, os.O_RDONLY)  # 0 again, so that no pipe of the jail gets that number
    try:
        job.scratch.mkdir(mode=0o700)
        become_subreaper()
        warden = os.getpid()
        observer = os.fork()
        if observer == 0:
            _observe(job, warden)
        while os.waitpid(observer, os.WNOHANG) == (0, 0):
            if signal.sigwait(_WAITED_FOR) is signal.SIGTERM:
                os.kill(observer, signal.SIGKILL)  # the client dies with it: see jail
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
    except OSError as error:
        _send(_Failed(error))
    finally:
        shutil.rmtree(job.scratch, ignore_errors=True)
        os._exit(0)


def _observe(job: _Job, warden: int) -> NoReturn:
    """Run the audit, and write the observations to stdout."""
    from tailbite.audit.run import run_audit

    def send(observation: Observation, evidence: Evidence) -> None:
        _send(_Seen(observation, evidence if job.with_packets else None))

    try:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)
        if os.getppid() != warden:
            os._exit(0)
        namespace.enter_private_network(keep_user=True)
        namespace.give_child_networks_small_tables()
        run_audit(job.client, job.limits, job.scratch, send)
        _send(None)
    except BrokenPipeError:
        pass
    except (OSError, NamespaceUnavailable, ValueError) as error:
        _send(_Failed(error))
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)  # all is sent; the interpreter has nothing else to tidy up


def _send(message: object) -> None:
    pickle.dump(message, sys.stdout.buffer)
    sys.stdout.buffer.flush()
