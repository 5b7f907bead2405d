"""Objects that outlive a process do not outlive an audit: those of System V and POSIX, and files in /dev/shm."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit.leftovers import marked, nothing_left, wait_for
from support.users import NOBODY, python_as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """
import ctypes, os, pathlib, socket, sys, time
key, name, seen, ready, port = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
libc = ctypes.CDLL(None)
made = libc.shmget(key, 4096, 0o1600), libc.semget(key, 1, 0o1600), libc.msgget(key, 0o1600)
made += (libc.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None),)
semaphore = libc.sem_open(f"/{name}".encode(), os.O_CREAT, 0o600, 1)
pathlib.Path("/dev/shm", name).write_text("mine")
assert -1 not in made and semaphore, made
assert pathlib.Path("/dev/shm", seen).read_text() == "the machine's", "what was there is gone"
pathlib.Path(ready).touch()
while port:
    try:
        kept = socket.create_connection(("127.0.0.1", port))
        time.sleep(600)
    except OSError:
        time.sleep(0.1)
"""


class Objects:
    """Objects that a client makes by a number and a name that no other test has, and a file that is there before."""

    def __init__(self, folder: Path) -> None:
        self.key = secrets.randbelow(1 << 30) + 1
        self.name = f"tailbite-test-{secrets.token_hex(8)}"
        self.before = Path("/dev/shm", f"{self.name}-before")
        self.before.write_text("the machine's", encoding="ascii")
        self.before.chmod(0o644)
        self.ready = folder / "ready"
        self.script = folder / "client.py"
        self.script.write_text(CLIENT, encoding="utf-8")

    def words(self, python: str, port: str) -> list[str]:
        return [python, str(self.script), str(self.key), self.name, self.before.name, str(self.ready), port]

    def left_behind(self) -> set[str]:
        """Return the kinds of which the machine has an object with this number or name."""
        found = {kind for kind in ("shm", "sem", "msg") if str(self.key) in _keys(kind)}
        found |= {file.name for file in Path("/dev/shm").iterdir() if self.name in file.name} - {self.before.name}
        queue = ctypes.CDLL(None).mq_open(f"/{self.name}".encode(), os.O_RDONLY)
        if queue != -1:
            os.close(queue)
            found.add("queue")
        return found

    def remove(self) -> None:
        self.before.unlink()
        for option, kind in (("-M", "shm"), ("-S", "sem"), ("-Q", "msg")):
            if kind in self.left_behind():
                subprocess.run(["ipcrm", option, str(self.key)], check=True)
        for name in (self.name, f"sem.{self.name}"):
            Path("/dev/shm", name).unlink(missing_ok=True)
        ctypes.CDLL(None).mq_unlink(f"/{self.name}".encode())


def _keys(kind: str) -> list[str]:
    lines = Path("/proc/sysvipc", kind).read_text(encoding="ascii").splitlines()[1:]
    return [line.split()[0] for line in lines]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder for every user. Those above pytest's own are closed again by any other session of root's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        yield Path(made)


@pytest.fixture
def objects(folder: Path) -> Iterator[Objects]:
    made = Objects(folder)
    yield made
    made.remove()


def audit_as(user: str, objects: Objects, mark: dict[str, str]) -> subprocess.Popen[bytes]:
    arguments = ("-m", "tailbite", "audit", "--quick", "--timeout", "60", "--", *objects.words("{python}", "{port}"))
    command = [sys.executable, *arguments] if user == "root" else python_as_nobody(*arguments)
    return subprocess.Popen(
        command,
        env={**os.environ, **mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which(NOBODY[0]), reason="changes its user")
users = pytest.mark.parametrize("user", ["root", pytest.param("nobody", marks=needs_root)])


def test_the_objects_outlive_a_client_that_nobody_audits(objects: Objects) -> None:
    subprocess.run(objects.words(sys.executable, "0"), check=True)
    assert objects.left_behind() == {"shm", "sem", "msg", "queue", objects.name, f"sem.{objects.name}"}


@pytest.fixture
def scratch(folder: Path) -> Path:
    """A folder for the audit's files that any user may write to."""
    path = folder / "scratch"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.mark.usefixtures("network")
@users
def test_no_object_of_a_client_outlives_its_audit(user: str, objects: Objects, scratch: Path) -> None:
    with nothing_left(scratch) as mark:
        with audit_as(user, objects, mark) as audit:
            out, _ = audit.communicate()
        assert b"holds" in out, out
    assert objects.ready.exists()
    assert objects.left_behind() == set()
    assert objects.before.read_text(encoding="ascii") == "the machine's"


@pytest.mark.usefixtures("network")
@users
def test_no_object_of_a_client_outlives_an_audit_that_is_killed(user: str, objects: Objects, scratch: Path) -> None:
    with nothing_left(scratch) as mark, audit_as(user, objects, mark) as audit:
        wait_for(objects.ready.exists, "the client did not start", while_runs=audit)
        os.killpg(audit.pid, signal.SIGKILL)
        audit.communicate()
        wait_for(lambda: marked(mark["TAILBITE_TEST_MARK"]) == [], "processes outlive the audit")
        wait_for(lambda: not any(scratch.iterdir()), "the scratch folder is left")
    assert objects.left_behind() == set()


@pytest.mark.usefixtures("network")
def test_a_client_and_its_scratch_folder_may_lie_in_dev_shm(objects: Objects) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        objects.script = Path(shutil.copy(objects.script, folder))
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        with nothing_left(scratch) as mark:
            with audit_as("root", objects, {**mark, "TMPDIR": str(scratch)}) as audit:
                out, _ = audit.communicate()
            assert b"holds" in out, out
    assert objects.left_behind() == set()
