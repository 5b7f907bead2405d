"""The snippets of docs/howto/fleet.md for other monitoring systems, read as those systems read them."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from tailbite.cli.group import tailbite as command
from tailbite.watch.metrics import ExporterState, StateCollector
from tailbite.watch.records import SourceKind, SourceState

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/howto/fleet.md").read_text(encoding="utf-8")


def snippet(title: str, language: str) -> str:
    """Return the first block of a language below a title."""
    below = PAGE.split(f"### With {title}", 1)[1]
    found = re.search(rf"^```{language}\n(.*?)^```", below, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def exported() -> set[str]:
    """Return the names of the families of metrics that need no inspection, and of the two that do."""
    families = StateCollector(ExporterState(SourceState(SourceKind.POLL))).collect()
    return {family.name for family in families} | {"tailbite_self_connects", "tailbite_exposed_listeners"}


def test_node_problem_detector_reads_its_file() -> None:
    """The fields of custompluginmonitor's configuration (pkg/custompluginmonitor/types)."""
    found = json.loads(snippet("Kubernetes' node-problem-detector", "json"))
    assert found["plugin"] == "custom"
    assert found["pluginConfig"].keys() <= {"invoke_interval", "timeout", "max_output_length", "concurrency"}
    (condition,) = found["conditions"]
    (rule,) = found["rules"]
    assert (rule["type"], rule["condition"]) == ("permanent", condition["type"])
    check_arguments(rule["args"])


def check_arguments(arguments: list[str]) -> None:
    """Parse a command line of tailbite without running it."""
    subcommand = command.get_command(command.make_context("tailbite", [], resilient_parsing=True), arguments[0])
    assert subcommand is not None
    subcommand.make_context(arguments[0], arguments[1:])


def test_telegraf_runs_a_command_that_there_is() -> None:
    (plugin,) = tomllib.loads(snippet("Telegraf", "toml"))["inputs"]["exec"]
    assert plugin["data_format"] == "influx"
    (line,) = plugin["commands"]
    program, *arguments = shlex.split(line)
    assert program == "/usr/bin/tailbite"
    check_arguments(arguments)
    done = CliRunner().invoke(command, [*arguments, "--netns", "self"])
    assert done.exit_code == 0
    assert re.fullmatch(r"tailbite( \S+=\S+|,\S+)+.*\n", done.stdout)


COLUMNS = "pid fd socket family protocol local_address remote_address local_port remote_port path state net_namespace"
"""Of osquery's table process_open_sockets (specs/process_open_sockets.table)."""


@pytest.mark.parametrize(
    ("family", "protocol", "local", "remote", "is_found"),
    [
        (2, 6, ("127.0.0.1", 5432), ("127.0.0.1", 5432), True),
        (10, 6, ("::1", 5432), ("::1", 5432), True),
        (2, 6, ("127.0.0.1", 40000), ("127.0.0.1", 5432), False),
        (2, 6, ("127.0.0.1", 5432), ("127.0.0.2", 5432), False),
        (2, 17, ("127.0.0.1", 5432), ("127.0.0.1", 5432), False),
        (2, 6, ("0.0.0.0", 0), ("0.0.0.0", 0), False),
        (1, 6, ("", 1), ("", 1), False),
    ],
)
def test_osquery_finds_self_connects_alone(
    family: int, protocol: int, local: tuple[str, int], remote: tuple[str, int], is_found: bool
) -> None:
    """osquery's SQL is SQLite's."""
    base = sqlite3.connect(":memory:")
    base.execute(f"CREATE TABLE process_open_sockets ({', '.join(COLUMNS.split())})")
    values = (7, 3, 1, family, protocol, local[0], remote[0], local[1], remote[1], "", "ESTABLISHED", 1)
    base.execute(f"INSERT INTO process_open_sockets VALUES ({', '.join('?' * len(values))})", values)
    assert base.execute(snippet("osquery", "sql")).fetchall() == ([(7, *local)] if is_found else [])


def test_datadog_asks_for_metrics_that_there_are() -> None:
    (instance,) = yaml.safe_load(snippet("Datadog", "yaml"))["instances"]
    assert instance["openmetrics_endpoint"].endswith(":9745/metrics")
    assert set(instance["metrics"]) <= exported()


@pytest.mark.peers
def test_the_collector_gets_a_configuration_of_prometheus(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """Its prometheus receiver takes Prometheus' own format, which promtool checks."""
    found: dict[str, Any] = yaml.safe_load(snippet("the OpenTelemetry collector", "yaml"))
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(found["receivers"]["prometheus"]["config"]), encoding="utf-8")
    done = subprocess.run([peer("promtool"), "check", "config", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_project_has_one_address() -> None:
    """The address in pyproject.toml is the only one; deploy/ and the documentation repeat it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    owner = tomllib.loads(text)["project"]["urls"]["Source"].removeprefix("https://github.com/")
    pages = [page for folder in ("deploy", "docs", "src") for page in (ROOT / folder).rglob("*") if page.is_file()]
    found: dict[str, list[str]] = {}
    for page in [*pages, *ROOT.glob("*.md")]:
        try:
            text = page.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for name in re.findall(r"https://[\w.]*github\w*\.com/([\w-]+/tailbite)\b", text):
            found.setdefault(name, []).append(page.name)
    assert list(found) == [owner], found
