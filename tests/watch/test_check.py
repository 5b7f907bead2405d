"""Formats and exit statuses of other monitoring systems, and the real Nagios 4 and zabbix_agentd."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.itself import connected_to_itself
from tailbite.core.address import Endpoint
from tailbite.host.see.records import NotVisible
from tailbite.watch.check import CheckFormat, CheckResult, Item, exit_status, render, unknown_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

END = (Endpoint("127.0.0.1", 5432), "")
FINE = CheckResult((), (), (), 3, ())
HELD = replace(FINE, held=(END, (Endpoint("::1", 80), " in container 12ab")))
WAITING = replace(FINE, time_waits=(END,), exposed=(50051,))
UNSEEN = replace(FINE, not_visible=(NotVisible("2 processes", "run as root | or not"),))

STATUSES = {
    #                      fine held waiting unseen
    CheckFormat.TEXT: (0, 1, 1, 3),
    CheckFormat.NAGIOS: (0, 2, 1, 3),
    CheckFormat.NPD: (0, 1, 1, 2),
    CheckFormat.ZABBIX: (0, 0, 0, 0),
    CheckFormat.TELEGRAF: (0, 0, 0, 0),
    CheckFormat.PROMETHEUS: (0, 0, 0, 0),
}


@pytest.mark.parametrize(("form", "statuses"), STATUSES.items(), ids=lambda value: getattr(value, "value", ""))
def test_exit_statuses(form: CheckFormat, statuses: tuple[int, ...]) -> None:
    assert tuple(exit_status(result, form) for result in (FINE, HELD, WAITING, UNSEEN)) == statuses


@pytest.mark.parametrize("result", [FINE, HELD, WAITING, UNSEEN])
def test_nagios_reads_one_line_with_performance_data(result: CheckResult) -> None:
    """By the plugin API: TEXT | 'label'=value;warn;crit;min;max."""
    text, bar, data = render(result, CheckFormat.NAGIOS).partition(" | ")
    assert bar
    assert "\n" not in text + data
    assert "|" not in text
    assert re.fullmatch(r"TAILBITE (OK|WARNING|CRITICAL|UNKNOWN) - .+", text)
    values = dict(part.split("=") for part in data.split())
    assert all(re.fullmatch(r"\d+(;[\d.]*){0,4}", value) for value in values.values())
    assert values["self_connects"].startswith(str(len(result.held)))


NAMES = st.text(max_size=120)


@given(places=st.lists(NAMES, min_size=1, max_size=12))
def test_node_problem_detector_reads_80_bytes_in_one_line(places: list[str]) -> None:
    result = replace(FINE, held=tuple((END[0], f" in {place}") for place in places))
    text = render(result, CheckFormat.NPD)
    assert len(text.encode()) <= 80
    assert text.isprintable()


@pytest.mark.parametrize("result", [FINE, HELD, WAITING, UNSEEN])
def test_telegraf_reads_the_line_protocol(result: CheckResult) -> None:
    line = render(result, CheckFormat.TELEGRAF)
    assert re.fullmatch(r"tailbite (\w+=\d+i,)*\w+=\d+i \d{19}", line)
    assert f"self_connects={len(result.held)}i" in line


def test_zabbix_reads_one_value() -> None:
    assert [render(WAITING, CheckFormat.ZABBIX, item) for item in Item] == [
        "0",
        "1",
        "1",
        "0",
        '[{"{#PORT}": "5432"}]',
    ]


def test_what_could_not_be_checked_is_unknown_where_2_would_be_critical() -> None:
    assert unknown_line(CheckFormat.NAGIOS, "no | such\noption") == ("TAILBITE UNKNOWN - no   such option", 3)
    assert unknown_line(CheckFormat.NPD, "x" * 200) == ("x" * 80, 2)
    assert unknown_line(CheckFormat.TEXT, "no such option") is None


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailbite", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.usefixtures("network")
def test_the_command_by_each_name() -> None:
    for form, statuses in STATUSES.items():
        done = run("--as", form.value, "--netns", "self")
        assert (done.returncode, done.stderr) == (statuses[0], ""), form
    with connected_to_itself(5432):
        for form, statuses in STATUSES.items():
            done = run("--as", form.value, "--netns", "self")
            assert (done.returncode, done.stderr) == (statuses[1], ""), form
            assert "5432" in done.stdout or "1" in done.stdout
        document = json.loads(run("--json", "--netns", "self").stdout)
    assert document["schema"] == "tailbite.check/1"
    assert document["self_connects"] == [{"endpoint": "127.0.0.1:5432", "place": ""}]


@pytest.mark.parametrize(
    ("arguments", "status", "stdout"),
    [
        (("--as", "nagios", "--nets"), 3, "TAILBITE UNKNOWN - "),
        (("--as=nagios", "--timeout", "never"), 3, "TAILBITE UNKNOWN - "),
        (("--nets", "--as", "npd"), 2, "No such option"),
        (("--nets",), 2, ""),
        (("--as", "icinga"), 2, ""),
        (("--json", "--as", "nagios"), 3, "TAILBITE UNKNOWN - "),
    ],
)
def test_a_typo_pages_nobody(arguments: tuple[str, ...], status: int, stdout: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert done.stdout.startswith(stdout)
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr.count("\n") == 1


NAGIOS = """
log_file={0}/nagios.log
cfg_file={0}/objects.cfg
object_cache_file={0}/objects.cache
precached_object_file={0}/objects.precache
resource_file={0}/resource.cfg
status_file={0}/status.dat
status_update_interval=1
nagios_user=root
nagios_group=root
check_external_commands=0
lock_file={0}/nagios.pid
temp_file={0}/nagios.tmp
temp_path={0}
check_result_path={0}/results
state_retention_file={0}/retention.dat
query_socket={0}/nagios.qh
interval_length=1
"""
OBJECTS = """
define command {{ command_name tailbite; command_line {1} -m tailbite check --as nagios --netns self }}
define command {{ command_name up; command_line /bin/true }}
define command {{ command_name quiet; command_line /bin/true }}
define timeperiod {{ timeperiod_name always; alias always; sunday 00:00-24:00; monday 00:00-24:00
  tuesday 00:00-24:00; wednesday 00:00-24:00; thursday 00:00-24:00; friday 00:00-24:00; saturday 00:00-24:00 }}
define contact {{ contact_name nobody; host_notification_commands quiet; service_notification_commands quiet
  host_notification_period always; service_notification_period always }}
define host {{ host_name h; address 127.0.0.1; check_command up; max_check_attempts 1; check_period always
  contacts nobody; notification_period always; notification_interval 0 }}
define service {{ host_name h; service_description self-connects; check_command tailbite; max_check_attempts 1
  check_interval 1; retry_interval 1; check_period always; contacts nobody; notification_period always
  notification_interval 0 }}
"""


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_the_real_nagios_finds_it_critical(tmp_path: Path, peer: Callable[[str], str]) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "resource.cfg").write_text("")
    (tmp_path / "nagios.cfg").write_text(NAGIOS.format(tmp_path))
    objects = OBJECTS.format(tmp_path, sys.executable)
    (tmp_path / "objects.cfg").write_text(objects.replace("; ", "\n").replace("{ ", "{\n").replace(" }", "\n}"))
    log = (tmp_path / "out").open("wb")
    status = tmp_path / "status.dat"
    with (
        connected_to_itself(5432),
        log,
        subprocess.Popen([peer("nagios4"), str(tmp_path / "nagios.cfg")], stdout=log, stderr=log) as nagios,
    ):
        try:
            text = ""
            while "plugin_output=TAILBITE" not in text:  # the test's time limit ends a failure
                assert nagios.poll() is None, (tmp_path / "out").read_text()[-2000:]
                time.sleep(0.1)
                text = status.read_text() if status.exists() else ""
        finally:
            nagios.terminate()
            nagios.wait(30)
    service = text.partition("servicestatus {")[2].partition("}")[0]
    assert "current_state=2" in service
    assert "plugin_output=TAILBITE CRITICAL - 1 self-connect: 127.0.0.1:5432" in service
    assert "performance_data=self_connects=1;;0;0" in service


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_the_real_zabbix_agent_reads_a_number_and_a_discovery(tmp_path: Path, peer: Callable[[str], str]) -> None:
    config = tmp_path / "agent.conf"
    config.write_text(
        f"Server=127.0.0.1\nLogFile={tmp_path}/log\nPidFile={tmp_path}/pid\nTimeout=30\nAllowRoot=1\n"
        f"UserParameter=tailbite[*],{sys.executable} -m tailbite check --as zabbix --netns self --item $1\n"
    )
    with connected_to_itself(5432):
        values = [
            subprocess.run(
                [peer("zabbix_agentd"), "-c", str(config), "-t", f"tailbite[{item}]"],
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout.strip()
            for item in ("self-connects", "time-waits", "discovery")
        ]
    assert [value.partition("[t|")[2] for value in values] == ["1]", "0]", '[{"{#PORT}": "5432"}]]']


@pytest.mark.usefixtures("network")
def test_node_problem_detector_by_its_protocol() -> None:
    """Its plugin.go: exit 0 is OK, 1 is NonOK, all else Unknown; stdout up to 80 bytes is the message; 5 s."""
    with connected_to_itself(5432):
        done = run("--as", "npd", "--netns", "self", "--timeout", "50s")  # 3 s on a machine that is not shared
    assert done.returncode == 1
    assert done.stdout == "1 self-connect: 127.0.0.1:5432\n"
