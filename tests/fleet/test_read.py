"""A folder of JSON files becomes one record for each host; what cannot be used is named with its reason."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fleet.documents import doctor, finding, owner, scan, socket_on, write
from tailbite.core.ports import PortSet
from tailbite.fleet.read import files_by_host, read_host

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("web1.json", ("", "web1")),
        ("web1.scan.json", ("", "web1")),
        ("web1.example.org.doctor.json", ("", "web1.example.org")),
        ("web1/scan.json", ("", "web1")),
        ("db/web1.json", ("db", "web1")),
        ("db/web1/doctor.json", ("db", "web1")),
        ("eu/db/web1.json", ("eu/db", "web1")),
    ],
)
def test_names_of_files_are_names_of_hosts(name: str, host: tuple[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, name, scan())
    assert files_by_host(tmp_path) == ({host: [path]}, [])


def test_both_documents_of_a_host_are_one_record(tmp_path: Path) -> None:
    write(tmp_path, "h.scan.json", scan(socket_on(40000, owner("loop", unit="loop.service")), taken=5))
    found = [finding("TB101", "40000", owner("loop")), finding("TB204", "50051-50052", owner("grpc"))]
    write(tmp_path, "h.doctor.json", doctor(*found, taken=7, not_visible=("x",)))
    (paths,) = files_by_host(tmp_path)[0].values()
    host, unread = read_host("", "h", paths)
    assert host is not None
    assert (host.taken, host.is_complete, host.was_examined, unread) == (5, False, True, [])
    assert [(one.port, one.owner, one.unit) for one in host.self_connects] == [(40000, "loop", "loop.service")]
    assert host.exposed == PortSet.parse("50051-50052")
    assert host.programs == (("grpc", PortSet.parse("50051-50052")),)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may delete it, or keep it to itself, while the report reads."""
    path = write(tmp_path, "db/web1.json", scan())
    write(tmp_path, "gone/web2.json", scan())
    listed = os.scandir

    def scandir(place: str) -> object:
        if str(place).endswith("gone"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    files, (unread,) = files_by_host(tmp_path)
    assert files == {("db", "web1"): [path]}
    assert (unread.path, unread.reason) == (
        tmp_path / "gone",
        "the folder cannot be listed: No such file or directory",
    )


def test_what_is_not_a_file_or_nests_too_deeply_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for (group, name), paths in files_by_host(tmp_path)[0].items():
        host, (unread,) = read_host(group, name, paths)
        assert host is None
        assert unread.reason in {"not a regular file", "nests too deeply"}
    (tmp_path / "gone.json").write_text("{}")
    paths = files_by_host(tmp_path)[0]["", "gone"]
    paths[0].unlink()
    assert [one.reason for one in read_host("", "gone", paths)[1]] == ["No such file or directory"]


def test_without_a_scan_the_doctor_tells_of_self_connects(tmp_path: Path) -> None:
    path = write(tmp_path, "h.json", doctor(finding("TB101", "40000", owner("loop")), finding("TB102", "40001")))
    host, _ = read_host("", "h", [path])
    assert host is not None
    assert [(one.port, one.state) for one in host.self_connects] == [(40000, "ESTABLISHED"), (40001, "TIME-WAIT")]


def test_the_newest_of_a_kind_counts(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.json", scan(socket_on(1), taken=9)), write(tmp_path, "b.json", scan(taken=8))]
    for order in (paths, paths[::-1]):
        host, _ = read_host("", "h", order)
        assert host is not None
        assert len(host.self_connects) == 1


def test_results_of_the_ansible_modules_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "h.json", {"changed": False, "document": scan(socket_on(40000))})
    host, _ = read_host("", "h", [path])
    assert host is not None
    assert host.self_connects[0].port == 40000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "neither a document of"),
        ("3", "neither a document of"),
        ('{"schema": "tailbite.audit/1", "taken": 1}', "neither a document of"),
        ('{"schema": "tailbite.scan/1"}', "does not say when it was taken"),
        *(
            (f'{{"schema": "tailbite.scan/1", "taken": {taken}}}', "does not say when it was taken")
            for taken in ("1e20", "1e12", "-1", "true", "NaN", "Infinity", '"1"')
        ),
        ('{"schema": "tailbite.scan/1", "taken": 1}', "not as documented: KeyError('self_connects')"),
        ('{"schema": "tailbite.scan/1", "taken": 1, "self_connects": [3]}', "not as documented"),
        (
            '{"schema": "tailbite.doctor/1", "taken": 1, "findings": [{"code": "TB204", "ports": "x"}]}',
            "as documented",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_reason(text: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, "h.json", text)
    host, unread = read_host("", "h", [path])
    assert host is None
    assert [(one.path, reason in one.reason) for one in unread] == [(path, True)]


@pytest.mark.usefixtures("network")
def test_the_commands_own_documents_are_read(tmp_path: Path) -> None:
    """The documents that scan and doctor print now can be read: a self-connect and an exposed listener."""
    program = "import socket; s = socket.create_server(('127.0.0.1', 50051)); c = socket.socket()\n"
    program += "c.bind(('127.0.0.1', 41000)); c.connect(('127.0.0.1', 41000)); print(flush=True)\n"
    program += "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        for command in ("scan", "doctor"):
            call = [sys.executable, "-m", "tailbite", command, "--netns", "self", "--json"]
            done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
            write(tmp_path, f"h.{command}.json", done.stdout)
        holder.stdin.close()
    (paths,) = files_by_host(tmp_path)[0].values()
    host, unread = read_host("", "h", paths)
    assert unread == []
    assert host is not None
    assert [one.endpoint for one in host.self_connects] == ["127.0.0.1:41000"]
    assert host.exposed == PortSet.of([50051])
    assert host.programs[0][1] == PortSet.of([50051])
