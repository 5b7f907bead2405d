"""The jail: the client is started in a pid namespace of its own, and ended with everything it ever started.

A client may fork, daemonise, ignore signals, move to another session and never end. The kernel has one means
against all of that: when the first process of a pid namespace is killed, everything in it is killed
(pid_namespaces(7)). What outlives its processes, System V segments, semaphores and message queues, goes with an IPC
namespace (ipc_namespaces(7)), and the files in /dev/shm with a mount. So the chain is::

    observer (this process)  ->  guard (makes the namespace)  ->  init, pid 1 (reaps)  ->  the client

Each dies with the one before it (PR_SET_PDEATHSIG), so nothing is left when the observer is killed either. All
processes of an audit: :mod:`tailbite.audit.run`.

The caller must have one thread, and the privilege that :func:`tailbite.kernel.namespace.enter_private_network` gives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from tailbite.audit.client import Stdin
from tailbite.audit.jail_root import enter_root, mount_own
from tailbite.audit.records import UNSUPPORTED_STATUS, Output
from tailbite.guards.program.exec import InheritedSignals, become
from tailbite.kernel.executable import explain_failure
from tailbite.kernel.namespace import unshare
from tailbite.kernel.prctl import become_subreaper, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Jail", "OutputBuffer"]

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWPID: Final = 0x20000000

_KEEP = 64 * 1024
_READ = 256 * 1024

# Messages of init over the pipe: kind and number.
_NEWS: Final = struct.Struct("=ci")
_PID, _SINGLE, _EXITED, _EMPTY, _FAILED = b"p", b"s", b"x", b"e", b"f"


class OutputBuffer:
    """The first and the last 64 KiB of a stream of any length, and its length."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._total += len(data)
        room = _KEEP - len(self._head)
        self._head += data[:room]
        self._tail += data[room:][-_KEEP:]
        if len(self._tail) > _KEEP:
            del self._tail[:-_KEEP]

    def output(self) -> Output:
        """Return the bytes that are kept."""
        return Output(bytes(self._head), bytes(self._tail), self._total)


class Jail:
    """A running client. A context manager: at its end nothing of the client is left.

    Args:
        command: program and arguments.
        environment: all of its environment.
        folder: where it runs; None for the working directory of this process.
        stdin: its standard input.
        root: the folder that becomes its root, such as an unpacked image; None for this system's.
        user: ``user`` or ``user:group`` of that root's /etc/passwd, or numbers; "" for the user as it is.

    Attributes:
        exit_status: the client's; negative for a signal; None while it runs.
        was_single: True if the client has exited and had started no other process, so that its exit status is
            that of the process that held its connections.
        is_empty: True when neither the client nor anything it started is left.
        output: stdout and stderr, in the order they came.
        answers: stdout alone.

    Raises:
        OSError: this system gives no pid namespace.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path | None,
        stdin: Stdin = Stdin.SILENT,
        root: str | None = None,
        user: str = "",
    ) -> None:
        self.exit_status: int | None = None
        self.was_single = False
        self.is_empty = False
        self._failed: int | None = None
        self.output = OutputBuffer()
        self.answers = OutputBuffer()
        self._init = 0
        self._command = command
        self._open: list[int] = []
        try:
            self._news, news = self._pipe()
            self._stdout, stdout = self._pipe()
            self._stderr, stderr = self._pipe()
            if stdin is Stdin.SILENT:
                # The other end is kept open here, so the client never reads an end of file.
                theirs, self._stdin = self._pipe()
            else:
                theirs = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                self._open.append(theirs)
            become_subreaper()
            observer = os.getpid()
            self._guard = os.fork()
            if self._guard == 0:
                _guard_namespace(
                    observer,
                    _Start(news, (theirs, stdout, stderr), tuple(command), dict(environment), folder, root, user),
                )
        except BaseException:
            self._close()
            raise
        for ours in (news, stdout, stderr, theirs):
            self._open.remove(ours)
            os.close(ours)
        for ours in (self._news, self._stdout, self._stderr):
            os.set_blocking(ours, False)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open += ends
        return ends

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def trouble(self) -> str | None:
        """One sentence if the client could not be started; its own process wrote the reason where its output goes."""
        if self._failed is None:
            return None
        return self.output.output().text.strip() or f"cannot run {self._command[0]}: {os.strerror(self._failed)}"

    def descriptors(self) -> list[int]:
        """Return the descriptors to wait for: readable when there is output or news."""
        return [end for end in (self._news, self._stdout, self._stderr) if end in self._open]

    def pump(self) -> None:
        """Take output and news that have come; never waits, and never takes long however much there is."""
        for end in (self._stdout, self._stderr):
            data = self._read(end, _READ)
            self.output.feed(data)
            if end == self._stdout:
                self.answers.feed(data)
        news = self._read(self._news, _NEWS.size * 64)
        for kind, number in _NEWS.iter_unpack(news[: len(news) // _NEWS.size * _NEWS.size]):
            if kind == _PID:
                self._init = number
            elif kind == _SINGLE:
                self.was_single = True
            elif kind == _EXITED:
                self.exit_status = number
            elif kind == _EMPTY:
                self.is_empty = True
            else:
                self._failed = number

    def _read(self, end: int, size: int) -> bytes:
        if end not in self._open:
            return b""
        try:
            data = os.read(end, size)
        except BlockingIOError:
            return b""
        if not data:  # no process has the other end any longer
            self._open.remove(end)
            os.close(end)
        return data

    def end(self) -> None:
        """Kill all processes of the client, and wait until they are gone."""
        if self._guard:
            # The guard's death kills init, and init's death everything else.
            os.kill(self._guard, signal.SIGKILL)
            os.waitpid(self._guard, 0)
            self._guard = 0
            self.pump()
        if self._init:
            # This process is the subreaper, so an init that is left is its child now, and the pid cannot be another
            # process's. init ends after the last process of its namespace: until then the client's ports are held.
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self._init, os.WNOHANG) == (0, 0):
                    os.kill(self._init, signal.SIGKILL)
                    os.waitpid(self._init, 0)
            self._init = 0
            self.pump()
        self._close()


def _send_news(news: int, kind: bytes, number: int) -> None:
    with contextlib.suppress(OSError):
        os.write(news, _NEWS.pack(kind, number))


@dataclass(frozen=True, slots=True)
class _Start:
    """The arguments that the chain hands down to the client."""

    news: int
    stdio: tuple[int, int, int]
    command: tuple[str, ...]
    environment: dict[str, str]
    folder: Path | None
    root: str | None = None
    user: str = ""


def _guard_namespace(observer: int, start: _Start) -> NoReturn:
    """Run as the guard: make the namespace, start its init, and stay until killed."""
    try:
        die_with_parent()
        if os.getppid() != observer:
            os._exit(0)  # it died before the request above
        os.setsid()
        unshare(_CLONE_NEWPID | _CLONE_NEWNS)
        with contextlib.suppress(OSError):  # a kernel without CONFIG_IPC_NS
            unshare(_CLONE_NEWIPC)
        guard_lives, init_is_tied = os.pipe()
        init = os.fork()
        if init == 0:
            os.close(guard_lives)
            _reap(start, init_is_tied)
        os.close(init_is_tied)
        _send_news(start.news, _PID, init)
        for end in (start.news, *start.stdio):
            os.close(end)
        os.waitpid(init, 0)
    except OSError as error:
        _send_news(start.news, _FAILED, error.errno or errno.EPERM)
        _send_news(start.news, _EXITED, UNSUPPORTED_STATUS)
        _send_news(start.news, _EMPTY, 0)
    finally:
        os._exit(0)


def _reap(start: _Start, tied: int) -> NoReturn:
    """Run as init: start the client, reap everything, tell when it exits and when nothing is left."""
    try:
        die_with_parent()
        os.write(tied, b".")  # fails if the guard died before the line above
        os.close(tied)
        mount_own(start.root)
        client = os.fork()
        if client == 0:
            _become(start)
        # The client may keep its ends open as long as it likes; init's own copies must not keep them open.
        for end in start.stdio:
            os.close(end)
        _wait_for_all(client, start)
    except ChildProcessError:
        _send_news(start.news, _EMPTY, 0)
    finally:
        os._exit(0)


def _wait_for_all(client: int, start: _Start) -> NoReturn:
    """Reap every process of the namespace, and report the client's exit status.

    Raises:
        ChildProcessError: none is left.
    """
    has_reaped = False
    while True:
        pid = _next_exited()
        was_single = pid == client and not has_reaped and not _had_children(client, start.root or "")
        _, status = os.waitpid(pid, 0)
        if pid == client:
            if was_single and _is_childless():
                _send_news(start.news, _SINGLE, 0)
            _send_news(start.news, _EXITED, os.waitstatus_to_exitcode(status))
        has_reaped = True


def _next_exited() -> int:
    """Wait until a child has exited, and leave it to be reaped."""
    exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    assert exited is not None  # only WNOHANG gives None
    return exited.si_pid


def _had_children(zombie: int, root: str) -> bool:
    """Tell whether a process that has exited had waited for children: their page faults are added to its own."""
    try:
        if os.readlink(f"{root}/proc/self") != str(os.getpid()):  # noqa: PTH115
            return True  # /proc is still another namespace's: a container may not mount its own
        with open(f"{root}/proc/{zombie}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123
            # The name, in brackets, may contain anything; cminflt is the 11th field (proc_pid_stat(5)).
            return int(stat.read().rpartition(")")[2].split()[8]) > 0
    except (OSError, IndexError, ValueError):
        return True  # not known


def _is_childless() -> bool:
    """Tell whether this process has no child. Orphans of a process are init's children before it can be reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _become(start: _Start) -> NoReturn:
    """Become the client: a session of its own, default signals, nothing open but stdin, stdout and stderr."""
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if start.root is not None:
            enter_root(start.root, start.user)
        if start.folder is not None:
            os.chdir(start.folder)
        for wanted, end in enumerate(start.stdio):
            os.dup2(end, wanted)  # the pipes have numbers above 2: the observer has all three
        environment = {os.fsencode(name): os.fsencode(value) for name, value in start.environment.items()}
        failure = become(start.command, environment, InheritedSignals())
        code = failure.errno or errno.ENOENT
        reason = explain_failure(failure.filename or b"", code)
        os.write(2, f"cannot run {start.command[0]}: {reason}\n".encode(errors="surrogateescape"))
        _send_news(start.news, _FAILED, code)
    except OSError as error:
        _send_news(start.news, _FAILED, error.errno or errno.ENOENT)
    finally:
        os._exit(UNSUPPORTED_STATUS)
