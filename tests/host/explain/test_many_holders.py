"""Many holders of one port: one answer for all of them, and commands that free the port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.guarded import wait_until
from support.holders import server_binds
from tailbite.host.explain.remedies import restart_holders
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port
from tailbite.host.see.records import Process, Supervisor

if TYPE_CHECKING:
    from tailbite.host.explain.finding import Finding

PORT = 33006
MASTER = Process(100, "app", user="www", parent=1, parent_name="init", started=10.0)
WORKERS = [replace(MASTER, pid=200 + number, parent=100, parent_name="app", started=11.0) for number in range(30)]
FORKING = f"""
import os, socket
listeners = [socket.socket() for _ in range(3)]
for one in listeners:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", {PORT}))
    one.listen()
workers = 0
while workers < 6:
    workers += 1
    if os.fork() == 0:
        break
os.write(1, b".")
os.read(0, 1)  # until the test closes it
"""


def explain(port: int = PORT, host: str | None = None) -> Finding:
    (shot,) = inspect_port(port, [current_namespace()])
    return explain_port(shot, (), host).findings[0]


@pytest.mark.usefixtures("network")
def test_the_command_that_ends_a_server_ends_its_workers_and_frees_the_port() -> None:
    """Children that only inherited the listener would keep the port if the server alone were ended."""
    with subprocess.Popen([sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.read(7) == b"." * 7
        finding = explain()
        assert [(one.name, one.text) for one in finding.facts] == [
            (f"queue of 127.0.0.1:{PORT}", "0 of 384 waiting, in 3 queues")
        ]
        (remedy,) = finding.remedies
        assert f"(pid {server.pid})" in remedy.text
        assert ", and 6 processes that it started;" in remedy.text
        first, *others = remedy.commands[0].removeprefix("kill ").split()
        assert int(first) == server.pid
        server.terminate()  # the control: the server alone
        server.wait(timeout=60)
        assert not server_binds("127.0.0.1", PORT, reuse=True)
        for pid in others:
            os.kill(int(pid), signal.SIGTERM)
        wait_until(lambda: server_binds("127.0.0.1", PORT, reuse=True), "the port is free")


@pytest.mark.usefixtures("network")
def test_listeners_on_many_addresses_are_counted_and_few_are_listed() -> None:
    listeners = [socket.create_server((f"127.0.1.{number}", PORT)) for number in range(1, 41)]
    try:
        finding, elsewhere = explain(), explain(host="127.0.0.1")
    finally:
        for one in listeners:
            one.close()
    for answer in (finding, elsewhere):
        assert "and 35 more addresses" in answer.what
        assert [fact.value for fact in answer.facts] == [0, 0, 0, 0, 0, 35]
    assert "and 35 more addresses instead" in elsewhere.remedies[0].text


@pytest.mark.usefixtures("network")
def test_sockets_of_another_protocol_are_counted_and_few_are_listed() -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    for number, one in enumerate(sockets):
        one.bind((f"127.0.1.{number + 1}", PORT))
    (shot,) = inspect_port(PORT, [current_namespace()])
    (finding,) = [one for one in explain_port(shot).findings if one.code == "TB116"]
    for one in sockets:
        one.close()
    assert "and 15 more addresses." in finding.what


def test_a_server_comes_before_its_workers_and_has_one_command() -> None:
    (remedy,) = restart_holders([*WORKERS[::-1], MASTER])
    assert remedy.text.startswith("restart app (pid 100) of user www, running since ")
    assert remedy.text.endswith(", and 30 processes that it started")
    assert remedy.commands == (" ".join(["kill", "100", *(str(one.pid) for one in WORKERS)]),)


def test_workers_whose_server_is_gone_have_one_command() -> None:
    orphans = [replace(one, parent=1, parent_name="init") for one in WORKERS[:2]]
    (remedy,) = restart_holders(orphans, verb="stop")
    assert remedy.text.endswith(", and 1 process like it")
    assert remedy.commands == ("kill 200 201",)


def test_workers_of_a_parent_that_holds_nothing_may_be_started_again() -> None:
    (remedy,) = restart_holders(WORKERS[:3])
    assert remedy.text.endswith(", and 2 processes like it; their parent app (pid 100) may start them again")


@pytest.mark.parametrize(
    ("kept_by", "text", "command"),
    [
        (
            {"unit": "app.service"},
            "restart app.service, which {who}, and 30 more belong to",
            "systemctl restart app.service",
        ),
        (
            {"container": "web", "runtime": "docker"},
            "restart container web, in which {who}, and 30 more run",
            "docker restart web",
        ),
        (
            {"supervisor": Supervisor("runit", "web")},
            "restart web, a service of runit that {who}, and 30 more belong to",
            "sv restart web",
        ),
        (
            {"name": "docker-proxy"},
            "restart the container that publishes the port; {who}, and 30 more only forward it",
            "docker ps --filter publish=80",
        ),
    ],
)
def test_a_manager_is_named_once_for_all_its_processes(kept_by: dict[str, object], text: str, command: str) -> None:
    owners = [replace(one, **kept_by, started=None) for one in (MASTER, *WORKERS)]  # type: ignore[arg-type]
    (remedy,) = restart_holders(owners, port=80)
    assert remedy.text == text.format(who=f"{owners[0]} of user www")
    assert remedy.commands == (command,)


def test_programs_that_have_nothing_in_common_are_named_one_by_one_but_not_all() -> None:
    strangers = [Process(300 + number, f"app{number}", started=float(number)) for number in range(12)]
    *some, rest = restart_holders(strangers, port=80)
    assert [one.commands for one in some] == [(f"kill {300 + number}",) for number in range(5)]
    assert (rest.text, rest.commands) == ("and so on, for 7 more that hold it", ("ss -tanp sport = :80",))


def test_processes_that_name_each_other_as_parents_end_the_search() -> None:
    """A parent may have ended, and its number may belong to a child's child."""
    circle = [
        replace(MASTER, pid=5, parent=6, parent_name="app"),
        replace(MASTER, pid=6, parent=5, parent_name="app"),
    ]
    assert len(restart_holders(circle)) in (1, 2)
