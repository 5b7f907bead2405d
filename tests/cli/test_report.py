"""``tailbite report``: tables, CSV, JSON and HTML of many hosts, and its exit statuses."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from click import ClickException
from click.testing import CliRunner

from fleet.documents import doctor, finding, owner, scan, socket_on, write
from tailbite.cli.report import command

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
    code = result.return_value if result.exception is None else getattr(result.exception, "exit_code", 1)
    error = result.exception
    return code, result.stdout, result.stderr + (error.format_message() if isinstance(error, ClickException) else "")


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    folder = tmp_path / "facts"
    write(folder, "web/w1.json", doctor(finding("TB204", "50051", owner("grpc"))))
    write(folder, "web/w2.json", doctor(finding("TB204", "50051,40000", owner("grpc"))))
    write(folder, "db/d1.scan.json", scan(socket_on(32246, owner("=cmd()"))))
    return folder


def test_tables(fleet: Path) -> None:
    code, out, _ = run(fleet)
    assert code == 1
    assert "1 with a self-connect now, 2 of 2 examined with an exposed service" in out
    assert "db/d1" in out
    assert "tailbite fix --reserve 40000,50051 --apply" in out
    assert max(map(len, out.splitlines())) <= 80


def test_json(fleet: Path) -> None:
    code, out, _ = run(fleet, "--json")
    told = json.loads(out)
    assert (code, told["schema"], told["hosts"]) == (1, "tailbite.report/1", 3)
    assert told["exposures"][0] == {"ports": "50051", "hosts": 2, "programs": ["grpc"]}
    assert {group["name"]: group["reserve"] for group in told["groups"]} == {"db": "32246", "web": "40000,50051"}


def test_csv_has_no_formula(fleet: Path, tmp_path: Path) -> None:
    run(fleet, "--csv", tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [(row["kind"], row["host"], row["port"]) for row in rows][:2] == [
        ("self-connect", "d1", "32246"),
        ("exposed", "", "50051"),
    ]
    assert rows[0]["program"] == "'=cmd()"


def test_html(fleet: Path, tmp_path: Path) -> None:
    run(fleet, "--html", tmp_path / "r.html")
    assert "TCP self-connects on 3 hosts" in (tmp_path / "r.html").read_text()


def test_exit_statuses(tmp_path: Path) -> None:
    fine, partly = tmp_path / "fine", tmp_path / "partly"
    write(fine, "h.json", doctor())
    assert run(fine)[0] == 0
    write(partly, "h.json", doctor())
    write(partly, "i.json", "{")
    code, _, err = run(partly)
    assert (code, "not used: " in err, "not valid JSON" in err) == (3, True, True)


def test_a_folder_without_documents_is_wrong_usage(tmp_path: Path) -> None:
    write(tmp_path, "x.json", "{}")
    code, _, err = run(tmp_path)
    assert (code, "has no JSON document of tailbite scan or tailbite doctor" in err) == (2, True)
    assert run(tmp_path / "nowhere")[0] == 2


def test_a_file_that_cannot_be_written_is_one_sentence(fleet: Path, tmp_path: Path) -> None:
    code, _, err = run(fleet, "--html", tmp_path / "no" / "r.html")
    assert (code, "cannot be written" in err) == (2, True)
