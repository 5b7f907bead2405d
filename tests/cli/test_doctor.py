"""``tailbite doctor`` and ``tailbite fix`` as a user meets them: output, statuses, bad input, no root."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result

from support.boot import empty_tree
from tailbite.cli import doctor, fix
from tailbite.cli.show.fix import as_bytes
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change import journal
from tailbite.host.change.records import SettingChange
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports, write_reserved_ports

if TYPE_CHECKING:
    from pathlib import Path


PORT = 50050


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return empty_tree(tmp_path / "root")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the undo journal instead of the machine's own."""
    home = journal._home
    monkeypatch.setattr(journal, "_home", lambda root: tmp_path / "state" if root is None else home(root))
    return tmp_path / "state"


def run(command: click.Command, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def diagnose(*arguments: str) -> Result:
    return run(doctor.command, "--netns", "self", *arguments)


def document(command: click.Command, *arguments: str) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(run(command, "--json", *arguments).stdout)
    assert seen["schema"] == f"tailbite.{command.name}/1"
    return seen


def as_nobody(command: click.Command, *arguments: str) -> tuple[int, str]:
    """Run the command in a child that is nobody, and return its status and what it said on stderr.

    What it imports must be loaded by then: nobody may not be able to read this Python.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - it never comes back
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
        error = result.exception
        said = (
            error.format_message()
            if isinstance(error, click.ClickException)
            else f"{result.stderr}{error!r}".removesuffix("None")
        )
        os.write(writer, said.encode())
        os._exit(error.exit_code if isinstance(error, click.ClickException) else 70 if error else result.return_value)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.usefixtures("network")
def test_the_doctor_s_advice_is_what_fix_does(root: Path) -> None:
    """From the finding to its remedy: advised, shown, done, and nothing left to find; then reverted."""
    seen = diagnose("--ports", str(PORT), "--root", str(root))
    assert (seen.return_value, "TB109" in seen.stdout) == (1, True)

    shown = run(fix.command, "--ports", str(PORT))
    assert shown.return_value == 1
    assert f"sysctl -w net.ipv4.ip_local_reserved_ports={PORT}\n" in shown.stdout
    assert "28231 of 28232 source ports remain available" in shown.stderr
    assert read_reserved_ports() == PortSet()

    assert run(fix.command, "--ports", str(PORT), "--apply").return_value == 0
    assert read_reserved_ports() == PortSet.of([PORT])
    assert "TB109" not in diagnose("--ports", str(PORT), "--root", str(root)).stdout

    assert run(fix.command, "--undo", "--dry-run").return_value == 1
    assert read_reserved_ports() == PortSet.of([PORT])
    assert run(fix.command, "--undo", "--apply").return_value == 0
    assert read_reserved_ports() == PortSet()
    assert "nothing to revert" in run(fix.command, "--undo", "--apply").stderr


@pytest.mark.usefixtures("network")
def test_a_root_directory_is_changed_and_never_the_running_kernel(root: Path) -> None:
    """An image is built on this machine: its files change, and nothing else, not on the way back either."""
    below = ("--root", str(root))
    shown = run(fix.command, "--ports", str(PORT), *below)
    assert shown.return_value == 1
    assert f"+net.ipv4.ip_local_reserved_ports = {PORT}\n" in shown.stdout
    assert "sysctl -w" not in shown.stdout
    made = run(fix.command, "--reserve", str(PORT), "--range", "40000-60999", "--apply", *below)
    assert made.return_value == 0
    assert f"tailbite fix --undo --root {root} --apply reverts it" in made.stderr
    assert (read_reserved_ports(), read_ephemeral_range()) == (PortSet(), PortRange(32768, 60999))
    (file,) = (root / "etc/sysctl.d").iterdir()
    assert f"ip_local_reserved_ports = {PORT}\n" in file.read_text()
    write_reserved_ports(PortSet.of([PORT]))
    assert run(fix.command, "--undo", "--apply", *below).return_value == 0
    assert list((root / "etc/sysctl.d").iterdir()) == []
    assert read_reserved_ports() == PortSet.of([PORT])


@pytest.mark.usefixtures("network")
def test_the_old_spelling_of_undo_acts_with_a_warning() -> None:
    run(fix.command, "--reserve", "7000", "--apply")
    undone = run(fix.command, "--undo")
    assert read_reserved_ports() == PortSet()
    assert undone.return_value == 0
    assert "`fix --undo` without --apply will only show the change from the next release on" in undone.stderr


@pytest.mark.usefixtures("network")
def test_one_doctor_s_document_says_all_that_the_report_says(root: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        seen = document(doctor.command, "--netns", "self", "--root", str(root))
    (one,) = seen["findings"]
    assert (one["code"], one["severity"], one["confidence"]) == ("TB101", "critical", "certain")
    assert one["endpoint"] == f"127.0.0.1:{PORT}"
    assert one["remedies"][0]["commands"] == [f"tailbite fix --kill {PORT} --apply"]
    assert seen["namespaces"][0]["ephemeral"] == "32768-60999"
    assert {one["name"] for one in seen["kernel"]["abilities"]} >= {"IP_LOCAL_PORT_RANGE", "SOCK_DESTROY", "xt_bpf"}


@pytest.mark.usefixtures("network")
def test_fix_without_options_frees_and_reserves_what_the_doctor_found() -> None:
    with socket.socket() as sock, socket.socket() as server:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        server.bind(("127.0.0.1", PORT + 2))
        server.listen()
        seen = document(fix.command, "--apply")
        assert [one["kind"] for one in seen["changes"]] == ["setting", "destroy"]
        assert "keeps it until" in seen["changes"][-1]["note"]  # it had bound the port itself
        with pytest.raises(ConnectionAbortedError):
            sock.send(b"x")
    assert read_reserved_ports() == PortSet.of([PORT, PORT + 2])


@pytest.mark.usefixtures("network")
def test_the_range_moves_in_the_running_kernel() -> None:
    run(fix.command, "--range", "40000-60999", "--apply")
    assert read_ephemeral_range() == PortRange(40000, 60999)


@pytest.mark.usefixtures("network")
def test_another_namespace_is_fixed_and_taken_back_by_its_pid() -> None:
    script = (
        "from tailbite.kernel.namespace import fresh_network\n"
        "from tailbite.kernel.sysctl import read_reserved_ports\n"
        "with fresh_network():\n print(flush=True)\n input()\n print(read_reserved_ports(), flush=True)\n"
        " input()\n print(read_reserved_ports(), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        shown = run(fix.command, "--reserve", "7000", "--netns", str(child.pid))
        assert f"nsenter --net=/proc/{child.pid}/ns/net sysctl -w" in shown.stdout
        run(fix.command, "--reserve", "7000", "--netns", str(child.pid), "--apply")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "7000\n"
        run(fix.command, "--undo", "--apply")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "\n"
    assert read_reserved_ports() == PortSet()


@pytest.mark.usefixtures("network")
def test_a_namespace_that_is_gone_takes_its_settings_along() -> None:
    script = (
        "from tailbite.kernel.namespace import fresh_network\nwith fresh_network():\n print(flush=True)\n input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        run(fix.command, "--reserve", "7000", "--netns", str(child.pid), "--apply")
        child.communicate("\n", timeout=60)
    write_reserved_ports(PortSet.parse("7000"))
    undone = run(fix.command, "--undo", "--apply")
    assert "gone, and its settings with it" in undone.stderr
    assert read_reserved_ports() == PortSet.parse("7000")


@pytest.mark.usefixtures("network")
def test_services_come_from_a_file_with_names(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "services"
    listed.write_text(f"# what runs here\n\n{PORT}  the broker # since May\n8125,8126\n")
    seen = diagnose("--ports", str(listed), "--root", str(root))
    assert "The broker on port 50050 is down" in " ".join(seen.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["doctor", "--ports", "many"], "there is no file 'many'"),
        (["doctor", "--ports", "0"], "0 is not a port"),
        (["doctor", "--ports", "/nonexistent/list"], "cannot read /nonexistent/list"),
        (["doctor", "--netns", "no-such-place"], "no network namespace is called"),
        (["fix", "--reserve", "1-70000"], "70000 is not a port"),
        (["fix", "--reserve", "0"], "0 is not a port"),
        (["fix", "--reserve", ""], "no port is given: write ports as"),
        (["fix", "--range", "60999"], "not a valid port range"),
        (["fix", "--range", "80-90"], "below port 1024"),
        (["fix", "--range", "40000-40001", "--reserve", "40000-40001"], "nothing is left of the ephemeral range"),
        (["fix", "--undo", "--dry-run", "--apply"], "contradict"),
        (["fix", "--undo", "--reserve", "1"], "leave out --reserve"),
        (["fix", "--apply", "--dry-run"], "contradict"),
        (["fix", "--root", "/nonexistent", "--reserve", "1"], "does not exist"),
        (["fix", "--root", "/", "--kill", "1"], "--root changes files only"),
        (["fix", "--root", "/"], "say what to change"),
        (["fix", "--reserve", "99999"], "99999 is not a port: ports are 1 to 65535"),
        (["fix", "--reserve", "5-1"], "the lower one comes first"),
        (["doctor", "--ignore", "TB1"], "is not a code such as TB204"),
        (["doctor", "--ignore", "TB999"], "there is no finding TB999"),
        (["doctor", "--baseline", "/nonexistent"], "cannot be used: No such file"),
        (["doctor", "--severity", "bad"], "'bad' is not one of"),
    ],
)
@pytest.mark.usefixtures("network")
def test_bad_input_is_a_sentence_and_status_2(arguments: list[str], sentence: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tailbite", *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be nobody")
@pytest.mark.usefixtures("network")
def test_an_ordinary_user_is_shown_what_fix_would_do_and_may_not_do_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fix.command, "--reserve", "7000", "--apply")
    run(fix.command, "--undo", "--apply")
    diagnose("--ports", str(PORT), "--root", str(root))
    with tempfile.TemporaryDirectory() as state:
        os.chmod(state, 0o777)  # noqa: PTH101
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert as_nobody(fix.command, "--reserve", "7000", "--no-files") == (
            1,
            (
                "tailbite: 28232 of 28232 source ports remain available in this namespace\n"
                "tailbite: nothing has been changed; add --apply to do it\n"
            ),
        )
        number, said = as_nobody(fix.command, "--reserve", "7000", "--no-files", "--apply")
    assert number == 4
    assert said.startswith("not permitted: net.ipv4.ip_local_reserved_ports in this namespace; run it as root")
    assert read_reserved_ports() == PortSet()
    number, said = as_nobody(doctor.command, "--netns", "all", "--ports", str(PORT))
    assert number == 1
    assert "run as root to see" in said


@pytest.mark.usefixtures("network")
def test_a_file_that_is_not_a_journal_is_refused(root: Path) -> None:
    journal = root / "var/lib/tailbite/undo.json"
    journal.parent.mkdir(parents=True)
    journal.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "tailbite", "fix", "--undo", "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert "is not a journal of tailbite" in done.stderr


@pytest.mark.usefixtures("network")
def test_a_list_of_very_many_reserved_ports_is_cut_for_people_and_whole_in_json(root: Path) -> None:
    ports = PortSet.of(range(1, 65536, 2))
    write_reserved_ports(ports)
    result = diagnose("--root", str(root))
    lines = result.stdout.splitlines()
    assert "(32768 ports)" in result.stdout
    command = next(number for number, line in enumerate(lines) if "tailbite fix --reserve" in line)
    assert command < 30  # what comes before it is short; a command is not cut
    (seen,) = document(doctor.command, "--netns", "self", "--root", str(root))["namespaces"]
    assert PortSet.parse(seen["reserved"]) == ports


def test_a_line_break_in_the_name_of_a_namespace_cannot_become_a_command() -> None:
    evil = Namespace(1, NamespaceKind.PROCESS, "x\nreboot #\x1b[2J", "/proc/7/ns/net", (7,))
    shown = as_bytes(SettingChange(evil, "net.ipv4.ip_local_reserved_ports", "", "8125"))
    assert len(shown.splitlines()) == 2
    assert b"\x1b" not in shown
