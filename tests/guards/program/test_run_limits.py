"""``tailbite run`` where the system allows less: the stated behaviour each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.guarded import NOBODY, PYTHON, RUN, guarded, needs_another_user, run
from support.limits import without
from support.programs import client, counts
from support.trap import PORT, Trap, server_can_bind, wait_for_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOLD = "the destination port is held while it connects"
STEER = "the source port is steered before each connect"
STEERS = pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")

pytestmark = [
    pytest.mark.usefixtures("network"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls"),
]


@pytest.mark.parametrize(
    ("limits", "mechanism"),
    [
        (["pidfd_getfd"], HOLD),
        (["IP_LOCAL_PORT_RANGE"], HOLD),
        (["pidfd_getfd", "AF_INET6"], HOLD),
        (["pidfd_getfd", "IP_FREEBIND"], HOLD),
        pytest.param(["PIDFD_THREAD"], STEER, marks=STEERS),
        pytest.param(["IP_FREEBIND"], STEER, marks=STEERS),
        pytest.param(["WAIT_KILLABLE_RECV"], STEER, marks=STEERS),
        pytest.param(["SYNC_WAKE_UP"], STEER, marks=STEERS),
    ],
    ids=str,
)
def test_with_less_the_program_still_never_reaches_itself(limits: list[str], mechanism: str) -> None:
    """No pidfd_getfd (Docker), no IP_LOCAL_PORT_RANGE (before 6.3), and what else older kernels lack."""
    Trap().set()
    done = run([*without(*limits), *guarded(client(), "-v", "--require")])
    assert mechanism in done.stderr
    assert counts(done.stdout) == (0, 200), done.stderr
    wait_for_release()
    itself, _ = counts(run(client()).stdout)
    assert itself > 0, "the control did not self-connect"


@pytest.mark.parametrize("other", ["IP_LOCAL_PORT_RANGE", "pidfd_getfd"])
def test_where_no_port_can_be_held_either_it_says_that_nothing_is_guarded(tmp_path: Path, other: str) -> None:
    Trap().set()
    stats = tmp_path / "stats.json"
    done = run([*without("SO_REUSEADDR", other), *guarded(client(), "--stats-json", str(stats))])
    assert "runs without a guard: a port cannot be held here" in done.stderr
    assert "--in-process" in done.stderr and "--port" not in done.stderr
    assert json.loads(stats.read_text())["guarded"] is False
    itself, _ = counts(done.stdout)
    assert itself > 0, "it was guarded after all"
    refused = run([*without("SO_REUSEADDR", other), *guarded(client(), "--require")])
    assert (refused.returncode, refused.stdout) == (4, "")


def test_without_proc_it_says_that_nothing_is_guarded() -> None:
    """A chroot in which nobody has mounted it: connects must not wait for a worker that cannot work."""
    Trap().set()
    hidden = ["unshare", "-Urm", "sh", "-c", f'{find_peer("mount")} -t tmpfs none /proc; exec "$@"', "sh"]
    done = run([*hidden, *guarded(client())])
    assert "runs without a guard: /proc is not mounted here" in done.stderr
    itself, _ = counts(done.stdout)
    assert itself > 0, "it was guarded after all"
    assert run([*hidden, *guarded(client(), "--require")]).returncode == 4


def test_a_program_that_may_write_no_file_is_guarded() -> None:
    Trap().set()
    done = run(["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *guarded(client(), "--require")])
    assert counts(done.stdout) == (0, 200), done.stderr
    itself, _ = counts(run(client()).stdout)
    assert itself > 0, "the control did not self-connect"


STATES = """
import ctypes, os, resource, socket, sys, threading
port, itself, refused = int(sys.argv[1]), 0, 0
libc = ctypes.CDLL(None, use_errno=True)

def connect():
    found = 0
    for _ in range(12):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1]).ljust(8, bytes(1)))
            found += sock.connect_ex(("127.0.0.1", port)) == 0 and sock.getsockname() == sock.getpeername()
    return found

def in_a_thread(prepare):
    found = []
    def work():
        connect_first = connect()
        assert prepare() == 0, os.strerror(ctypes.get_errno())
        found.append(connect_first + connect())
    thread = threading.Thread(target=work); thread.start(); thread.join()
    return found[0]

states = {
    "a thread with descriptors of its own": lambda: in_a_thread(lambda: libc.unshare(0x400)),
    "the same by close_range": lambda: in_a_thread(lambda: libc.syscall(436, 900, 901, 2)),
    "no descriptor but its sockets": lambda: (os.closerange(3, 4096), connect())[1],
    "few descriptors": lambda: (resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)), connect())[1],
    "one process": lambda: (resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)), connect())[1],
    "no new privileges": lambda: (libc.prctl(38, 1, 0, 0, 0), connect())[1],
    "an empty root": lambda: (os.chroot("/proc/self/fdinfo"), connect())[1],
    "a user namespace": lambda: (libc.unshare(0x10000000), connect())[1],
    "another user": lambda: (os.setuid(65534), connect())[1],
}
for name, state in states.items():
    child = os.fork()
    if child == 0:
        os._exit(state())
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(name + ":", found)
"""


@pytest.mark.parametrize(
    "limits",
    [[], ["PIDFD_THREAD"], ["IP_LOCAL_PORT_RANGE", "PIDFD_THREAD"], ["PIDFD_THREAD", "KCMP_FILES"], ["pidfd_getfd"]],
    ids=lambda limits: " ".join(limits) or "none",
)
def test_whatever_state_a_program_brings_itself_into_it_never_reaches_itself(limits: list[str]) -> None:
    """Before Linux 6.9 a thread with descriptors of its own cannot be steered: its port is held."""
    needs_another_user()
    Trap().set()
    command = [PYTHON, "-c", STATES, str(PORT)]
    guarded_run = guarded(command, "--require")
    done = run([*without(*limits), *guarded_run] if limits else guarded_run)
    found = dict(line.split(": ") for line in done.stdout.splitlines())
    assert set(found.values()) == {"0"}, done.stdout + done.stderr
    control = dict(line.split(": ") for line in run(command).stdout.splitlines())
    assert control.keys() == found.keys()
    assert all(0 < int(count) <= 24 for count in control.values()), f"the control did not self-connect: {control}"


BINDS_IN_A_THREAD = """
import os, socket, sys, threading
def work():
    found = 0
    for _ in range(20):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1]).ljust(8, bytes(1)))
            found += sock.connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0
    print(found)
thread = threading.Thread(target=work); thread.start(); thread.join()
"""


@pytest.mark.parametrize("limits", [["IP_LOCAL_PORT_RANGE"], []], ids=["held", "steered"])
def test_a_thread_that_binds_first_is_guarded_where_threads_cannot_be_compared(limits: list[str]) -> None:
    """Before Linux 6.9, on a kernel without kcmp: its process has the same socket under the same number."""
    Trap(binds_first=True).set()
    command = [PYTHON, "-c", BINDS_IN_A_THREAD, str(PORT)]
    done = run([*without("PIDFD_THREAD", "KCMP_FILES", *limits), *guarded(command, "--require")])
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert int(run(command).stdout) > 0, "the control did not self-connect"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_server_starts_at_once_while_its_port_is_held_around_every_connect(host: str) -> None:
    """Held, not steered, by a client that connects as fast as it can: 50 starts without SO_REUSEADDR, none fails."""
    Trap().set()
    command = [*without("pidfd_getfd"), *guarded(client(count=1_000_000), "--require")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"first\n"
            assert sum(server_can_bind(host) for _ in range(50)) == 50
        finally:
            program.kill()


LISTENS = (
    "import os, sys; from tailbite.kernel import seccomp; abi = seccomp.ABIS[os.uname().machine];"
    "never = b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f';"
    "os.set_inheritable(seccomp.install(abi, never)[0], True); os.execvp(sys.argv[1], sys.argv[1:])"
)
NO_GUARD = {
    "few files": (["sh", "-c", 'ulimit -n 12; exec "$@"', "sh"], "the limit of open files is 12"),
    "no memory of others": (without("process_vm_readv"), "reading another process's memory is forbidden here"),
    "no filter": (without("NEW_LISTENER"), "the kernel refuses the filter"),
    "no hold": (without("SO_REUSEADDR", "pidfd_getfd"), "a port cannot be held here"),
    "no /proc": (
        ["unshare", "-Urm", "sh", "-c", 'MOUNT -t tmpfs none /proc; exec "$@"', "sh"],
        "/proc is not mounted",
    ),
    "another listener": ([sys.executable, "-c", LISTENS], "another supervisor listens"),
}


@pytest.mark.parametrize(("prefix", "reason"), NO_GUARD.values(), ids=NO_GUARD)
def test_what_cannot_be_guarded_gives_the_same_reason_everywhere(
    prefix: list[str], reason: str, tmp_path: Path
) -> None:
    """On stderr, where it has to be guarded, and in the report."""
    prefix = [part.replace("MOUNT", find_peer("mount")) if "MOUNT" in part else part for part in prefix]
    stats = tmp_path / "stats.json"
    done = run([*prefix, *guarded(["echo", "out"], "--stats-json", str(stats))])
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
    told = done.stderr.removeprefix("tailbite: echo runs without a guard: ").rstrip("\n")
    assert told.startswith(reason)
    found = json.loads(stats.read_text())
    assert (found["guarded"], found["reason"], found["not_covered"]) == (False, told, [])

    done = run([*prefix, *guarded(["echo", "out"])])
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert done.stderr == f"tailbite: echo runs without a guard: {told}\n"

    done = run([*prefix, *guarded(["echo", "out"], "--require")])
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"tailbite: cannot guard echo, so it was not started: {told}\n"


@pytest.mark.parametrize("options", [(), ("--stats-json", "/dev/null")], ids=["beside", "above"])
@pytest.mark.parametrize("limit", ["-n 16", "-Sn 6"])
def test_with_few_open_files_it_is_guarded_or_says_that_it_is_not(limit: str, options: tuple[str, ...]) -> None:
    """A guard that has no descriptor left for an inspection would let the call run unguarded."""
    Trap().set()
    shell = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh"]
    line = (
        f"ulimit -Sn; for i in 1 2 3 4 5 6; do (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null && echo itself; done"
    )
    done = run([*shell, *guarded(["bash", "-c", line], "--require", *options)])
    assert done.stdout == f"{limit.split()[1]}\n", done.stderr
    assert "itself" in run([*shell, "bash", "-c", line]).stdout, "the control did not self-connect"


@pytest.mark.peers
def test_sudo_works_under_a_guard_of_root_and_refuses_under_one_of_nobody(peer: Callable[[str], str]) -> None:
    """Without CAP_SYS_ADMIN the kernel wants no_new_privs, which -v says."""
    sudo = peer("sudo")
    needs_another_user()
    done = run(guarded([sudo, "-n", "-u", "nobody", "id", "-un"]))
    assert (done.returncode, done.stdout) == (0, "nobody\n"), done.stderr
    done = run(guarded([sudo, "-n", "id"], "-v", nobody=True))
    assert done.returncode != 0
    assert "sudo and su inside it will refuse" in done.stderr
    assert "no new privileges" in done.stderr


@pytest.mark.parametrize("nobody", [False, True], ids=["root", "nobody"])
def test_a_network_namespace_the_program_makes_itself_is_guarded_too(nobody: bool) -> None:
    """Its port range is another one, and is read by a child that goes there."""
    ip, ports = find_peer("ip"), f"{PORT} {PORT + 1}"
    inside = f'{ip} link set lo up; echo "{ports}" > /proc/sys/net/ipv4/ip_local_port_range; exec "$@"'
    there = ["unshare", "-Urn", "sh", "-c", inside, "sh", *client()]
    done = run(guarded(there, nobody=nobody), timeout=300)  # a minute on User Mode Linux
    assert counts(done.stdout) == (0, 200), done.stderr
    itself, _ = counts(run([*(NOBODY if nobody else ()), *there]).stdout)
    assert itself > 0, "the control did not self-connect"


def test_a_pid_namespace_below_is_guarded_too() -> None:
    Trap().set()
    done = run(guarded(["unshare", "-Urpf", "--mount-proc", *client()]))
    assert counts(done.stdout) == (0, 200), done.stderr


def test_a_program_that_hides_its_memory_from_an_unprivileged_guard_is_told_of() -> None:
    """PR_SET_DUMPABLE 0: such a process cannot be inspected, so it is not guarded, and -v says so."""
    code = (
        "import ctypes, socket; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0);"
        f"print(socket.socket().connect_ex(('127.0.0.1', {PORT})))"
    )
    done = run(guarded([PYTHON, "-c", code], "-v", nobody=True))
    assert done.stdout == "111\n"
    assert "it cannot be inspected, not guarded" in done.stderr


def test_the_supervisor_above_stays_an_ancestor_of_daemons() -> None:
    """Yama's scope 1 demands that the tracer is an ancestor of the traced process, also of an orphan."""
    Trap().set()
    code = (
        "import os, socket, sys\n"
        "def ancestors(pid):\n"
        "    while pid > 1:\n"
        "        stat = open(f'/proc/{pid}/stat').read()\n"
        "        pid = int(stat.rpartition(')')[2].split()[1])\n"
        "        yield open(f'/proc/{pid}/comm').read().strip() if pid else ''\n"
        "ready, go = os.pipe(); done, over = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); os.close(go); os.read(ready, 1)\n"  # until the one in between is gone
        "        above = 'tailbite-guard' in ancestors(os.getpid())\n"
        "        print(above, socket.socket().connect_ex(('127.0.0.1', 32246)))\n"
        "        sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "os.wait(); os.close(ready); os.close(go); os.close(over)\n"
        "os.read(done, 1)\n"  # until the daemon has ended
    )
    done = run([*RUN, "--stats-json", os.devnull, "--", PYTHON, "-c", code])
    assert done.stdout == "True 111\n", done.stderr


def test_few_descriptors_are_enough_for_many_processes(tmp_path: Path) -> None:
    """The guard lives under the program's limits."""
    Trap().set()
    stats = tmp_path / "stats.json"
    line = f"i=0; while [ $i -lt 60 ]; do bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}' 2>/dev/null; i=$((i+1)); done"
    done = run(
        ["sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *guarded(["sh", "-c", line], "--stats-json", str(stats))]
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(stats.read_text())["connects"]
    assert (found["steered"] + found["held"], found["unseen"]) == (60, 0)


def test_without_a_process_to_spare_the_program_runs_unguarded_and_says_so() -> None:
    """RLIMIT_NPROC; the filter must not be on before it is sure that somebody will answer."""
    limited = ["bash", "-c", 'ulimit -u 1; exec "$@"', "bash"]
    for options in ((), ("--stats-json", "-"), ("--port", str(PORT))):
        command = guarded([PYTHON, "-c", "print('out')"], *options, nobody=True)
        at = command.index("env")
        done = run([*command[:at], *limited, *command[at:]])
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("out\n")
        assert "runs without a guard: no process can be started" in done.stderr
        assert ("no process can be started" in done.stdout) == ("-" in options)


OLD_HEADERS = """
import os, runpy
del os.pidfd_open, os.memfd_create
runpy.run_module("tailbite", run_name="__main__", alter_sys=True)
"""
"""A Python that was built with the headers of an old C library, as uv's, conda's and that of Google's cloud tools."""


@pytest.mark.parametrize("options", [("-v",), ("--port", str(PORT)), ("--stats-json", "/dev/null")])
def test_a_python_without_the_functions_of_newer_c_libraries_guards_as_well(options: tuple[str, ...]) -> None:
    Trap().set().control()
    done = run([sys.executable, "-c", OLD_HEADERS, "run", "--require", *options, "--", *client()])
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout) == (0, 200)


def test_where_no_helper_can_learn_when_a_program_ends_no_port_can_be_named_and_that_is_said() -> None:
    done = run([*without("pidfd_open"), *RUN, "-v", "--port", str(PORT), "--", "true"])
    assert done.returncode == 0
    assert (
        "cannot learn here when the program ends (pidfd_open, Linux 5.3); what does work here: --in-process"
        in done.stderr
    )
    done = run([*without("pidfd_open", "NEW_LISTENER"), *RUN, "-v", "--", "true"])
    assert "what does work here: --in-process for Pythons" in done.stderr


OWN_LISTENER = """
import errno
from tailbite.kernel import libc, seccomp
abi = seccomp.ABIS[libc.architecture()]
try: print("installed" if seccomp.install(abi, seccomp.call_filter(abi))[0] > 2 else "none")
except OSError as error: print(errno.errorcode[error.errno])
"""


@pytest.mark.needs("SECCOMP_LISTENER")
def test_a_program_with_a_seccomp_listener_of_its_own_is_guarded_by_named_ports() -> None:
    """A process has one listener (seccomp(2)): with ``--port`` alone, ``run`` leaves it to the program."""
    own = [sys.executable, "-c", OWN_LISTENER]
    assert [run(one).stdout for one in (own, guarded(own), guarded(own, "--port", str(PORT)))] == [
        "installed\n",
        "EBUSY\n",
        "installed\n",
    ]
