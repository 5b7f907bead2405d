"""Each form says exactly the settings that were asked for, in the syntax of its engine."""

from __future__ import annotations

import configparser
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tailbite.cli import fix
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.forms import Form, FormSettings, write_form
from tailbite.kernel.sysctl import read_reserved_ports

if TYPE_CHECKING:
    from collections.abc import Callable

RESERVED, RANGE = "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_local_port_range"


def of_lines(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def of_pod(text: str) -> dict[str, str]:
    return {item["name"]: item["value"] for item in yaml.safe_load(text)["spec"]["securityContext"]["sysctls"]}


def of_tuned(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return dict(parser["sysctl"])


def of_machineconfig(text: str) -> dict[str, str]:
    (file,) = yaml.safe_load(text)["spec"]["config"]["storage"]["files"]
    return of_lines(unquote(file["contents"]["source"].removeprefix("data:,")))


def of_ansible(text: str) -> dict[str, str]:
    settings = {}
    for task in yaml.safe_load(text):
        if module := task.get("tailbite.tailbite.reserve"):
            settings[RESERVED] = ",".join(module["ports"])
        else:
            settings[task["ansible.posix.sysctl"]["name"]] = task["ansible.posix.sysctl"]["value"]
    return settings


def of_cloud_init(text: str) -> dict[str, str]:
    assert text.startswith("#cloud-config\n")
    document: dict[str, Any] = yaml.safe_load(text)
    (file,) = document["write_files"]
    (command,) = document["runcmd"]
    assert " ".join(command) == f"sysctl --load {file['path']}"
    return of_lines(file["content"])


READERS: dict[Form, Callable[[str], dict[str, str]]] = {
    Form.POD: of_pod,
    Form.TUNED: of_tuned,
    Form.MACHINECONFIG: of_machineconfig,
    Form.ANSIBLE: of_ansible,
    Form.CLOUD_INIT: of_cloud_init,
}
ports = st.sets(st.integers(1, 65535), min_size=1, max_size=8).map(PortSet.of)
ranges = st.tuples(st.integers(1024, 65535), st.integers(1024, 65535)).map(
    lambda ends: PortRange(min(ends), max(ends))
)


@pytest.mark.parametrize("form", Form)
@given(reserved=ports, ephemeral=st.none() | ranges)
def test_every_form_says_what_was_asked_for(form: Form, reserved: PortSet, ephemeral: PortRange | None) -> None:
    wanted = {RESERVED: str(reserved)}
    if ephemeral is not None:
        wanted[RANGE] = f"{ephemeral.low} {ephemeral.high}"
    assert READERS[form](write_form(form, FormSettings(reserved, ephemeral))) == wanted


@pytest.mark.parametrize("form", Form)
def test_nothing_to_set_is_refused(form: Form) -> None:
    with pytest.raises(ValueError, match="nothing to set"):
        write_form(form, FormSettings(PortSet()))


def printed(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(fix.command, list(arguments))
    return result.exit_code, result.output


@pytest.mark.usefixtures("network")
def test_the_command_prints_a_form_and_changes_nothing() -> None:
    code, text = printed("--as", "pod", "--reserve", "32246,33060-33062")
    assert (code, of_pod(text)) == (0, {RESERVED: "32246,33060-33062"})
    assert read_reserved_ports() == PortSet()


@pytest.mark.usefixtures("network")
def test_without_ports_it_is_what_the_doctor_advises() -> None:
    with socket.create_server(("127.0.0.1", 40000)):
        assert of_cloud_init(printed("--as", "cloud-init")[1]) == {RESERVED: "40000"}
    code, text = printed("--as", "cloud-init")
    assert code == 2
    assert "there is nothing to set" in text


@pytest.mark.parametrize("other", ["--apply", "--undo", "--json", "--kill=80"])
def test_a_form_does_not_go_with_what_changes_this_host(other: str) -> None:
    code, text = printed("--as", "pod", "--reserve", "80", other)
    assert (code, "leave out" in text) == (2, True)
