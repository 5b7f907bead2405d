"""Every document of these commands is valid by the schema that ``tailbite schema`` prints, in many situations."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from conftest import find_peer
from support.boot import empty_tree
from support.holders import KINDS, Holder
from support.users import python_as_nobody
from tailbite.cli import doctor, fix, scan, schema, why
from tailbite.cli.group import tailbite
from tailbite.cli.schema import known_schemas, read_schema
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 40000
DATA = Path(__file__).parents[2] / "docs/data"
Draft202012Validator: Any = import_module("jsonschema").Draft202012Validator


def assert_valid(name: str, text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    Draft202012Validator(json.loads(read_schema(name))).validate(document)
    return document


def checked(command: click.Command, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert command.name is not None
    return assert_valid(command.name, result.stdout)


@pytest.mark.parametrize("name", known_schemas())
def test_each_schema_is_a_schema_and_is_printed(name: str) -> None:
    text = CliRunner().invoke(schema.command, [name], standalone_mode=False).stdout
    assert text == read_schema(name)
    Draft202012Validator.check_schema(json.loads(text))
    own = json.loads(text)
    assert own["$id"] == own["properties"]["schema"]["const"]
    assert re.fullmatch(rf"tailbite\.{name}/[1-9]", own["$id"])


def test_the_names_are_listed_and_another_is_refused() -> None:
    listed = CliRunner().invoke(schema.command, [], standalone_mode=False).stdout
    assert listed.split() == list(known_schemas())
    assert {"scan", "why", "doctor", "fix", "baseline"} <= set(known_schemas())
    done = subprocess.run([sys.executable, "-m", "tailbite", "schema", "scann"], capture_output=True, text=True)
    assert (done.returncode, "there is no schema 'scann'" in done.stderr) == (2, True)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", KINDS)
def test_documents_about_every_kind_of_holder_are_valid(kind: str) -> None:
    with Holder(kind, "127.0.0.1", reuse=False).held(PORT):
        for place in (str(PORT), f"[::1]:{PORT}"):
            assert checked(why.command, place, "--json", "--netns", "self")["findings"]
        checked(doctor.command, "--json", "--netns", "self", "--ports", f"{PORT},50000-50010")
        checked(scan.command, "--json", "--netns", "self")


@pytest.mark.usefixtures("network")
def test_documents_about_other_situations_are_valid(tmp_path: Path) -> None:
    for place in ("5432", "192.0.2.7:80", "40001"):
        checked(why.command, place, "--json")
    with socket.create_server(("127.0.0.1", 6379)):
        write_ephemeral_range(PortRange(40000, 40001))
        clients = [socket.create_connection(("127.0.0.1", 6379)) for _ in range(2)]
        assert checked(why.command, "6379", "--json")["findings"][0]["code"] == "TB211"
        for client in clients:
            client.close()
    root = empty_tree(tmp_path / "root")
    (root / "etc/sysctl.d/10-x.conf").write_text("net.ipv4.ip_local_reserved_ports = 1, 2\n")
    checked(doctor.command, "--json", "--root", str(root))
    checked(fix.command, "--json", "--root", str(root), "--reserve", "8125")
    checked(fix.command, "--json", "--reserve", "8125")


@pytest.mark.usefixtures("network")
def test_changes_and_destructions_are_valid() -> None:
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        assert checked(fix.command, "--json", "--kill", str(PORT))["changes"]
        assert checked(scan.command, "--json", "--netns", "self", "--kill", "--apply")["killed"]


@pytest.mark.usefixtures("network")
def test_a_baseline_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    arguments = ["--netns", "self", "--ports", "50000-50010,50050", "--write-baseline", str(file)]
    result = CliRunner().invoke(doctor.command, arguments, standalone_mode=False)
    assert result.return_value == 1
    assert_valid("baseline", file.read_text())
    again = CliRunner().invoke(doctor.command, [*arguments[:4], "--baseline", str(file)], standalone_mode=False)
    assert (
        again.return_value,
        "Nothing found in 1 network namespace; without what --ignore and --baseline accept." in again.stdout,
    ) == (0, True)
    more = ["--netns", "self", "--ports", "50000-50011,50050", "--baseline", str(file), "--json"]
    (new,) = json.loads(CliRunner().invoke(doctor.command, more, standalone_mode=False).stdout)["findings"]
    assert new["ports"] == "50011"


RUNS = {
    ("run",): ("run", "run --stats-json - -- true"),
    ("wait",): ("wait", "wait --json -t 0 127.0.0.1:1"),
    ("scan",): ("scan", "scan --netns self -j"),
    ("why",): ("why", f"why {PORT} --netns self -j"),
    ("doctor",): ("doctor", "doctor --netns self -j"),
    ("fix",): ("fix", "fix --reserve 8125 -j"),
    ("host-guard", "install"): ("host-guard.change", "host-guard install --dry-run --systemd -j"),
    ("host-guard", "remove"): ("host-guard.change", "host-guard remove --dry-run -j"),
    ("host-guard", "status"): ("host-guard", "host-guard status -j"),
    ("watch",): ("watch", "watch --netns self --source poll --for 300ms --every 50ms -j"),
    ("check",): ("check", "check --netns self -j"),
    ("audit",): ("audit-check", "audit --check-catalogue --catalogue nc -j"),
    ("demo",): ("demo", "demo -j"),
    ("lab", "loop"): ("lab.loop", f"lab loop --from {DATA}/loop-story.jsonl.gz -j"),
    ("lab", "odds"): ("lab.odds", "lab odds --port 32774 --range 32768-60999 --outage 1h --hosts 10 -j"),
    ("lab", "parity"): ("lab.parity", "lab parity -j"),
    ("lab", "handshake"): ("lab.handshake", f"lab handshake --from {DATA}/handshake.jsonl -j"),
    ("lab", "cures"): ("lab.cures", f"lab cures --from {DATA}/cures.jsonl -j"),
    ("report",): ("report", "report FACTS -j"),
}
"""For each command with a JSON option the schema of a document, and a command line that prints one."""


def commands_with_json(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each command that has an option whose name ends in json or json-lines."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands_with_json(command, (*path, name))
        elif command is not None and any(
            option.endswith(("json", "json-lines")) for param in command.params for option in param.opts
        ):
            yield (*path, name)


def test_every_command_with_a_json_option_is_among_those_whose_documents_are_checked() -> None:
    assert sorted(commands_with_json(tailbite)) == sorted(RUNS)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("path", RUNS, ids=" ".join)
def test_a_document_of_every_command_is_valid(path: tuple[str, ...], tmp_path: Path) -> None:
    schema_name, line = RUNS[path]
    if path[0] == "host-guard":
        find_peer("iptables")
    (tmp_path / "broken.json").write_text("{")
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        (tmp_path / "here.scan.json").write_text(printed("scan --netns self -j").stdout)
        done = printed(line.replace("FACTS", str(tmp_path)))
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines() if path == ("watch",) else [done.stdout]
    for text in lines:
        assert assert_valid(schema_name, text)["schema"] == f"tailbite.{schema_name}/1"
    assert "Traceback" not in done.stderr


def printed(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tailbite", *line.split()], capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
@pytest.mark.usefixtures("network")
def test_documents_of_an_ordinary_user_are_valid() -> None:
    with Holder("self_bound", "127.0.0.1", reuse=False).held(PORT):
        for name, arguments in (("scan", ()), ("why", (str(PORT),)), ("doctor", ())):
            command = python_as_nobody("-m", "tailbite", name, *arguments, "--json")
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            unseen = {item["what"]: item["number"] for item in assert_valid(name, done.stdout)["not_visible"]}
            assert unseen["the processes of other users"] == errno.EACCES, unseen  # no sentence need be read for it
