"""A program cannot tell whether it runs under ``tailbite run``: same output, same end, same job control."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from support.guarded import PYTHON, RUN, guarded, wait_until

pytestmark = pytest.mark.usefixtures("network")

ABOVE = ("--stats-json", "/dev/null")
WEIRD = os.fsdecode(b"caf\xe9 \xff \n\t'\"$")


def _python(code: str) -> list[str]:
    return [PYTHON, "-c", code]


PROGRAMS: dict[str, list[str]] = {
    "true": ["true"],
    "exit 3": ["sh", "-c", "exit 3"],
    "exit 255": ["sh", "-c", "exit 255"],
    "killed by TERM": ["sh", "-c", "kill -TERM $$"],
    "killed by KILL": ["sh", "-c", "kill -KILL $$"],
    "killed by INT": ["sh", "-c", "kill -INT $$"],
    "killed by HUP": ["sh", "-c", "kill -HUP $$"],
    "killed by PIPE": ["sh", "-c", "kill -PIPE $$"],
    "killed by ABRT": ["sh", "-c", "ulimit -c 0; kill -ABRT $$"],
    "killed by USR1": ["sh", "-c", "kill -USR1 $$"],
    "killed by a child": ["sh", "-c", "sh -c 'kill -TERM '$$'; exit 0'; sleep 5"],
    "a trap": ["sh", "-c", "trap 'echo caught; exit 7' TERM; kill -TERM $$; sleep 5"],
    "both outputs": ["sh", "-c", "echo out; echo err >&2; echo out"],
    "arguments": ["printf", "<%s>", "", "--", "-v", "--port", WEIRD, "a" * 5000],
    "environment": ["env"],
    "environment in the C locale": ["env"],
    "descriptors": ["sh", "-c", "ls /proc/self/fd"],
    "working directory, umask, limits": ["sh", "-c", "pwd; umask; ulimit -a"],
    "signal dispositions": ["grep", "-E", "^(Sig|Shd)(Pnd|Blk|Ign|Cgt)", "/proc/self/status"],
    "parent, group and session": ["sh", "-c", 'echo $PPID; ps -o pgid=,sid= -p $$ | tr -s " "'],
    "stdin": ["sha256sum"],
    "children to wait for": _python("import os\ntry: os.wait()\nexcept ChildProcessError: print('none')"),
    "a background child": ["sh", "-c", "sleep 0.1 & wait $!; echo $?"],
    "SIGPIPE of the default kind": ["sh", "-c", "yes | head -1; echo ${PIPESTATUS:-none}"],
    "a broken pipe": ["bash", "-c", "yes | head -c 3; echo ${PIPESTATUS[0]}"],
    "a limit of file size": ["sh", "-c", "ulimit -f 1; head -c 100000 /dev/zero > big; echo $?"],
    "threads and forks": _python(
        "import threading, os, subprocess\n"
        "threads = [threading.Thread(target=subprocess.run, args=(['true'],)) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(len(threads))"
    ),
    "a unix socket": _python(
        "import socket as s; u = s.socket(s.AF_UNIX); print(u.connect_ex('/nonexistent'), u.connect_ex('/' * 107))"
    ),
    "odd connects": _python(
        "import ctypes, os, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "tcp = socket.socket()\n"
        "def call(fd, address, length):\n"
        "    print(libc.connect(fd, address, length), ctypes.get_errno())\n"
        "call(-1, bytes(16), 16); call(99, bytes(16), 16); call(0, bytes(16), 16)\n"
        "call(tcp.fileno(), None, 16); call(tcp.fileno(), ctypes.c_void_p(8), 16)\n"
        "call(tcp.fileno(), bytes(16), 1 << 30); call(tcp.fileno(), b'\\x02\\0' + bytes(14), 16)\n"
        "call(tcp.fileno(), b'\\xff' * 16, 16)\n"
        "call(os.open('/', os.O_RDONLY), b'\\x02\\0\\xb7\\x24' + bytes(12), 16)\n"
    ),
    "a connect in progress": _python(
        "import errno, socket\n"
        "server = socket.create_server(('127.0.0.1', 46884))\n"
        "client = socket.socket(); client.setblocking(False)\n"
        "print(errno.errorcode.get(client.connect_ex(server.getsockname())))\n"
        "server.accept(); print(client.connect_ex(server.getsockname()), client.connect_ex(server.getsockname()))\n"
    ),
    "a connect a signal interrupts": _python(
        "import signal, socket\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('alarm'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "full = socket.socket(); full.bind(('127.0.0.1', 46884)); full.listen(0)\n"
        "held = [socket.socket() for _ in range(4)]; [s.setblocking(False) for s in held]\n"
        "[s.connect_ex(full.getsockname()) for s in held]\n"
        "last = socket.socket(); last.settimeout(0.3)\n"
        "try: last.connect(full.getsockname())\n"
        "except TimeoutError: print('timeout')\n"
    ),
    "pipelines": ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i | cat | cat; done"],
    "a SIGSEGV that is handled": _python(
        "import ctypes, os\n"
        "caught = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda n: os.write(1, b'caught') and os._exit(n))\n"
        "ctypes.CDLL(None).signal(11, caught)\n"
        "ctypes.string_at(0)\n"
    ),
    "connects under many signals with SA_RESTART": _python(
        "import collections, signal, socket\n"
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, False)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)\n"
        "results = collections.Counter()\n"
        "for _ in range(200):\n"
        "    with socket.socket() as tcp: results[tcp.connect_ex(('127.0.0.1', 700))] += 1\n"
        "signal.setitimer(signal.ITIMER_REAL, 0); print(results)\n"
    ),
    "stops during connects": _python(
        "import os, signal, socket\n"
        "if not (pid := os.fork()):\n"
        "    for _ in range(200):\n"
        "        with socket.socket() as tcp:\n"
        "            if tcp.connect_ex(('127.0.0.1', 700)) != 111: os._exit(1)\n"
        "    os._exit(42)\n"
        "for _ in range(60): os.kill(pid, signal.SIGSTOP); os.kill(pid, signal.SIGCONT)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    ),
}


def outcome(command: list[str], folder: Path, **more: Any) -> tuple[int, bytes, bytes]:
    folder.mkdir()
    (folder / "script").write_text('echo "script $0 $1"\n')
    (folder / "script").chmod(0o755)
    (folder / "data").write_text("data")
    done = subprocess.run(
        command, cwd=folder, input=b"\0\1binary\xff" * 10000, capture_output=True, timeout=60, check=False, **more
    )
    hide = str(folder).encode()
    return done.returncode, done.stdout.replace(hide, b"FOLDER"), done.stderr.replace(hide, b"FOLDER")


def test_there_are_at_least_thirty_programs() -> None:
    assert len(PROGRAMS) >= 30


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "options", [(), ("--stats-json", "/dev/null"), ("--port", "46884")], ids=["", "above", "port"]
)
def test_exit_status_and_output_are_the_same(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    command = PROGRAMS[name]
    environment = {**os.environ, "LC_ALL": "C"}
    if name == "environment in the C locale":
        environment = {"PATH": os.environ["PATH"], "A": "1"}  # Python would set LC_CTYPE
    status, out, err = outcome(command, tmp_path / "plain", env=environment)
    guarded_status, guarded_out, guarded_err = outcome(
        guarded(command, *options), tmp_path / "guarded", env=environment
    )
    if name == "parent, group and session" and options[:1] == ("--stats-json",):
        out, guarded_out = out.split(b"\n", 1)[1], guarded_out.split(b"\n", 1)[1]  # it stays the parent
    assert (guarded_status, guarded_out, guarded_err) == (status, out, err)


@pytest.mark.parametrize(
    "program", ["no-such-program-anywhere", "./missing/program", "", "/tmp", "./data", "./data/x"]
)
def test_what_cannot_be_started_gives_the_status_that_env_gives(program: str, tmp_path: Path) -> None:
    status, _, _ = outcome(["env", "--", program], tmp_path / "plain")
    found, out, err = outcome(guarded([program]), tmp_path / "guarded")
    assert (found, out) == (status, b"")
    assert err.startswith(b"tailbite: ")
    assert err.count(b"\n") == 1


def test_a_script_without_an_interpreter_line_is_one_for_the_shell(tmp_path: Path) -> None:
    """As execvp(3) has it."""
    plain = outcome(["env", "./script", "argument"], tmp_path / "plain")
    assert plain[1] == b"script ./script argument\n"
    assert outcome(guarded(["./script", "argument"]), tmp_path / "guarded") == plain


def test_the_program_has_the_pid_that_tailbite_was_started_with() -> None:
    with subprocess.Popen(guarded(["sh", "-c", "echo $$"]), stdout=subprocess.PIPE, text=True) as program:
        output, _ = program.communicate(timeout=60)
    assert int(output) == program.pid


def test_a_pipe_ends_when_the_program_ends() -> None:
    """The helpers keep none of the program's descriptors, or the reader would wait for them."""
    for options in ((), ("--stats-json", "/dev/null"), ("--port", "46884"), ("-v",)):
        line = " ".join([*RUN, *options, "--", "echo", "done", "|", "cat"])
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.stdout == "done\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
@pytest.mark.parametrize("options", [(), ABOVE], ids=["beside", "above"])
def test_a_signal_from_outside_reaches_the_program(number: signal.Signals, options: tuple[str, ...]) -> None:
    code = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "print('up', flush=True); print(signal.sigwait(signal.valid_signals() - {signal.SIGCONT}))"
    )
    with subprocess.Popen(guarded(_python(code), *options), stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        program.send_signal(number)
        assert program.stdout.read() == f"{int(number)}\n"
    assert program.returncode == 0


def test_a_signal_in_the_moment_of_the_start_is_not_lost() -> None:
    """Sent as soon as there is a supervisor, when there may be no program yet to pass it on to."""
    for _ in range(10):
        with subprocess.Popen(guarded(["sleep", "1000"], *ABOVE)) as program:
            try:
                wait_until(
                    Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text,
                    "it forks",
                    pause=0,
                    seconds=90,
                )
                program.terminate()
                assert program.wait(60) == -signal.SIGTERM
            finally:
                program.kill()


LONG = """perl -e '$|=1; $SIG{CONT}=sub{print "continued\\n"}; print "started\\n"; sleep 9 while 1'"""


def test_stopping_and_continuing_the_process_its_caller_knows_stops_and_continues_the_program() -> None:
    code = "import os, signal; print('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP); print('on', flush=True)"
    for options in ((), ABOVE):
        with subprocess.Popen(guarded(_python(code), *options), stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "up\n"
            assert os.WIFSTOPPED(os.waitpid(program.pid, os.WUNTRACED)[1])
            program.send_signal(signal.SIGCONT)
            assert program.stdout.read() == "on\n"
        assert program.returncode == 0


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, guard: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="READY> ", G=guard, LC_ALL="C", HISTFILE="", TERM="dumb")
            os.environ.pop("PROMPT_COMMAND", None)
            os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
        self.text = ""

    def send(self, keys: str, until: str = "READY> ") -> None:
        """Type, and wait until the shell has answered."""
        seen = len(self.text)
        os.write(self._terminal, keys.encode())
        self.wait(until, seen)

    def wait(self, until: str, seen: int = 0) -> None:
        end = monotonic() + 60
        while not re.search(until, self.text[seen:]):
            assert monotonic() < end, f"nothing matched {until!r}: {self.text[seen:]!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.text += os.read(self._terminal, 4096).decode()

    def close(self) -> None:
        os.close(self._terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _session(guard: str) -> str:
    shell = Terminal(guard)
    try:
        shell.wait("READY> ")
        for keys, until in (
            ("$G tty >/dev/null && echo yes\n", "yes\r\nREADY> "),
            (f"$G {LONG}\n", "\nstarted\r\n"),
            ("\x1a", "Stopped.*\r\nREADY> "),
            ("jobs\n", "Stopped.*\r\nREADY> "),
            ("fg\n", "\ncontinued\r\n"),
            ("\x03", "READY> "),
            ("echo $?\n", "130\r\nREADY> "),
            (f"$G {LONG}\n", "\nstarted\r\n"),
            ("\x1c", "READY> "),
            ("echo $?\n", "131\r\nREADY> "),
            ("$G sleep 1000 &\n", "READY> "),
            ("kill %1; wait %1; echo $?\n", "143\r\nREADY> "),
            ("$G sh -c 'kill -STOP $$; echo on'\n", "Stopped.*\r\nREADY> "),
            ("fg\n", "on\r\nREADY> "),
            ("$G cat\n", "cat\r\n"),
            ("line\n", "line\r\nline\r\n"),
            ("\x04", "READY> "),
            # In one line: a shell tells of a background job's stop before whichever prompt comes next.
            ("$G sh -c 'read x; echo got $x' & until jobs | grep -q Stopped; do :; done\n", "  Stopped.*\r\nREADY> "),
            ("fg\n", "got .x'\r\n"),
            ("it\n", "got it\r\nREADY> "),
            ("$G true && echo fine\n", "fine\r\nREADY> "),
        ):
            shell.send(keys, until)
        return re.sub(r"\[1\] \d+", "[1] PID", shell.text)
    finally:
        shell.close()


def test_job_control_on_a_terminal_is_the_same() -> None:
    """Ctrl-Z, jobs, bg, fg, Ctrl-C, Ctrl-backslash, a stop of its own, reading in the background: one transcript."""
    plain = _session("")
    assert _session(" ".join([*RUN, "--"])) == plain
    above = _session(" ".join([*RUN, "--stats-json", "/dev/null", "--"]))
    assert above == plain
