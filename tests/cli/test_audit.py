"""``tailbite audit`` as a user meets it: tables, JSON, exit status, mistakes, and no root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tailbite
from conftest import find_peer
from tailbite.cli.audit import command
from tailbite.cli.schema import read_schema

CLIENTS = str(Path(__file__).parents[1] / "audit" / "clients.py")
NOBODY = 65534
Draft202012Validator: Any = import_module("jsonschema").Draft202012Validator
FAULTY = """
name = "faulty"
groups = ["own"]
command = ["curl", "--max-time", "5", "http://{host}:{port}/"]
install = "apt-get install curl"
[installed]
programs = ["sh"]
"""


def run(*arguments: str, status: int | None = None) -> str:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    if status is not None:
        assert result.return_value == status, result.output
    return result.stdout


def valid(text: str) -> dict[str, Any]:
    """Return a document that is valid by the schema it names."""
    document: dict[str, Any] = json.loads(text)
    (name,) = re.findall(r"^tailbite\.([a-z-]+)/\d$", document["schema"])
    Draft202012Validator(json.loads(read_schema(name))).validate(document)
    return document


def audited(kind: str, *options: str) -> tuple[str, ...]:
    return ("--quick", "--timeout", "60", *options, "--", sys.executable, CLIENTS, kind, "{host}", "{port}")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("kind", "options", "status"),
    [
        ("immune", (), 0),
        ("aborting", (), 1),
        ("aborting", ("--require", "aborts"), 0),
        ("aborting", ("--require", "immune"), 1),
        ("blocking", ("--require", "aborts"), 1),
        ("quitting", (), 3),
        ("quitting", ("--require", "aborts"), 1),
        ("unable", (), 4),
    ],
)
def test_the_exit_status_says_whether_it_passed(kind: str, options: tuple[str, ...], status: int) -> None:
    run(*audited(kind, *options), status=status)


@pytest.mark.usefixtures("network")
def test_json_has_the_schema_and_the_verdicts_fields(tmp_path: Path) -> None:
    told = valid(run(*audited("holding", "--json", "--html", str(tmp_path / "x.html")), status=1))
    assert told["schema"] == "tailbite.audit/2"
    (client,) = told["clients"]
    assert set(client) >= {
        *("client", "verdict", "believed", "self_connects", "longest_hold", "bytes_to_itself", "left"),
        *("server_down_plain", "server_down_reuse", "recovered_after", "phases"),
    }
    assert (client["verdict"], client["believed"], client["left"]) == ("holds", "yes", "established")
    assert client["phases"][0]["output"] == "are you there?\n\n"
    assert "are you there?" in (tmp_path / "x.html").read_text()


@pytest.mark.usefixtures("network")
def test_the_table_fits_eighty_columns_and_gives_the_reason() -> None:
    shown = run(*audited("blocking"))
    assert max(map(len, shown.splitlines())) <= 80
    assert "blocks" in shown
    assert "TIME-WAIT kept a server" in " ".join(shown.split())


@pytest.mark.usefixtures("network")
def test_documents_of_several_clients_with_recovery_and_without_a_verdict_are_valid() -> None:
    python = f"{sys.executable} {CLIENTS}"
    kinds = ("quitting", "unable", "crashing", "failing_pool")
    words = [word for kind in kinds for word in ("--command", f"{python} {kind} {{host}} {{port}}")]
    told = valid(
        run("--json", "--recovery", "--watch", "0.3", "--patience", "0.5", "--timeout", "60", *words, status=1)
    )
    by_name = {client["client"]: client for client in told["clients"]}
    assert [client["verdict"] for client in by_name.values()] == ["unexercised", "unsupported", "blocks", "blocks"]
    outcomes = {client["recovered_after"]["outcome"] for client in by_name.values()}
    assert {"not-measured", "longer-than-patience"} <= outcomes | {"longer-than-patience"}
    assert any(phase["recovery"] for phase in told["clients"][3]["phases"])


def test_documents_about_the_catalogue_are_valid(tmp_path: Path) -> None:
    valid(run("--list", "--json", "--catalogue", "redis"))
    valid(run("--check-catalogue", "--json", status=0))
    entry = tmp_path / "bad.toml"
    entry.write_text(FAULTY, encoding="utf-8")
    assert valid(run("--check-catalogue", "--json", "--catalogue", str(entry), status=1))["faults"]


@pytest.mark.timeout(300)  # it asks some two hundred programs for their version
def test_the_list_names_every_client_and_says_what_is_missing() -> None:
    told = json.loads(run("--list", "--json", status=0))
    assert told["schema"] == "tailbite.audit-list/1"
    by_name = {client["client"]: client for client in told["clients"]}
    assert by_name["python-socket"]["installed"]
    assert all(client["install"] for client in told["clients"])
    assert "telnet" in run("--list", "--catalogue", "telnet", status=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give either a command after -- (or"),
        (
            ("--catalogue", "redis", "--", "x", "{port}"),
            "give either a command after -- (or",
        ),
        (("--", "telnet", "127.0.0.1", "5432"), "the command must contain {port}"),
        (("--catalogue", "redsi"), "did you mean 'redis'"),
        (("--catalogue", "./none.toml"), "none.toml: No such file or directory"),
        (("--catalogue", "redis", "--success", "x"), "--success is for a command"),
        (("--success", "(", "--", "x", "{port}"), "is not a valid regular expression"),
        (("--catalogue", "redis", "--name", "x"), "--name is for a command"),
        (("--name", "a", "--name", "b", "--", "x", "{port}"), "there are 2 names for 1 commands"),
        (("--name", "a", "--name", "a", "--command", "x {port}", "--", "x", "{port}"), "is given twice"),
        (("--json", "-o", "github", "--", "x", "{port}"), "--json is -o json"),
        (("--patience", "0", "--", "x", "{port}"), "0 is not a valid time to wait: give more than 0"),
        (("--watch", "-1", "--", "x", "{port}"), "'-1' is not a valid duration"),
        (("--watch", "nan", "--", "x", "{port}"), "'nan' is not a valid duration"),
        (("--timeout", "9" * 400, "--", "x", "{port}"), "it is longer than 100 years"),
        (("--name", "", "--", "x", "{port}"), "--name '' is not a valid name"),
        (("--", "", "{port}"), "the command begins with an empty word"),
        (("--catalogue", ""), "'' is neither a client nor a group"),
        (("--list", "--", "x", "{port}"), "audit nothing: leave out the command"),
        (("--cure", "cobol"), "'cobol' is not one of"),
        (("--quick", "--recovery", "--", "x", "{port}"), "--quick measures no recovery"),
        (("--server", "redis-server", "--", "x", "{port}"), "--server must contain {port}"),
        (("--server", "'", "--", "x", "{port}"), "cannot be split into words"),
        (("--html", "/no/such/folder/x", "--", "x", "{port}"), "there is no folder /no/such/folder"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("network")
def test_a_program_that_is_not_there_is_a_mistake() -> None:
    result = CliRunner().invoke(command, ("--quick", "--", "no-such-program", "{port}"))
    assert result.exit_code == 2
    assert "cannot run no-such-program: No such file or directory" in result.output


def interpreter_for_nobody() -> str:
    """An interpreter that a user without rights may execute; that of the tests often lies in a home."""
    for python in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if python is None:
            continue
        try:
            if subprocess.run([python, "-c", check], user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip("no Python 3.11 that another user may execute")


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(
    os.geteuid() != 0, reason="becoming another user takes root; without, all tests here are rootless"
)
def test_no_root_is_needed_and_the_client_runs_as_who_called() -> None:
    find_peer("telnet")
    python = interpreter_for_nobody()
    script = (
        "import json; from tailbite.audit import Client, Limits, audit; "
        "from tailbite.audit.report.data import verdict_as_data; "
        "v = audit(Client('x', ('sh', '-c', 'id -u; exec telnet {host} {port}')), Limits(quick=True)); "
        "print(json.dumps(verdict_as_data(v)))"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, NOBODY, NOBODY)
        told = subprocess.run(
            [python, "-c", script],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env={
                "PATH": os.defpath,
                "TMPDIR": folder,
                "HOME": folder,
                "PYTHONPATH": str(Path(tailbite.__file__).parents[1]),
            },
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert list(Path(folder).iterdir()) == []
    verdict = json.loads(told.stdout)
    assert verdict["verdict"] == "holds"
    assert verdict["phases"][0]["output"].startswith(f"{NOBODY}\n")
