"""The examples of every help: each is a valid command line, and does what it is printed for."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shlex
import signal
import socket
import threading
from typing import TYPE_CHECKING

import click
import pytest

from support.forked_cli import Case, forked_commands
from tailbite.cli.group import tailbite

if TYPE_CHECKING:
    from collections.abc import Iterator


def _examples(group: click.Group, path: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found += _examples(command, (*path, name))
        elif command is not None:
            lines = re.findall(r"^\s+(?:sudo )?tailbite ([^\n]*)$", command.help or "", re.MULTILINE)
            assert lines, f"{name} has no example"
            found += [re.split(r"\s+[#>|] ?", line)[0].strip() for line in lines]
    return found


EXAMPLES = _examples(tailbite)


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_valid_command_line(line: str) -> None:
    command: click.Command = tailbite
    words = shlex.split(line.replace("$(hostname)", "host"))
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    parser = command.make_parser(click.Context(command))
    if "--" in words:
        words = words[: words.index("--")]
    given, _, _ = parser.parse_args(words)
    for option in command.params:
        value = given.get(option.name or "")
        is_file = isinstance(option.type, click.Path) or option.name in ("ports", "baseline")
        if isinstance(value, str) and not is_file:
            option.type.convert(value, option, click.Context(command))


SEEN = (0, 1, 3)
"""Statuses of a command that looks at the whole machine: other tests may have a self-connect at that moment."""
NOT_RUN = {
    "wait postgres://db redis://cache https://web/health -- ./app": "servers: tests/verifiers/test_real_servers.py",
    "scan --kill --apply": "acts on the whole machine: tests/cli/test_scan.py does it in one namespace",
    "watch --kill": "acts on the whole machine: tests/watch does it in one namespace",
    "exporter": "serves until it is ended: tests/cli/test_watch.py scrapes it",
    "demo": "tests/cli/test_circumstances.py runs it",
    "lab parity": "tests/cli/test_circumstances.py runs it",
    "lab parity --json": "tests/cli/test_circumstances.py runs it",
    "fix --undo --apply": "reverts what was applied before: tests/cli/test_circumstances.py",
    "audit -- redis-cli -h {host} -p {port} ping": "audits take long: tests/audit/test_known_clients.py",
    "audit --recovery -- ./my-client --server {host}:{port}": "audits take long: tests/audit/test_recover.py",
    "audit --catalogue postgres --html postgres.html": "audits take long: tests/audit/test_known_clients.py",
    "lab loop": "takes 10 s: tests/lab/test_loop.py with fewer hits",
    "lab loop --port 32775 --bind-first --hits 100": "takes 30 s: tests/lab/test_loop.py with fewer hits",
    "lab cures": "takes 10 s: tests/lab/test_cures.py with fewer attempts",
    "lab cures --restarts 3 --data cures.jsonl": "takes 10 s: tests/lab/test_cures.py with fewer attempts",
}
STATUSES: dict[str, tuple[int, ...]] = {
    "scan": SEEN,
    "why 8080": SEEN,
    "doctor": SEEN,
    "doctor --json": SEEN,
    "doctor --ports 50051,30000-32767 --severity warning": (1,),
    "doctor --write-baseline accepted.json": SEEN,
    "doctor --baseline accepted.json --ignore TB207": SEEN,
    "fix": SEEN,
    "check": SEEN,
    "check --as nagios": (0, 1, 2, 3),
    "scan --watch 5s --json-lines": (130,),
    "watch": (130,),
    "watch --json-lines --for 1h": (130,),
}
ENDED_BY = {
    "scan --watch 5s --json-lines": signal.SIGINT,
    "watch": signal.SIGINT,
    "watch --json-lines --for 1h": signal.SIGINT,
}
WITH_SERVERS = (
    "wait --status 200,401 http://web:8080/private",
    "wait db:5432 cache:6379 --timeout 30s -- ./app --port 80",
)
SAYS = {
    "run -- telnet 127.0.0.1 32246": "/telnet 127.0.0.1 32246",
    "run --port 46884 -- java -jar client.jar": "/java -jar client.jar",
    "wait db:5432 cache:6379 --timeout 30s -- ./app --port 80": "./app --port 80",
    "wait --free 8080 -- ./server --port 8080": "./server --port 8080",
    "why --explain TB103": "TB103",
    "lab handshake --mermaid": "sequenceDiagram",
    "fix --reserve 50051,8125-8130 --apply": "8125-8130,50051",
}


class Private(http.server.BaseHTTPRequestHandler):
    """A web page for which one must log in."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def servers() -> Iterator[None]:
    with (
        socket.create_server(("127.0.0.1", 5432)),
        socket.create_server(("127.0.0.1", 6379)),
        http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Private) as web,
    ):
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        web.shutdown()
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.usefixtures("network")
def test_each_example_does_what_it_is_printed_for() -> None:
    lines = [line for line in EXAMPLES if line not in NOT_RUN and not line.startswith("host-guard")]
    assert set(NOT_RUN) | set(STATUSES) | set(ENDED_BY) | set(SAYS) | set(WITH_SERVERS) <= set(EXAMPLES)
    plain = [line for line in lines if line not in WITH_SERVERS]
    with forked_commands() as run_all:
        found = run_all([_case(line) for line in plain])
        with servers():
            found += run_all([_case(line) for line in WITH_SERVERS])
    for line, one in zip([*plain, *WITH_SERVERS], found, strict=True):
        assert one.status in STATUSES.get(line, (0,)), (line, one)
        assert "Traceback" not in one.err, (line, one)
        assert SAYS.get(line, "") in one.out, (line, one)


def _case(line: str) -> Case:
    number = ENDED_BY.get(line, 0)
    place = "programs of examples" if line.startswith("run") else "host of examples"
    lighter = line.replace("--hosts 1e6", "--hosts 1e4")  # a million hosts are simulated in 4 s
    return Case(shlex.split(lighter), place, number, SOME if number else 0)


SOME = 3
"""Files, sockets and processes that a command opens before the signal comes that ends it."""
