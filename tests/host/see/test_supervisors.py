"""The supervisor of a process is named with its service as the supervisor's own command takes it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import signal
from typing import TYPE_CHECKING

import pytest

from tailbite.host.explain.remedies import restart_holders
from tailbite.host.see.processes import describe_process
from tailbite.host.see.records import Container, Process, Supervisor
from tailbite.host.see.supervisors import supervisor_of
from tailbite.kernel.prctl import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PR_SET_NAME = 15


@contextlib.contextmanager
def descendant(*names: str, folder: Path, in_terminal: bool = False) -> Iterator[int]:
    """Start a process of the first name, which starts one of the second, and so on; yield the last pid."""
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        die_with_parent()
        os.setsid()
        if in_terminal:
            os.open(os.ttyname(pty.openpty()[1]), os.O_RDWR)  # becomes the controlling terminal
        os.chdir(folder)
        for number, name in enumerate(names):
            if number and os.fork():
                signal.pause()
            die_with_parent()
            ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
        os.write(writing, str(os.getpid()).encode())
        signal.pause()
    try:
        yield int(os.read(reading, 20))
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("name", "project", "line"),
    [
        ("runsv", "runit", "sv restart {}"),
        ("s6-supervise", "s6", "s6-svc -r {}"),
        ("supervise", "daemontools", "svc -t {}"),
    ],
)
@pytest.mark.parametrize("between", [(), ("sh",), ("sh", "nginx")])
def test_the_folder_of_the_service_is_that_of_its_supervisor(
    name: str, project: str, line: str, between: tuple[str, ...], tmp_path: Path
) -> None:
    with descendant(name, *between, "app", folder=tmp_path) as pid:
        seen = describe_process(pid)
    assert seen is not None
    assert seen.supervisor == Supervisor(project, str(tmp_path))
    (remedy,) = restart_holders([seen])
    assert remedy.commands == (line.format(tmp_path),)


@pytest.mark.parametrize(("group", "name"), [("web", "web:web_00"), ("web_00", "web_00")])
def test_a_program_of_supervisord_is_named_as_supervisorctl_does(
    group: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "6").mkdir()
    files = {
        "7/stat": "7 (app) S 6 7 7 0 -1",
        "7/environ": f"A=1\0SUPERVISOR_GROUP_NAME={group}\0SUPERVISOR_PROCESS_NAME=web_00\0",
        "6/comm": "supervisord\n",
        "6/stat": "6 (supervisord) S 1 6 6 0 -1",
    }
    for path, text in files.items():
        (tmp_path / path).write_text(text, encoding="ascii")
    monkeypatch.setattr("tailbite.kernel.procfs.PROC", tmp_path)
    assert supervisor_of(7, "") == Supervisor("supervisord", name)


def test_a_program_that_was_started_in_a_session_is_not_the_service_that_the_session_came_from(
    tmp_path: Path,
) -> None:
    with descendant("runsv", "sshd", "sh", "app", folder=tmp_path) as pid:
        assert supervisor_of(pid, "1:name=openrc:/sshd\n") is None
    with descendant("runsv", "sshd", folder=tmp_path) as pid:
        assert supervisor_of(pid, "") == Supervisor("runit", str(tmp_path))
    with descendant("runsv", "getty", "app", folder=tmp_path, in_terminal=True) as pid:
        assert supervisor_of(pid, "") is None


@pytest.mark.parametrize(
    ("cgroup", "service"),
    [("5:pids:/\n1:name=openrc:/redis\n", "redis"), ("0::/openrc.redis\n", "redis"), ("0::/redis\n", None)],
)
def test_openrc_is_read_from_the_cgroup(cgroup: str, service: str | None, tmp_path: Path) -> None:
    with descendant("app", folder=tmp_path) as pid:
        found = supervisor_of(pid, cgroup)
    assert found == (Supervisor("openrc", service) if service else None)


@pytest.mark.parametrize(
    ("owner", "verb", "line"),
    [
        (
            Process(8, "app", container="box", runtime="docker", supervisor=Supervisor("s6", "/run/service/web")),
            "stop",
            "docker exec box s6-svc -d /run/service/web",
        ),
        (
            Process(8, "app", unit="supervisor.service", supervisor=Supervisor("supervisord", "web:web_00")),
            "restart",
            "supervisorctl restart web:web_00",
        ),
        (
            Process(
                8,
                "app",
                container="in",
                runtime="podman",
                within=(Container("out", "docker"),),
                supervisor=Supervisor("openrc", "a b"),
            ),
            "stop",
            "docker exec out podman exec in rc-service 'a b' stop",
        ),
    ],
)
def test_the_service_is_restarted_where_its_supervisor_is(owner: Process, verb: str, line: str) -> None:
    (remedy,) = restart_holders([owner], verb=verb)
    assert remedy.commands == (line,)
    assert remedy.needs_root
