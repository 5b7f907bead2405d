"""Mistakes that new users made: each is answered with a sentence about the mistake, and nothing is done."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from conftest import find_peer
from support.users import python_as_nobody
from tailbite.cli.group import tailbite
from tailbite.cli.params import DURATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")


def run(line: str) -> Result:
    """Run a command line in this process, as a user would."""
    return CliRunner().invoke(tailbite, line.split(" "), prog_name="tailbite")


def words(result: Result) -> str:
    return " ".join(result.stderr.split())


WRONG = [
    ("scann", "No such command 'scann'. Did you mean 'scan'?"),
    ("lab handshak", "No such command 'handshak'. Did you mean 'handshake'?"),
    ("host-guard instal", "No such command 'instal'. Did you mean 'install'?"),
    ("scan --nets all", "Did you mean"),
    ("why no-such-service", "is not a port or a TCP service that this host knows"),
    ("why 53/udp", "only TCP ports are explained"),
    ("why --explain TB999", "there is no finding 'TB999'"),
    (
        "doctor --ports nosuchfile",
        "there is no file 'nosuchfile', and 'nosuchfile' is not a port or a range of ports",
    ),
    ("fix --reserve 0", "0 is not a port: ports are 1 to 65535"),
    ("fix --reserve ", "no port is given: write ports as 50051 or 8125,50051-50060"),
    ("fix --reserve 99999", "99999 is not a port: ports are 1 to 65535"),
    ("fix --reserve 9-1", "9-1 is not a range of ports: the lower one comes first"),
    ("run --port abc -- true", "'abc' is not a port or a TCP service that this host knows"),
    ("run --port 99999 -- true", "99999 is not a port: ports are 1 to 65535"),
    ("demo --port 80", "80 is not allowed here: give a port from 1024 to 65534"),
    ("lab odds --port x", "'x' is not a port"),
    ("scan --watch abc", "'abc' is not a valid duration: write it as 100ms, 1s, 10m, 2h or 1h30m"),
    ("scan --watch --count many", "'many' is not a valid whole number"),
    ("exporter --budget lots", "'lots' is not a valid number"),
    ("wait --timeout 10x db:1", "'10x' is not a valid duration"),
    ("audit --timeout soon -- x {port}", "'soon' is not a valid duration"),
    ("audit --jobs many -- x {port}", "'many' is not a valid whole number"),
    ("audit --list extra", "audit nothing: leave out the command"),
    ("audit -- nosuchprog {host} {port}", "nosuchprog"),
    ("lab loop --client nosuchprog --hits 1", "nosuchprog"),
    ("doctor --severity bad", "'bad' is not one of 'critical', 'warning', 'notice', 'fine'"),
    ("schema scann", "there is no schema 'scann'"),
    ("fix --as pud", "'pud' is not one of"),
    ("scan --apply", "--apply needs --kill"),
    ("scan --kill --apply --dry-run", "contradict"),
    ("host-guard install --apply --dry-run", "contradict"),
    ("host-guard remove --apply --dry-run", "contradict"),
    ("fix --undo --apply --dry-run", "contradict"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG)
def test_a_mistake_is_one_sentence_and_status_2(line: str, sentence: str) -> None:
    result = run(line)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert sentence in words(result)
    assert words(result).startswith("tailbite")
    assert "Traceback" not in result.output


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
