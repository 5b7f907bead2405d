"""The Ansible collection on three hosts that speak ssh: check, apply, a second run that changes nothing, and undo."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import ROOT, find

if TYPE_CHECKING:
    from collections.abc import Iterator

COLLECTION = ROOT / "deploy/ansible"
HOSTS = {"h1": "10.77.0.1", "h2": "10.77.0.2", "h3": "10.77.0.3"}
PORTS = ["32246", "33060-33062"]

# Each host has sysctl.d files and a journal of its own; the settings of the running kernel are its namespace's.
_START = """
set -e
mount -t tmpfs none /etc/sysctl.d
mkdir -p /var/lib/tailbite /run/sshd
mount -t tmpfs none /var/lib/tailbite
exec {sshd} -D -e -f /dev/null -o ListenAddress={address} -o HostKey={folder}/host_key \
  -o AuthorizedKeysFile={folder}/key.pub -o StrictModes=no -o UsePAM=no -o PidFile=none \
  -o PermitRootLogin=yes -o Subsystem="sftp internal-sftp"
"""


def sh(*arguments: str) -> None:
    subprocess.run(arguments, check=True, timeout=60, stdout=subprocess.DEVNULL)


def wait_for_banner(address: str) -> None:
    """Wait until sshd greets."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection((address, 22), 5) as sock:
                if sock.recv(4) == b"SSH-":
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory, root_only: None, tailbite: str) -> Iterator[Path]:
    """Three network namespaces on a bridge, an sshd in each."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("key", "host_key"):
        sh(find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    ip, sshd = find("ip"), find("sshd")
    Path("/run/netns").mkdir(exist_ok=True)
    sh(find("mount"), "-t", "tmpfs", "none", "/run/netns")
    sh(ip, "link", "set", "lo", "up")
    sh(ip, "link", "add", "br0", "type", "bridge")
    sh(ip, "addr", "add", "10.77.0.254/24", "dev", "br0")
    sh(ip, "link", "set", "br0", "up")
    servers = []
    logs = contextlib.ExitStack()
    try:
        for number, (host, address) in enumerate(HOSTS.items()):
            sh(ip, "netns", "add", host)
            sh(ip, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
            sh(ip, "link", "set", f"v{number}", "master", "br0", "up")
            sh(ip, "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                sh(ip, "-n", host, "link", "set", device, "up")
            script = _START.format(sshd=sshd, address=address, folder=folder)
            log = logs.enter_context((folder / f"{host}.log").open("w"))
            servers.append(subprocess.Popen([ip, "netns", "exec", host, "sh", "-c", script], stderr=log, stdout=log))
        for address in HOSTS.values():
            wait_for_banner(address)
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        common = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(folder / "key"),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
            "executable": tailbite,
        }
        hosts = {host: {"ansible_host": address} for host, address in HOSTS.items()}
        file = folder / "inventory.json"
        file.write_text(json.dumps({"all": {"vars": common, "hosts": hosts}}))
        yield file
    finally:
        for server in servers:
            server.terminate()
            server.wait(10)
        logs.close()


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built and installed as users install it."""
    folder = tmp_path_factory.mktemp("collections")
    galaxy = find("ansible-galaxy")
    sh(galaxy, "collection", "build", str(COLLECTION), "--output-path", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    sh(galaxy, "collection", "install", str(archive), "--collections-path", str(folder), "--offline")
    return folder


def play(inventory: Path, collections: Path, module: str, *flags: str, **arguments: Any) -> dict[str, dict[str, Any]]:
    """Run one module on every host; return each host's result."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_LOCAL_TEMP": str(collections / "tmp"),
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_PIPELINING": "True",
        "LC_ALL": "C.UTF-8",
    }
    call = {f"tailbite.tailbite.{module}": {"executable": "{{ executable }}", **arguments}}
    book = inventory.with_name("play.json")
    tasks = [{"name": "The module", **call, "register": "result"}]
    tasks.append(
        {
            "name": "Its result",
            "ansible.builtin.copy": {
                "content": "{{ result | to_json }}",
                "dest": str(inventory.parent) + "/{{ inventory_hostname }}.json",
                "mode": "0600",
            },
            "delegate_to": "localhost",
            "check_mode": False,
            "diff": False,
            "connection": "local",
        }
    )
    book.write_text(json.dumps([{"name": "Test", "hosts": "all", "gather_facts": False, "tasks": tasks}]))
    command = [find("ansible-playbook"), "-i", str(inventory), str(book), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: json.loads((inventory.parent / f"{host}.json").read_text()) for host in HOSTS}


def reserved(host: str) -> str:
    """Return a host's reserved ports, as its kernel says."""
    command = [find("ip"), "netns", "exec", host, "cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_reserve(inventory: Path, collections: Path) -> None:
    """Reserve ports on three hosts, twice, and undo it, twice."""
    subprocess.run(
        [find("ip"), "netns", "exec", "h2", "sh", "-c", "echo 8080 > /proc/sys/net/ipv4/ip_local_reserved_ports"],
        check=True,
    )

    def run(*flags: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        return play(inventory, collections, "reserve", *flags, ports=PORTS, **arguments)

    checked = run("--check", "--diff")
    assert all(result["changed"] for result in checked.values())
    assert [reserved(host) for host in HOSTS] == ["", "8080", ""]
    assert any("ip_local_reserved_ports" in str(part) for part in checked["h1"]["diff"])
    assert all(result["changed"] for result in run().values())
    assert [reserved(host) for host in HOSTS] == [
        "32246,33060-33062",
        "8080,32246,33060-33062",
        "32246,33060-33062",
    ]
    assert not any(result["changed"] for result in run().values())
    assert all(result["changed"] for result in run(state="absent").values())
    assert [reserved(host) for host in HOSTS] == ["", "8080", ""]
    assert not any(result["changed"] for result in run(state="absent").values())


def test_host_guard(inventory: Path, collections: Path) -> None:
    """Install the rule on three hosts, twice, and remove it, twice."""
    find("iptables")

    def run(*flags: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        return play(inventory, collections, "host_guard", *flags, systemd=False, **arguments)

    assert all(result["changed"] for result in run("--check").values())
    installed = run("--diff")
    assert all(result["changed"] and result["status"]["is_installed"] for result in installed.values())
    assert not any(result["changed"] for result in run().values())
    removed = run(state="absent")
    assert all(result["changed"] and not result["status"]["is_installed"] for result in removed.values())
    assert not any(result["changed"] for result in run(state="absent").values())


def test_the_info_modules_find_a_self_connect_and_change_nothing(inventory: Path, collections: Path) -> None:
    """One of three hosts has a self-connect: that one is found, in check mode as well."""
    hold = "import socket,sys; s=socket.socket(); s.bind(('127.0.0.1',40000)); s.connect(('127.0.0.1',40000))"
    hold += "; print(flush=True); sys.stdin.read()"
    command = [find("ip"), "netns", "exec", "h2", "/usr/bin/python3", "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            for flags in ((), ("--check",)):
                scanned = play(inventory, collections, "scan_info", *flags, netns="self")
                assert {host: result["found"] for host, result in scanned.items()} == {
                    "h1": False,
                    "h2": True,
                    "h3": False,
                }
                assert not any(result["changed"] for result in scanned.values())
            examined = play(inventory, collections, "doctor_info", netns="self", ports=["40001"])
            assert {finding["code"] for finding in examined["h2"]["findings"]} >= {"TB101"}
            assert not any(result["changed"] for result in examined.values())
        finally:
            assert holder.stdin is not None
            holder.stdin.close()


def test_a_host_without_tailbite_is_told_so(inventory: Path, collections: Path) -> None:
    """A missing command is one sentence that names the way to install it."""
    with pytest.raises(
        AssertionError, match="there is no command '/nowhere/tailbite' on this host; install tailbite"
    ):
        play(inventory, collections, "scan_info", executable="/nowhere/tailbite")


def test_ansible_lint(tmp_path: Path) -> None:
    """ansible-lint has no complaint in its production profile."""
    copy = tmp_path / "ansible_collections/tailbite/tailbite"
    shutil.copytree(COLLECTION, copy)
    environment = {**os.environ, "PATH": f"{Path(find('ansible-lint')).parent}:{os.environ['PATH']}"}
    command = [find("ansible-lint"), "--offline", "--profile", "production", "--nocolor"]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", ["tailbite-exporter.service", "tailbite-exporter.socket"])
def test_the_role_carries_the_units_of_the_project(unit: str) -> None:
    """A collection cannot reach outside of its folder, so it has copies."""
    copy = COLLECTION / "roles/exporter/files" / unit
    assert copy.read_text() == (ROOT / "deploy/systemd" / unit).read_text()
