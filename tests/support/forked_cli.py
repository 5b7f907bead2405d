"""Command lines under bad circumstances, each in a fork of one process that has loaded everything: milliseconds each.

``forked_commands()`` starts this file as a program, which reads lists of cases from its standard input as lines of
JSON, and prints what came of each. It adopts orphans (PR_SET_CHILD_SUBREAPER), so a process that a command left
behind is noticed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator, Sequence

    # Runs each case, one after the other, in the network namespace of the thread that calls it.
    RunAll = Callable[[Sequence["Case"]], list["Ended"]]

__all__ = ["CIRCUMSTANCES", "Case", "Ended", "forked_commands"]

_LONGEST_S = 300
_PROGRAM = '#!/bin/sh\necho "$0 $*"\n'
_MODULES = (
    *("tailbite.cli.group", "rich.table", "rich.live", "rich.console", "tailbite.verify", "tailbite.readiness.sync"),
    *(f"tailbite.cli.{name}" for name in ("demo", "run", "wait", "scan", "why", "doctor", "fix", "host_guard")),
    *(f"tailbite.cli.{name}" for name in ("watch", "exporter", "check", "audit", "report", "schema", "man")),
    *(f"tailbite.cli.lab.{name}" for name in ("group", "loop", "odds", "parity", "handshake", "cures")),
    *(f"tailbite.cli.show.{name}" for name in ("doctor", "findings", "fix", "scan", "wait", "report")),
    # What they load when they run.
    *("rich._emoji_codes", "rich.progress", "encodings.ascii", "mmap", "multiprocessing.popen_fork"),
    *("tailbite.connect.sync", "tailbite.connect.self_check", "tailbite.readiness.free", "tailbite.cli.schemas"),
    *("tailbite.cli.run_program", "tailbite.guards.program.exec", "tailbite.guards.python.inherit"),
)


@dataclass(frozen=True)
class Case:
    """A command line and its circumstance.

    Attributes:
        line: the words after ``tailbite``.
        circumstance: a name in :data:`CIRCUMSTANCES`.
        signal: a signal that the command gets, if any.
        after: the number of files, sockets and processes that it opens before the signal comes.
    """

    line: list[str]
    circumstance: str = "nothing unusual"
    signal: int = 0
    after: int = 0


@dataclass(frozen=True)
class Ended:
    """The outcome of a case.

    Attributes:
        status: the exit status, or the negative number of a signal; None if it did not end in time.
        out: standard output.
        err: standard error.
        left: files in its folders and processes that it left behind.
        opened: the number of files, sockets and processes that it opened.
    """

    status: int | None
    out: str
    err: str
    left: list[str] = field(default_factory=list)
    opened: int = 0


@contextlib.contextmanager
def forked_commands() -> Iterator[RunAll]:
    """Start the process that is forked, and give the function that uses it."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def run_all(cases: Sequence[Case]) -> list[Ended]:
            network = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
            print(json.dumps([network, [asdict(case) for case in cases]]), file=requests, flush=True)
            answer = answers.readline()
            assert answer, "the process that is forked has ended"
            return [Ended(**each) for each in json.loads(answer)]

        yield run_all


def _reader_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.close(writing)


def _closed(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)  # as Python itself does at its start


def _full(descriptor: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    os.close(full)


_BIND, _REMOUNT_READ_ONLY, _PRIVATE = 0x1000, 0x1021, 0x44000  # mount(2); the last two with MS_BIND, MS_REC


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """Call mount(2): the program would take longer than the commands under test."""
    names = (None if name is None else name.encode() for name in (source, target, kind))
    assert ctypes.CDLL(None).mount(*names, flags, None) == 0


def _own_mounts() -> None:
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS
    _mount("none", "/", None, _PRIVATE)


def _emptied(folder: str) -> None:
    _own_mounts()
    _mount("none", folder, "tmpfs", 0)


def _read_only(folder: str) -> None:
    _own_mounts()
    _mount(folder, folder, None, _BIND)
    _mount("none", folder, None, _REMOUNT_READ_ONLY)


def _encoded_as(name: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        cast("io.TextIOWrapper", stream).reconfigure(encoding=name)


def _programs_of_examples() -> None:
    for name in ("telnet", "java", "python"):
        Path(name).write_text(_PROGRAM)
        Path(name).chmod(0o755)
    os.environ["PATH"] = f"{Path.cwd()}:{os.environ['PATH']}"
    _host_of_examples()


def _host_of_examples() -> None:
    """Make what the examples of the helps speak of: files, names of hosts; and nothing outside is changed."""
    _own_mounts()
    for folder in ("/etc/sysctl.d", "/var/lib"):
        _mount("none", folder, "tmpfs", 0)
    Path("/var/lib/node_exporter").mkdir()
    hosts = Path("hosts")
    hosts.write_text("127.0.0.1 localhost db cache web\n")
    _mount(str(hosts.resolve()), "/etc/hosts", None, _BIND)
    for name in ("app", "server", "start-all-services.sh"):
        Path(name).write_text(_PROGRAM)
        Path(name).chmod(0o755)
    Path("accepted.json").write_text('{"schema": "tailbite.baseline/1", "accepted": []}')
    document = {"schema": "tailbite.scan/1", "taken": 0, "namespaces": [], "self_connects": [], "not_visible": []}
    Path("facts").mkdir()
    Path("facts/host.scan.json").write_text(json.dumps(document))


def _last_process_of_nobody() -> None:
    os.chdir("/")
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # root has no limit
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def _folder_gone() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


CIRCUMSTANCES: dict[str, Callable[[], object]] = {
    "nothing unusual": lambda: None,
    "stdout closed": lambda: _closed(1),
    "stderr closed": lambda: _closed(2),
    "all closed": lambda: _closed(0, 1, 2),
    "reader gone": _reader_gone,
    "disk full": lambda: _full(1),
    "notes on a full disk": lambda: _full(2),
    "no file may grow": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    "8 descriptors": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)),
    "5 descriptors": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5)),
    "little memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 26, 1 << 26)),
    "no more processes": _last_process_of_nobody,
    "host of examples": _host_of_examples,
    "programs of examples": _programs_of_examples,
    "no settings": lambda: _emptied("/proc/sys"),
    "settings read-only": lambda: _read_only("/proc/sys"),
    "no processes": lambda: _emptied("/proc"),
    "folder gone": _folder_gone,
    "no environment": os.environ.clear,
    "no home": lambda: os.environ.update(HOME="/nonexistent", TMPDIR="/nonexistent", PATH="/nonexistent"),
    "40 columns": lambda: os.environ.update(COLUMNS="40"),
    "ASCII output": lambda: _encoded_as("ascii"),
    "odd terminal": lambda: os.environ.update(COLUMNS="abc", TERM="dumb", NO_COLOR="1", LC_ALL="C"),
}
"""The changes to the process before the command begins."""


class _Counter:
    """Counts what a command opens, and sends it a signal in its midst."""

    def __init__(self, number: int, after: int, report: int) -> None:
        self._number, self._after, self._report = number, after, report
        self._opened = 0
        sys.addaudithook(self._count_event)

    def _count_event(self, event: str, _: object) -> None:
        if event == "open" or event.startswith(("socket.__new__", "subprocess.", "os.fork", "os.listdir")):
            self._opened += 1
            with contextlib.suppress(OSError):  # a process that closed all descriptors
                os.pwrite(self._report, self._opened.to_bytes(4, "little"), 0)
            if self._number and self._opened == self._after:
                os.kill(os.getpid(), self._number)


def _child(case: Case, out: int, err: int, report: int) -> None:
    # A command must find descriptors and streams as a fresh Python does.
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    os.dup2(report, 900)
    os.closerange(3, 900)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    CIRCUMSTANCES[case.circumstance]()
    _Counter(case.signal, case.after, 900)
    sys.argv = ["tailbite", *case.line]
    from tailbite.cli import main

    main()


def _run(network: str, case: Case, folder: Path) -> dict[str, Any]:
    for name in ("cwd", "tmp"):
        (folder / name).mkdir(mode=0o1777)
        (folder / name).chmod(0o1777)
    out, err = _pipe(), _pipe()  # limits on files do not concern pipes
    with (folder / "n").open("w+b") as report:
        child = os.fork()
        if not child:
            os.setsid()
            _enter(network)
            os.chdir(folder / "cwd")
            os.environ["TMPDIR"] = str(folder / "tmp")
            tempfile.tempdir = None
            try:
                _child(case, out[1], err[1], report.fileno())
            except SystemExit as end:
                _end(end.code)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            _end(0)
    status = _wait(child)
    left = [f"{path.parent.name}/{path.name}" for name in ("cwd", "tmp") for path in (folder / name).rglob("*")]
    left += _orphans()
    return {
        "status": status,
        "out": _text(out),
        "err": _text(err),
        "left": left,
        "opened": int.from_bytes((folder / "n").read_bytes()[:4], "little"),
    }


def _enter(network: str) -> None:
    descriptor = os.open(network, os.O_RDONLY)
    assert ctypes.CDLL(None).setns(descriptor, 0x40000000) == 0  # CLONE_NEWNET
    os.close(descriptor)


def _pipe() -> tuple[int, int]:
    """Return a pipe that holds more than any command prints, so that nobody need read meanwhile."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    return ends


def _text(ends: tuple[int, int]) -> str:
    os.close(ends[1])
    with os.fdopen(ends[0], "rb") as reading:
        return reading.read().decode("utf-8", "replace")


def _end(code: object) -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        code = 120  # as Python ends if it cannot flush
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def _wait(child: int) -> int | None:
    signal.alarm(_LONGEST_S)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except TimeoutError:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    finally:
        signal.alarm(0)


def _orphans() -> list[str]:
    """Return the processes that are still there after two minutes; a guard ends soon after its program."""
    end = time.monotonic() + 120
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > end:
                    return ["a process"]
                time.sleep(0.005)
        except ChildProcessError:
            return []


def _ring(*_: object) -> None:
    raise TimeoutError


def _main() -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGALRM, _ring)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in _MODULES:
        import_module(name)
    gc.freeze()
    answers = os.dup(1)
    for line in iter(sys.stdin.readline, ""):
        network, cases = json.loads(line)
        results = []
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder).chmod(0o755)
                results.append(_run(network, Case(**case), Path(folder)))
        with os.fdopen(os.dup(answers), "w") as stream:
            stream.write(f"{json.dumps(results)}\n")


if __name__ == "__main__":
    _main()
