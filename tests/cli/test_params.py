"""Mistakes that new users made: each is answered with a sentence about the mistake, and nothing is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from conftest import find_peer
from support.users import python_as_nobody
from tailbite.cli.group import tailbite
from tailbite.cli.params import DURATION, PLACE
from tailbite.cli.services import SERVICES
from tailbite.host.explain.subject import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("network")


def run(line: str) -> Result:
    """Run a command line in this process, as a user would."""
    return CliRunner().invoke(tailbite, line.split(" "), prog_name="tailbite")


def words(result: Result) -> str:
    return " ".join(result.stderr.split())


WRONG = [
    tuple(line.split(" => "))
    for line in Path(__file__).with_name("wrong_lines.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def test_there_are_as_many_wrong_lines_as_new_users_wrote_and_they_meet_every_command() -> None:
    assert len(WRONG) >= 144
    lines = [line for line, _ in WRONG]
    for path, _ in helps(tailbite):
        assert any(line.startswith(" ".join(path)) for line in lines), path


@pytest.mark.parametrize(("line", "sentence"), WRONG)
def test_a_mistake_is_one_sentence_and_status_2(line: str, sentence: str) -> None:
    result = run(line)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert sentence in words(result)
    assert words(result).startswith("tailbite")
    assert result.stderr.count("\n") == 1, "notes belong to what is done"
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_pipe_without_a_writer_is_refused_at_once_by_whatever_reads_a_file(tmp_path: Path) -> None:
    fifo = str(tmp_path / "a.jsonl")
    os.mkfifo(fifo)
    for line in (
        *(
            "audit --catalogue F",
            "doctor --baseline F",
            "doctor --ports F",
            "lab loop --from F",
            "lab cures --from F",
        ),
        *("wait --cacert F https://h", "exporter --web.basic-auth F"),
    ):
        result = run(line.replace("F", fifo))
        assert (result.exit_code, result.stdout) == (2, ""), (line, result.output)
        assert "it is a pipe that no program writes to" in words(result), line
    for line in ("exporter --web.tls-cert F", f"exporter --web.tls-cert {__file__} --web.tls-key F"):
        assert f"{fifo} is not a regular file" in words(run(line.replace("F", fifo)))


def test_a_program_that_cannot_do_it_is_one_sentence_that_begins_with_our_name() -> None:
    result = run("lab loop --client echo --hits 1 --attempts 3")
    assert (result.exit_code, words(result)) == (1, "tailbite: 'echo' did not connect to port 32774")


def test_a_single_try_is_told_once() -> None:
    assert run("wait --timeout 0 127.0.0.1:1").stderr.count("127.0.0.1:1: refused") == 1


def options(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """Yield every option of every command."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from options(command, (*path, name))
        for param in command.params:
            if isinstance(param, click.Option):
                yield (*path, name), param


TAKE_PORTS = {"--port", "--ports", "--reserve", "--reserved", "--kill"}


def test_every_port_can_be_the_name_of_a_service_in_every_command() -> None:
    seen = set()
    for path, option in options(tailbite):
        if not TAKE_PORTS & set(option.opts) or option.is_flag:
            continue
        seen.add(path)
        number = option.type.convert("5432", option, None)
        for text in ("postgresql", "5432/tcp", "postgresql/tcp", "PostgreSQL", " 5432 "):
            assert option.type.convert(text, option, None) == number, (path, option.opts, text)
        if option.opts[0] in ("--ports", "--reserve", "--kill"):
            several = [option.type.convert(text, option, None) for text in ("22,5432", "ssh/tcp,postgresql")]
            assert several[0] == several[1], (path, option.opts)
    assert seen >= {
        ("doctor",),
        ("fix",),
        ("run",),
        ("demo",),
        ("lab", "odds"),
        ("lab", "loop"),
        ("lab", "handshake"),
    }
    for text in ("postgresql", ":postgresql", "*:postgresql", "5432/TCP"):
        assert PLACE.convert(text, None, None) == (None, 5432)
    assert PLACE.convert("[::1]:postgresql/tcp", None, None) == ("::1", 5432)
    for text in ("postgresql", "*:postgresql", "5432/tcp"):
        assert run(f"wait -t 0 --free {text}").stderr.endswith("port 5432 free after 0.0 s\n")
    for text in ("localhost:postgresql", ":postgresql", "5432/tcp", "localhost:5432/tcp"):
        assert "localhost:5432: refused" in run(f"wait -t 0 {text}").stderr


@pytest.mark.parametrize(
    "text", ["\ufeff5432\tmain\r\n22 ssh\r\n", "postgresql/tcp main # x\n\n# y\nssh\n", "22,5432"]
)
def test_services_are_read_from_a_file_or_a_list(text: str, tmp_path: Path) -> None:
    file = tmp_path / "ports"
    file.write_bytes(text.encode())
    assert [one.port for one in SERVICES.convert(str(file), None, None)] in ([22, 5432], [5432, 22])
    assert "main" not in text or Service(5432, "main") in SERVICES.convert(str(file), None, None)


def test_a_list_of_services_may_be_longer_than_the_name_of_a_file() -> None:
    assert len(SERVICES.convert(",".join(map(str, range(1, 65536, 2))), None, None)) == 32768


DURATIONS = {"--timeout", "--interval", "--patience", "--attempt-timeout", "--watch", "--every", "--for", "--outage"}


def test_every_time_is_read_alike_in_every_command() -> None:
    """``10``, ``10s``, ``500ms`` and ``1m30s`` mean the same wherever a time is asked for."""
    seen = 0
    for path, option in options(tailbite):
        if not DURATIONS & set(option.opts) or option.is_flag:
            continue
        seen += 1
        for text, seconds in (("10", 10.0), ("10s", 10.0), ("500ms", 0.5), ("1m30s", 90.0), ("0.5h", 1800.0)):
            assert option.type.convert(text, option, None) == seconds, (path, option.opts, text)
    assert seen >= 12
    assert DURATION.convert("1h30m", None, None) == 5400.0


def test_the_same_option_has_the_same_short_form_everywhere() -> None:
    short: dict[str, set[str]] = {}
    for path, option in options(tailbite):
        letters = [name for name in option.opts if len(name) == 2]
        for name in ("--json", "--netns", "--quiet", "--verbose", "--timeout", "--port", "--output"):
            if name in option.opts and letters:
                short.setdefault(name, set()).update(letters)
        if "--netns" in option.opts:
            assert letters == ["-n"], path
        if "--json" in option.opts:
            assert letters == ["-j"], path
    assert all(len(letters) == 1 for letters in short.values()), short
    assert sorted(letter for letters in short.values() for letter in letters) == sorted(set().union(*short.values()))


def helps(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from helps(command, (*path, name))
        elif command is not None:
            yield (*path, name), f"{command.help}{command.epilog or ''}"


def test_every_help_has_an_example() -> None:
    for path, text in helps(tailbite):
        assert f"  tailbite {' '.join(path)}" in text or f"  sudo tailbite {' '.join(path)}" in text, path


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
def test_without_root_the_firewall_s_words_and_ours_are_two_sentences() -> None:
    find_peer("iptables")
    done = subprocess.run(
        python_as_nobody("-m", "tailbite", "host-guard", "status"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    said = " ".join(done.stderr.split())
    assert ". This needs root (CAP_NET_ADMIN), or a network namespace of your own" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
def test_without_root_or_a_home_what_may_not_be_done_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        ["env", "HOME=/nonexistent", *python_as_nobody("-m", "tailbite", "fix", "--reserve", "1", "--apply")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert "not permitted: net.ipv4.ip_local_reserved_ports in this namespace; run it as root" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_output_on_a_narrow_terminal_keeps_commands_whole(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailbite", "doctor", "--netns", "self", "--ports", "50052", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert "Traceback" not in done.stderr
    if not arguments:
        assert "      tailbite fix --reserve 50052 --apply\n" in done.stdout
