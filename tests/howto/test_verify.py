"""docs/howto/wait.md: its commands, its Python, its YAML and its units are what it says they are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support import servers
from tailbite.readiness.status import TargetStatus

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parents[2] / "docs/howto/wait.md").read_text(encoding="utf-8")
WAIT = [sys.executable, "-m", "tailbite"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def block(language: str, title: str) -> str:
    (found,) = [text for text in blocks(language) if text.startswith(f"# {title}\n")]
    return found


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of the page with this tailbite."""
    assert command[0].rpartition("/")[2] == "tailbite"
    return subprocess.run([*WAIT, *command[1:]], capture_output=True, text=True, timeout=90, **options)


def once(command: list[str]) -> list[str]:
    """The same command, trying once."""
    end = command.index("--") if "--" in command else len(command)
    return [*command[:end], "--timeout", "0", *command[end:]]


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_the_commands_the_python_and_the_unit_work_with_real_servers(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    """The servers start only when everybody waits already, as it is in real life."""
    app = tmp_path / "app"
    app.write_text('#!/bin/sh\necho "app $*"\n')
    app.chmod(0o755)
    commands = [shlex.split(text) for text in blocks("sh") if "--free" not in text]  # tests/cli/test_wait.py has that
    assert [command[:2] for command in commands] == [["tailbite", "wait"]] * 2
    commands.append(unit_command("app.service", "ExecStartPre"))
    commands.append(unit_command("redis.service.d/ready.conf", "ExecStartPost"))
    results: list[subprocess.CompletedProcess[str]] = []
    with servers.folder() as pg, servers.folder() as redis:
        postgres = servers.postgres(peer, pg, 45432)
        threads = [
            threading.Thread(target=lambda c=command: results.append(run(c, cwd=tmp_path))) for command in commands
        ]
        for thread in threads:
            thread.start()
        with (
            servers.run(postgres, None, pg / "log"),
            servers.run(servers.redis(peer, redis, 46379), None, redis / "log"),
        ):
            for text in blocks("python"):
                subprocess.run([sys.executable, "-c", text], check=True, timeout=90)
            for thread in threads:
                thread.join()
    assert [done.returncode for done in results] == [0] * 4, results
    assert sorted(done.stdout for done in results) == ["", "", "app \n", "app --port 8000\n"]


def unit_command(title: str, key: str) -> list[str]:
    found = re.search(rf"^{key}=(.*)$", block("ini", title), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


@pytest.mark.peers
def test_systemd_takes_the_unit(peer: Callable[[str], str], tmp_path: Path) -> None:
    text = block("ini", "app.service")
    for program in ("/usr/bin/tailbite", "/usr/bin/app"):
        assert program in text
        text = text.replace(program, "/usr/bin/env")
    unit = tmp_path / "app.service"
    unit.write_text(text)
    done = subprocess.run([peer("systemd-analyze"), "verify", unit], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "app.service" in line] == []
    unit.write_text(text.replace("ExecStartPre=", "ExecStartPre=no-path"))  # the control
    done = subprocess.run([peer("systemd-analyze"), "verify", unit], capture_output=True, text=True, timeout=60)
    assert "app.service" in done.stderr


@pytest.mark.usefixtures("network")
def test_the_compose_file_waits_and_its_health_check_checks() -> None:
    services = yaml.safe_load(block("yaml", "compose"))["services"]
    app = services["app"]
    command = app["entrypoint"] + app["command"]
    done = run(once(command))
    assert done.returncode == 1
    for line in ("db:5432 (postgres): name unknown", "cache:6379 (redis): name unknown"):
        assert f"  {line}" in done.stderr
    assert {"db", "cache"} < set(services)
    kind, *check = app["healthcheck"]["test"]
    assert kind == "CMD"
    assert run(check).returncode == 1


@pytest.mark.usefixtures("network")
def test_the_pods_containers_wait_and_probe() -> None:
    spec = yaml.safe_load(block("yaml", "kubernetes"))["spec"]
    proxy, wait = spec["initContainers"]
    assert proxy["restartPolicy"] == "Always"
    done = run(once(wait["command"]))
    assert done.returncode == 1
    assert "  127.0.0.1:45432 (postgres): refused" in done.stderr
    assert run(spec["containers"][0]["startupProbe"]["exec"]["command"]).returncode == 1


def test_every_readiness_is_explained() -> None:
    explained = " ".join(re.findall(r"^\| ([A-Za-z, -]+) \|", PAGE, re.MULTILINE))
    silent = {
        TargetStatus.NOTHING,
        TargetStatus.READY,
        TargetStatus.FAILED,
        TargetStatus.ITSELF,
        TargetStatus.FREE,
    }  # not shown, or in the system's own words
    assert [status.value for status in set(TargetStatus) - silent if status.value not in explained] == []


def test_every_way_of_writing_a_target_is_read() -> None:
    from tailbite.readiness.target import Wanted

    written = re.findall(r"`((?:[a-z]+)://[^`]+)`", PAGE)
    assert len(written) > 7
    for text in written:
        assert str(Wanted.of(text))
    for options in re.findall(r"`(--[a-z][^`]* [^` ]+:\d+)`", PAGE):
        assert run(["tailbite", "wait", *shlex.split(options), "--timeout", "0", "-q"]).returncode == 1, options
