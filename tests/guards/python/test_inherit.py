"""``run --in-process``: every Python that a program starts guards itself, and is otherwise as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.trap import PORT, Trap, leftovers
from tailbite.guards.python.inherit import DIRECTORY, environment_with_guard

RUN = (sys.executable, "-m", "tailbite", "run", "--in-process", "--")
DIAL = f"""
import socket
def dial():
    reached = 0
    for _ in range(20):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", {PORT})) == 0:
                reached += sock.getsockname() == sock.getpeername()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    return reached
"""
DIRECTLY = DIAL + "print(dial())"
BY_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DIRECTLY!r}], check=True)"
BY_SHELL = (
    f"import subprocess, sys; subprocess.run(['sh', '-c', 'exec \"$0\" -c \"$1\"', sys.executable, {BY_CHILD!r}])"
)
BY_FORK = DIAL + "import os\nif os.fork() == 0:\n    print(dial(), flush=True); os._exit(0)\nos.wait()"
BY_THREAD = DIAL + "import threading; t = threading.Thread(target=lambda: print(dial())); t.start(); t.join()"
STARTING = (
    DIAL + "import multiprocessing, sys, tailbite\nif __name__ == '__main__':\n"
    "    if 'guard' in sys.argv: tailbite.guard()\n"
    "    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool: print(pool.apply(dial))"
)
BY_BIND = DIAL.replace("if sock", "sock.bind(('', 0)); sock.settimeout(5)\n            if sock") + "print(dial())"


def python(source: str, *before: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **more},
    )


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("source", "binds_first"),
    [
        (DIRECTLY, False),
        (BY_CHILD, False),
        (BY_SHELL, False),
        (BY_FORK, False),
        (BY_THREAD, False),
        (BY_BIND, True),
    ],
    ids=["directly", "by a child", "by a shell's child", "by a fork", "by a thread", "binding first"],
)
def test_no_python_below_reaches_itself_and_without_it_does(source: str, binds_first: bool) -> None:
    Trap(binds_first=binds_first).set()
    guarded = python(source, *RUN)
    assert (guarded.stdout, guarded.stderr, guarded.returncode) == ("0\n", "", 0)
    assert leftovers() == []
    assert int(python(source).stdout) > 0, "the control did not self-connect"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_multiprocessing_starts_without_fork(tmp_path: Path, method: str) -> None:
    """guard() stays in its process, as docs/guards.md says; forkserver is the default of Python 3.14."""
    script = tmp_path / "starting.py"
    script.write_text(STARTING)
    Trap().set()

    def reached(*before: str, guard: bool = False) -> int:
        command = [*before, sys.executable, str(script), method, *(["guard"] if guard else [])]
        return int(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)

    assert reached(*RUN) == 0
    assert reached(guard=True) > 0
    assert reached() > 0, "the control did not self-connect"


@pytest.mark.usefixtures("network")
def test_what_is_said_not_to_be_reached() -> None:
    """An isolated Python, and one with a new environment, connect to themselves all the same."""
    for call in ("[sys.executable, '-I', '-c', S]", "[sys.executable, '-c', S], env={}"):
        Trap().set()
        result = python(f"import subprocess, sys; S = {DIRECTLY!r}; subprocess.run({call})", *RUN)
        assert int(result.stdout) > 0, call


FEW_FILES = f"""{DIAL}
import os, resource, sys
if 'closed' in sys.argv: sys.stderr.close(); sys.stderr = None
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0); os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
without_room = dial()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(without_room, dial())
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_a_guard_that_could_not_be_loaded_says_so_and_is_loaded_later(stderr: str) -> None:
    """The first connect finds a descriptor for its socket and none for a file of tailbite's."""
    Trap().set()
    command = [sys.executable, "-c", FEW_FILES, stderr]
    done = subprocess.run([*RUN, *command], capture_output=True, text=True, timeout=60)
    without_room, later = map(int, done.stdout.split())
    assert later == 0
    assert without_room > 0, "the guard was loaded without a descriptor"
    assert done.stderr.count("is not guarded") == (stderr == "open")
    control = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert int(control.stdout.split()[1]) > 0, "the control did not self-connect"


@pytest.mark.usefixtures("network")
def test_sub_interpreters_are_reached() -> None:
    """Audit hooks belong to one interpreter, but each runs ``sitecustomize``."""
    source = (
        "try:\n    import _interpreters as interpreters\n"
        "except ImportError:\n    import _xxsubinterpreters as interpreters\n"
        "run = getattr(interpreters, 'run_string', None) or interpreters.exec\n"
        f"run(interpreters.create(), {DIRECTLY!r})"
    )
    Trap().set()
    assert python(source, *RUN).stdout == "0\n"
    assert int(python(f"import tailbite; tailbite.guard()\n{source}").stdout) > 0, "documented as not reached"


def test_nothing_is_loaded_until_the_first_connect() -> None:
    loaded = "print(sorted(name for name in sys.modules if name.startswith('tailbite') or name == 'socket'))"
    source = f"import sys; {loaded}; import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); {loaded}"
    before, after = python(source, *RUN).stdout.splitlines()
    assert before == "[]"
    assert "'tailbite.guards.python.guard'" in after


def test_the_path_and_the_arguments_are_those_of_the_plain_program(tmp_path: Path) -> None:
    source = "import sys, os; print(sys.path, sys.argv, sys.flags, sorted(sys.modules), os.getcwd())"
    for more in ({}, {"PYTHONPATH": f"{tmp_path}:/nowhere"}):
        plain, guarded = (
            python(source, *before, **more).stdout.replace("'sitecustomize', ", "") for before in ((), RUN)
        )
        assert guarded == plain


@pytest.mark.parametrize("content", ["print('theirs')", "import nowhere_at_all", "raise ValueError('mine')", None])
def test_a_sitecustomize_that_is_there_runs_as_without_us(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "sitecustomize.py").write_text(content)
    source = "import sys; print(getattr(sys.modules.get('sitecustomize'), '__file__', None))"
    theirs = {b"PYTHONPATH": os.fsencode(tmp_path)}
    plain, guarded = (
        python(source, PYTHONPATH=os.fsdecode(place[b"PYTHONPATH"]))
        for place in (theirs, environment_with_guard(theirs))
    )
    assert guarded.returncode == plain.returncode == 0
    if content is None:
        assert guarded.stderr == plain.stderr == ""
    else:
        assert guarded.stdout == plain.stdout
        # The traceback may have our lines too; the error is reported alike.
        assert guarded.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    ("source", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", -15)]
)
def test_the_exit_status_is_the_programs(source: str, status: int) -> None:
    assert python(source, *RUN).returncode == status


def test_a_program_that_is_not_there() -> None:
    result = subprocess.run([*RUN, "/nowhere/at/all"], capture_output=True, text=True)
    assert result.returncode == 127
    assert result.stderr == "tailbite: /nowhere/at/all: No such file or directory\n"


@pytest.mark.parametrize("option", [("--port", "80"), ("--stats-json", "/dev/null"), ("--require",)])
def test_options_that_contradict_it(option: tuple[str, ...]) -> None:
    result = subprocess.run([*RUN[:-1], *option, "--", "true"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "--in-process" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_older_python_runs_and_says_that_it_is_not_guarded(tmp_path: Path) -> None:
    """Simulated by its version number, and met for real where this machine has one."""
    ours = Path(DIRECTORY, "sitecustomize.py").read_text()
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.version_info = (3, 10)\n{ours}")
    result = python("print('runs')", PYTHONPATH=str(tmp_path))
    assert result.stdout == "runs\n"
    assert (
        result.stderr == f"tailbite: this Python ({sys.executable}) is not guarded: Python 3.11 or newer is needed\n"
    )


@pytest.mark.peers
@pytest.mark.parametrize("version", ["2.7", "3.8", "3.9", "3.10"])
def test_real_older_pythons(version: str) -> None:
    """The file must be one that any Python can read; a machine without that Python has nothing to prove."""
    found = sorted(Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python")) if os.geteuid() == 0 else []
    if not found:
        pytest.skip(f"no Python {version} here")
    result = subprocess.run([*RUN, str(found[0]), "-c", "print('runs')"], capture_output=True, text=True)
    assert result.stdout == "runs\n"
    assert result.stderr.startswith("tailbite: this Python")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {b"PYTHONPATH": DIRECTORY.encode()}),
        ({b"PYTHONPATH": b""}, {b"PYTHONPATH": DIRECTORY.encode()}),
        ({b"PYTHONPATH": b"/a:/b", b"X": b"1"}, {b"PYTHONPATH": DIRECTORY.encode() + b":/a:/b", b"X": b"1"}),
    ],
)
def test_the_environment(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
    assert environment_with_guard(before) == after
    assert environment_with_guard(after) == after, "once is enough"
