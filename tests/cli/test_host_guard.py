"""``tailbite host-guard`` as a user meets it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from support.trap import Trap
from tailbite.cli import host_guard
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall as host_firewall
from tailbite.guards.host import systemd_units

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.peers


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest, network: None, peer: Callable[[str], str]) -> str:
    peer(f"iptables-{request.param}")
    return str(request.param)


@pytest.fixture(autouse=True)
def _units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_units, "UNIT_DIRECTORY", tmp_path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(host_guard.command, arguments)


def test_install_status_remove(variant: str) -> None:
    option = ("--variant", variant)
    assert call("status", *option).exit_code == 1
    for said in ("is in place now", "was in place already"):
        result = call("install", "--apply", *option)
        assert (result.exit_code, result.stderr.count(said), result.stdout) == (0, 2, "")
    Trap().set()
    assert not any(Trap().connects_to_itself() for _ in range(20))
    status = call("status", *option)
    assert status.exit_code == 0
    assert status.stdout.count("in place") == 2
    assert max(map(len, status.output.splitlines())) <= 80
    for said in ("is removed", "there was no rule"):
        result = call("remove", "--apply", *option)
        assert (result.exit_code, result.stderr.count(said)) == (0, 2)
    Trap().control()
    assert call("install", "--apply", "--quiet", *option).output == ""


def test_status_as_json_has_the_counters(variant: str) -> None:
    call("install", "--apply", "--variant", variant)
    Trap().set()
    for _ in range(50):
        Trap().connects_to_itself()
    result = call("status", "--json", "--variant", variant)
    told = json.loads(result.stdout)
    assert told["schema"] == "tailbite.host-guard/1"
    assert (told["is_installed"], told["systemd_timer"], result.exit_code) == (True, False, 0)
    v4, v6 = told["firewalls"]
    assert (v4["ip_version"], v6["ip_version"]) == (4, 6)
    assert v4["variant"] == v6["variant"] == {"nft": "nf_tables", "legacy": "legacy"}[variant]
    assert v4["refused_packets"] >= 1
    assert v6["refused_packets"] == 0
    assert v4["positions"] == [1]


def test_the_commands_of_a_dry_run_are_the_very_ones(variant: str) -> None:
    """Copied into a shell they put the rule in place, and take it away."""
    for action, after in (("install", 0), ("remove", 1)):
        result = call(action, "--dry-run", "--variant", variant)
        assert result.exit_code == 1
        assert call("status", "--variant", variant).exit_code == 1 - after
        subprocess.run(["sh", "-ec", result.stdout], check=True)
        assert call("status", "--variant", variant).exit_code == after
    nothing = call("remove", "--dry-run", "--variant", variant)
    assert (nothing.exit_code, nothing.stdout) == (0, "")


def test_what_a_reload_of_the_whole_table_takes_away_comes_back(variant: str, peer: Callable[[str], str]) -> None:
    """``iptables-restore`` of other rules, and ``nft flush ruleset``, which legacy rules survive."""
    call("install", "--apply", "--variant", variant)
    theirs = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    subprocess.run([peer(f"iptables-{variant}-restore")], input=theirs, text=True, check=True)
    assert call("status", "--variant", variant).exit_code == 1
    assert call("install", "--apply", "--variant", variant).exit_code == 0
    assert call("status", "--variant", variant).exit_code == 0
    subprocess.run([peer("nft"), "flush", "ruleset"], check=True)
    assert call("status", "--variant", variant).exit_code == {"nft": 1, "legacy": 0}[variant]
    assert call("install", "--apply", "--variant", variant).exit_code == 0
    assert call("status", "--variant", variant).exit_code == 0


def test_kept_by_systemd_until_removed(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a systemctl that only writes down what it is asked."""
    log = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    option = ("--variant", variant)

    dry = call("install", "--systemd", "--dry-run", *option).stdout
    assert f"# {tmp_path / systemd_units.TIMER}" in dry
    assert "systemctl enable --now tailbite-host-guard.timer" in dry
    assert not log.exists()

    result = call("install", "--apply", "--systemd", *option)
    assert result.exit_code == 0, result.output
    assert log.read_text().splitlines() == ["daemon-reload", f"enable --now {systemd_units.TIMER}"]
    assert f"--variant {variant}" in (tmp_path / systemd_units.SERVICE).read_text()
    assert f"a systemd timer keeps it ({systemd_units.TIMER})" in call("status", *option).stderr

    log.unlink()
    assert shlex.split(call("remove", "--dry-run", *option).stdout.splitlines()[0])[:2] == ["systemctl", "disable"]
    assert call("remove", "--apply", *option).exit_code == 0
    assert log.read_text().splitlines() == [f"disable --now {systemd_units.TIMER}", "daemon-reload"]
    assert not (tmp_path / systemd_units.TIMER).exists()
    assert call("status", *option).exit_code == 1


def test_systemd_that_is_not_there_is_said_and_the_rule_stays(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_units, "enable_commands", lambda: [("/nowhere/systemctl",)])
    monkeypatch.setattr(systemd_units, "is_running", lambda: False)
    result = call("install", "--apply", "--systemd", "--variant", variant)
    assert result.exit_code == 4
    assert "the rule is in place, but systemd does not keep it" in result.output
    assert not list(tmp_path.iterdir())


def test_remove_needs_no_systemd_where_none_runs(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units in a container or an image; where it runs, its timer would put the rule back, so nothing is removed."""
    monkeypatch.setattr(systemd_units, "disable_commands", lambda: [("/nowhere/systemctl",)])
    option = ("--variant", variant)
    call("install", "--apply", *option)
    systemd_units.write_units(systemd_units.units(), tmp_path)
    monkeypatch.setattr(systemd_units, "is_running", lambda: True)
    assert call("remove", "--apply", *option).exit_code == 4
    assert len(list(tmp_path.iterdir())) == 2
    assert call("status", *option).exit_code == 0
    monkeypatch.setattr(systemd_units, "is_running", lambda: False)
    assert call("remove", "--apply", *option).exit_code == 0
    assert not list(tmp_path.iterdir())
    assert call("status", *option).exit_code == 1


def test_a_flushed_chain_is_not_in_place(variant: str) -> None:
    option = ("--variant", variant)
    call("install", "--apply", *option)
    firewall = host_firewall.find_firewall(4, variant)
    host_firewall.run_firewall(firewall.command("-F"))
    result = call("status", *option)
    assert result.exit_code == 1
    assert "flushed, or from another version; install again" in result.stdout


def test_a_rule_of_others_in_front_is_shown(network: None, peer: Callable[[str], str]) -> None:
    peer("iptables")
    call("install", "--apply")
    host_firewall.run_firewall(host_firewall.find_firewall(4).command("-I", "INPUT", "1", "-j", "ACCEPT"))
    result = call("status")
    assert result.exit_code == 1
    assert "behind a rule that may decide first: -j ACCEPT" in " ".join(result.stdout.split())
    assert "not every self-connect is refused (tailbite host-guard install" in result.stderr
    assert "not installed" not in result.output


def test_a_table_that_is_switched_off_is_shown_and_not_touched(network: None, peer: Callable[[str], str]) -> None:
    peer("iptables-nft")
    option = ("--variant", "nft")
    call("install", "--apply", *option)
    host_firewall.run_firewall((peer("nft"), "add table ip filter { flags dormant; }"))
    result = call("status", *option)
    assert result.exit_code == 1
    assert "the table is switched off (flags dormant)" in " ".join(result.stdout.split())
    result = call("install", "--apply", *option)
    assert result.exit_code == 4
    assert "nft add table ip filter" in result.stderr
    assert call("remove", "--apply", *option).exit_code == 0
    assert call("status", *option).exit_code == 1


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tailbite without a privilege; the interpreter must be one that everybody may read."""
    return subprocess.run(
        [
            *(
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ),
            *(sys.executable, "-m", "tailbite", "host-guard", *arguments),
        ],
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to drop privileges")
def test_without_privileges_it_says_what_it_needs_and_still_shows_the_commands(variant: str) -> None:
    if "Permission denied" in as_nobody("--help").stderr:
        pytest.skip("this interpreter is not readable for everybody")
    for action in (["install", "--apply"], ["status"], ["remove", "--apply"]):
        result = as_nobody(*action, "--variant", variant)
        assert result.returncode == 4, result.stderr
        assert "needs root (CAP_NET_ADMIN)" in result.stderr
        assert "Traceback" not in result.stderr
    dry = as_nobody("install", "--dry-run", "--variant", variant)
    assert dry.returncode == 1
    assert dry.stdout.count("TAILBITE") == 6
    assert "cannot be read" in dry.stderr


def test_in_a_namespace_of_ones_own(variant: str, peer: Callable[[str], str]) -> None:
    """With no capability outside of it: in a user and a network namespace of its own."""
    tailbite = f"{shlex.quote(sys.executable)} -m tailbite host-guard"
    steps = [f"{tailbite} {action} --variant {variant}" for action in ("install --apply", "status", "remove --apply")]
    result = subprocess.run([peer("unshare"), "-Urn", "sh", "-ec", "\n".join(steps)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("in place") == 2
    assert result.stderr.count("is removed") == 2


@pytest.mark.parametrize("verb", ["install", "remove"])
def test_the_old_spelling_still_acts_and_warns(verb: str, variant: str) -> None:
    option = ("--variant", variant)
    if verb == "remove":
        call("install", "--apply", *option)
    result = call(verb, *option)
    assert result.exit_code == 0
    assert f"`host-guard {verb}` without --apply will only show the change from the next release on" in result.stderr
    assert call("status", *option).exit_code == (0 if verb == "install" else 1)
    assert "next release" not in call(verb, "--apply", *option).stderr
    assert call(verb, "--apply", "--dry-run", *option).exit_code == 2


def test_without_a_variant_status_and_remove_see_both(network: None, peer: Callable[[str], str]) -> None:
    for variant in ("nft", "legacy"):
        peer(f"iptables-{variant}")
        assert call("install", "--apply", "--variant", variant).exit_code == 0
    told = json.loads(call("status", "--json").stdout)
    assert [(one["ip_version"], one["is_installed"]) for one in told["firewalls"]] == [(4, True)] * 2 + [
        (6, True)
    ] * 2
    assert {one["variant"] for one in told["firewalls"]} == {"nf_tables", "legacy"}
    assert call("remove", "--apply").stderr.count("the rule is removed") == 4
    for variant in ("nft", "legacy"):
        assert call("status", "--variant", variant).exit_code == 1
    Trap().set().control()


def test_an_install_that_fails_leaves_nothing(
    variant: str, monkeypatch: pytest.MonkeyPatch, peer: Callable[[str], str]
) -> None:
    """The last command of IPv6 fails, when IPv4 is done; then what both made is removed."""
    option = ("--variant", variant)
    before = subprocess.run([peer("nft"), "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    genuine = host_firewall.run_firewall

    def failing(line: tuple[str, ...]) -> str:
        if "ip6tables" in line[0] and "-I" in line:
            raise FirewallError(line, 2, "Couldn't load match `bpf': No such file or directory")
        return genuine(line)

    monkeypatch.setattr(host_firewall, "run_firewall", failing)
    result = call("install", "--apply", *option)
    assert result.exit_code == 4
    assert "tailbite fix --reserve PORT --apply" in " ".join(result.output.split())
    monkeypatch.undo()
    for version in host_firewall.VERSIONS:
        firewall = host_firewall.find_firewall(version, variant)
        assert host_firewall.read_state(firewall) == host_firewall.FirewallState(version, firewall.variant)
    assert subprocess.run([peer("nft"), "list", "ruleset"], capture_output=True, text=True).stdout == before


def test_remove_leaves_no_empty_table_and_every_table_of_others(variant: str, peer: Callable[[str], str]) -> None:
    def ruleset() -> str:
        return subprocess.run([peer("nft"), "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    for rule in ((), ("-A", "INPUT", "-i", "none0", "-j", "DROP")):
        firewall = host_firewall.find_firewall(4, variant)
        if rule:
            host_firewall.run_firewall(firewall.command(*rule))
        before = ruleset()
        call("install", "--apply", "--variant", variant)
        call("remove", "--apply", "--variant", variant)
        assert ruleset() == before
        assert bool(rule) is ("DROP" in host_firewall.run_firewall(firewall.command("-S")))


def test_without_iptables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_firewall, "_SEARCH", "/nowhere")
    result = call("status")
    assert result.exit_code == 4
    assert "iptables is not installed (Debian and Ubuntu: apt install iptables)" in result.output
    assert "tailbite watch --kill" in " ".join(result.output.split())
