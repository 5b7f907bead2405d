"""Every remedy is offered only where it helps: each is applied in the very situation it was printed for."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.abilities import has_ability
from support.guarded import PYTHON, needs_another_user
from support.holders import DEFAULT_RANGE, Holder, new_socket, server_binds
from support.users import NOBODY
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.explain.remedies import restart_holders
from tailbite.host.explain.why import explain_port
from tailbite.host.see.abilities import SocketAbilities, socket_abilities
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port
from tailbite.host.see.records import Container, Process
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import read_reserved_ports, write_ephemeral_range, write_reserved_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.host.explain.finding import Finding, Remedy

IN_RANGE, OUTSIDE = 40000, 982


def findings(port: int, *, able: SocketAbilities | None = None) -> tuple[Finding, ...]:
    (shot,) = inspect_port(port, [current_namespace()])
    return explain_port(shot, abilities=able).findings


def commands(port: int, *, able: SocketAbilities | None = None) -> list[str]:
    return [line for one in findings(port, able=able) for remedy in one.remedies for line in remedy.commands]


def remedies(port: int) -> list[Remedy]:
    return [remedy for one in findings(port) for remedy in one.remedies]


def do(line: str) -> None:
    words = line.split(" ")
    if words[0] == "tailbite":
        words = [sys.executable, "-m", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("RTNETLINK")) == (0, 0), (line, done.stderr)


KILLED = [
    *((kind, host) for kind in ("self_chosen", "self_chosen_time_wait") for host in ("127.0.0.1", "::1")),
    ("self_bound_time_wait", "127.0.0.1"),
    *((kind, "127.0.0.1") for kind in ("source_chosen", "source_chosen_time_wait", "accepted_time_wait")),
    ("source_chosen", "::ffff:127.0.0.1"),
    ("source_chosen", "::1"),
]


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("kind", "host"), KILLED)
def test_the_command_that_ends_a_socket_frees_the_port(kind: str, host: str, peer: Callable[[str], str]) -> None:
    peer("ss")
    server = "::1" if host == "::1" else "127.0.0.1"
    with Holder(kind, host, reuse=False).held(IN_RANGE):
        assert not server_binds(server, IN_RANGE, reuse=True)
        able = socket_abilities((TcpState.ESTABLISHED, TcpState.TIME_WAIT))
        lines = [line for line in commands(IN_RANGE, able=able) if "--kill" in line or line.startswith("ss -K")]
        is_left = kind.endswith("time_wait")
        can_destroy = has_ability("SOCK_DESTROY_TIME_WAIT" if is_left else "SOCK_DESTROY")
        # Root ends the TIME-WAIT of a self-connect with TCP_REPAIR where the kernel cannot destroy it.
        assert len(lines) == (can_destroy or (is_left and kind.startswith("self")))
        for line in lines:
            do(line)
        assert server_binds(server, IN_RANGE, reuse=False) == bool(lines)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", ["self_bound", "source_bound"])
def test_a_port_that_a_program_bound_itself_gets_no_remedy_that_does_not_help(kind: str) -> None:
    """Neither ending the connection nor reserving the port keeps the program from it, nor does `run`."""
    with Holder(kind, "127.0.0.1", reuse=False).held(OUTSIDE):
        said = " ".join(commands(OUTSIDE))
        assert not re.search("--kill|ss -K|--reserve|tailbite run", said)
        assert any(line.startswith("kill ") for line in commands(OUTSIDE))
    write_reserved_ports(read_reserved_ports() | type(read_reserved_ports()).parse(str(OUTSIDE)))
    with Holder(kind, "127.0.0.1", reuse=False).held(OUTSIDE):  # the control: reserving would not have helped
        assert not server_binds("127.0.0.1", OUTSIDE, reuse=True)


@pytest.mark.peers
@pytest.mark.needs("SOCK_DESTROY")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", ["self_chosen", "source_chosen"])
def test_a_port_that_was_reserved_too_late_is_freed_by_ending_the_connection(
    kind: str, peer: Callable[[str], str]
) -> None:
    """Reserving comes after it in the list of remedies; done first, it leaves the connection."""
    peer("ss")
    with Holder(kind, "127.0.0.1", reuse=False).held(IN_RANGE):
        write_reserved_ports(PortSet.of([IN_RANGE]))
        (finding, *_) = findings(IN_RANGE)
        assert "reserved then" in finding.why or "It chose the port before that" in finding.why
        lines = commands(IN_RANGE)
        assert not any("--reserve" in line or "tailbite run" in line for line in lines)
        do(next(line for line in lines if "--kill" in line or line.startswith("ss -K")))
        assert server_binds("127.0.0.1", IN_RANGE, reuse=False)


@pytest.mark.usefixtures("network")
def test_a_reservation_that_would_leave_no_source_port_is_not_advised() -> None:
    write_ephemeral_range(PortRange(IN_RANGE, IN_RANGE))
    assert not any("--reserve" in line for line in commands(IN_RANGE))
    assert "no source port would be left" in remedies(IN_RANGE)[-1].text
    write_ephemeral_range(PortRange(IN_RANGE, IN_RANGE + 1))
    do(next(line for line in commands(IN_RANGE) if "--reserve" in line))


@pytest.mark.usefixtures("network")
def test_an_nfs_mount_is_not_to_be_killed_but_to_be_kept_off_the_port() -> None:
    server = socket.create_server(("127.0.0.1", 2049))
    with socket.socket() as client:
        client.bind(("0.0.0.0", OUTSIDE))
        client.connect(("127.0.0.1", 2049))
        with server.accept()[0] as accepted:
            (finding,) = findings(OUTSIDE)
            abort(accepted)
    server.close()
    assert finding.code == "TB103"
    assert "the program bound it itself" in finding.why
    assert "noresvport" in finding.remedies[0].text
    assert "sunrpc.min_resvport" in str(finding.remedies[0].commands)
    assert "ss -K" not in str(finding.remedies)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", ["self_chosen", "source_chosen"])
def test_a_reserved_port_is_not_chosen_again(kind: str) -> None:
    """The remedy, and the control: the same dial without the reservation takes the port."""
    with Holder(kind, "127.0.0.1", reuse=False).held(IN_RANGE):
        (line,) = [each for each in commands(IN_RANGE) if "--reserve" in each]
        do(line)
    write_ephemeral_range(PortRange(IN_RANGE, IN_RANGE + 1))
    with new_socket("127.0.0.1", reuse=False) as sock:
        assert sock.connect_ex(("127.0.0.1", IN_RANGE)) != 0
    write_reserved_ports(type(read_reserved_ports())())
    with new_socket("127.0.0.1", reuse=False) as sock:
        assert any(sock.connect_ex(("127.0.0.1", IN_RANGE)) == 0 for _ in range(4))
        abort(sock)


@pytest.mark.usefixtures("network")
def test_so_reuseaddr_is_advised_where_a_server_left_the_connections_and_not_where_a_client_did() -> None:
    with Holder("accepted_time_wait", "127.0.0.1", reuse=True).held(8080):
        assert "SO_REUSEADDR" in str(remedies(8080))
        assert server_binds("127.0.0.1", 8080, reuse=True)
        assert not server_binds("127.0.0.1", 8080, reuse=False)
    with Holder("source_chosen_time_wait", "127.0.0.1", reuse=False).held(IN_RANGE):
        (finding,) = findings(IN_RANGE)
        assert finding.remedies[0].text.startswith("wait")
        assert "SO_REUSEADDR" not in str(finding.remedies)
        assert not server_binds("127.0.0.1", IN_RANGE, reuse=True)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", ["self_chosen", "self_chosen_time_wait", "source_chosen", "source_chosen_time_wait"])
def test_a_kernel_that_cannot_destroy_is_not_asked_to(kind: str) -> None:
    unable = SocketAbilities(destroy=False, destroy_time_wait=False, repair=False)
    with Holder(kind, "127.0.0.1", reuse=False).held(IN_RANGE):
        assert re.search(r"--kill|ss -K", " ".join(commands(IN_RANGE)))
        assert not re.search(r"--kill|ss -K", " ".join(commands(IN_RANGE, able=unable)))
        if kind == "self_chosen_time_wait":  # TCP_REPAIR is the second way
            assert "--kill" in " ".join(commands(IN_RANGE, able=replace(unable, repair=True)))


@pytest.mark.usefixtures("network")
def test_run_is_advised_for_a_client_whose_port_the_kernel_chose_and_helps() -> None:
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(IN_RANGE):
        assert any(line.startswith("tailbite run -- ") for line in commands(IN_RANGE))
    write_ephemeral_range(PortRange(IN_RANGE, IN_RANGE + 1))
    dial = (
        "import socket\nfor _ in range(8):\n with socket.socket() as s:\n"
        f"  if s.connect_ex(('127.0.0.1', {IN_RANGE})) == 0:\n"
        "   s.setsockopt(1, 13, b'\\1\\0\\0\\0' + bytes(4)); print('self')"
    )
    plain, guarded = (
        subprocess.run([*prefix, sys.executable, "-c", dial], capture_output=True, text=True, timeout=60).stdout
        for prefix in ((), (sys.executable, "-m", "tailbite", "run", "--"))
    )
    write_ephemeral_range(DEFAULT_RANGE)
    assert "self" in plain
    assert guarded == ""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("options", "command"),
    [
        ("", "tailbite run -- "),
        (" --port PORT", f"tailbite run --port {IN_RANGE} -- "),
        (None, "tailbite run --in-process -- "),  # the holder is a Python program
    ],
)
def test_run_is_advised_with_the_options_that_guard_here(options: str | None, command: str) -> None:
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(IN_RANGE):
        lines = [line for line in commands(IN_RANGE, able=SocketAbilities(run=options)) if "tailbite run" in line]
        assert [line.startswith(command) for line in lines] == [True]


@pytest.mark.parametrize(
    ("owner", "command"),
    [
        (Process(812, "redis", unit="redis.service"), ("systemctl restart redis.service",)),
        (Process(812, "vite", unit="vite.service", user_unit=True), ("systemctl --user restart vite.service",)),
        (Process(812, "app", container="0123456789ab", runtime="docker"), ("docker restart 0123456789ab",)),
        (Process(812, "app", container="web", runtime="podman"), ("podman restart web",)),
        (Process(812, "app", container="0123456789ab"), ()),
        (Process(812, "app", container="web", runtime="kubernetes"), ("crictl stop web",)),
        (
            Process(812, "app", container="web", runtime="kubernetes", within=(Container("node", "docker"),)),
            ("docker exec node crictl stop web",),
        ),
        (
            Process(
                812, "nginx", unit="nginx.service", container="web", runtime="lxc", within=(Container("web", "lxc"),)
            ),
            ("lxc-attach -n web -- systemctl restart nginx.service",),
        ),
        (Process(812, "app", unit="a\\x2db.service"), ("systemctl restart 'a\\x2db.service'",)),
        (
            Process(812, "vite", unit="vite.service", user_unit=True, manager="alice"),
            ("systemctl --user --machine=alice@ restart vite.service",),
        ),
        (
            Process(812, "app", container="web", runtime="podman", user_unit=True, manager="alice"),
            ("runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/$(id -u alice) podman restart web",),
        ),
        (Process(812, "docker-proxy", unit="docker.service"), ("docker ps --filter publish=8080",)),
        (Process(812, "rootlessport", user_unit=True), ("podman port --all",)),
        (Process(1, "systemd"), ("systemctl list-sockets",)),
        (Process(1, "systemd", unit="init.service"), ("systemctl list-sockets",)),
        (Process(900, "systemd", user_unit=True), ("systemctl --user list-sockets",)),
        (
            Process(900, "systemd", user_unit=True, manager="alice"),
            ("systemctl --user --machine=alice@ list-sockets",),
        ),
        (Process(812, "app", unit="cron.service", parent_name="sh"), ("kill 812",)),
        (Process(812, "app", unit="sshd@3-10.0.0.1:22-10.0.0.2:4711.service"), ("kill 812",)),
        (Process(812, "sshd", unit="ssh.service", parent_name="sshd"), ("kill 812",)),  # of ssh -R
        (Process(812, "sshd", unit="ssh.service", parent_name="systemd"), ("systemctl restart ssh.service",)),
        (Process(812, "app", unit="sshfs.service"), ("systemctl restart sshfs.service",)),
        (Process(812, "app", unit="cron.service", container="web", within=(Container("web", "lxc"),)), ("kill 812",)),
        (
            Process(812, "qemu-system-x86", container="qemu-1-my-vm", runtime="machinectl"),
            ("virsh shutdown my-vm", "virsh start my-vm"),
        ),
        (Process(1, "python3"), ()),
        (Process(812, "app", parent=800, parent_name="supervisord"), ("kill 812",)),
    ],
)
def test_what_manages_a_process_is_restarted_and_never_process_1(owner: Process, command: tuple[str, ...]) -> None:
    (remedy,) = restart_holders([owner], port=8080)
    assert remedy.commands == command
    assert "kill 1" not in remedy.commands
    if owner.parent:
        assert "its parent supervisord (pid 800) may start it again" in remedy.text


STAND_IN = """#!/bin/sh
printf '%s\\n' "$(basename "$0")" "$@" >>"$TOLD"
[ "$(basename "$0")" != runuser ] || { shift 3; exec "$@"; }
"""
PROGRAMS = (
    "systemctl",
    "docker",
    "podman",
    "lxc-stop",
    "lxc-attach",
    "machinectl",
    "systemd-run",
    "crictl",
    "runuser",
)


@pytest.mark.parametrize(
    ("owner", "told"),
    [
        (Process(812, "app", unit="a\\x2db@c$d.service"), ["systemctl", "restart", "a\\x2db@c$d.service"]),
        (Process(812, "app", container="web", runtime="docker"), ["docker", "restart", "web"]),
        (Process(812, "app", container="web", runtime="lxc"), ["lxc-stop", "--reboot", "--name", "web"]),
        (Process(812, "app", container="vm", runtime="machinectl"), ["machinectl", "reboot", "vm"]),
        (
            Process(812, "app", container="web", runtime="podman", user_unit=True, manager="root"),
            [
                "runuser",
                "-u",
                "root",
                "--",
                "env",
                "XDG_RUNTIME_DIR=/run/user/0",
                *(("podman", "restart", "web") * 2),
            ],
        ),
        (
            Process(812, "app", container="in", runtime="docker", within=(Container("out", "docker"),)),
            ["docker", "exec", "out", "docker", "restart", "in"],
        ),
        (Process(812, "docker-proxy", unit="docker.service"), ["docker", "ps", "--filter", "publish=8080"]),
        (Process(1, "systemd"), ["systemctl", "list-sockets"]),
    ],
)
def test_a_shell_reads_the_command_as_it_is_meant(owner: Process, told: list[str], tmp_path: Path) -> None:
    """The line is given to a shell, in which the managers are stand-ins that write down their arguments."""
    for name in PROGRAMS:
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(tmp_path / "told")}
    (remedy,) = restart_holders([owner], port=8080)
    (line,) = remedy.commands
    subprocess.run(["sh", "-c", line], env=environment, check=True, timeout=60)
    assert (tmp_path / "told").read_text().splitlines() == told


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_the_capability_that_is_advised_lets_a_user_bind_a_privileged_port(peer: Callable[[str], str]) -> None:
    needs_another_user()
    peer("setcap")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = shutil.copy(PYTHON, Path(folder) / "server")
        bind = "import socket; socket.create_server(('127.0.0.1', 80))"

        def binds() -> bool:
            line = [*NOBODY[:-1], str(program), "-c", bind]  # with the bounding set that every user has
            return subprocess.run(line, capture_output=True, timeout=60).returncode == 0

        assert not binds()
        shot = replace(inspect_port(80, [current_namespace()])[0], may_bind_privileged=False)
        (line,) = [
            line for one in explain_port(shot).findings if one.code == "TB113" for line in one.remedies[0].commands
        ]
        subprocess.run([*line.replace("FILE", str(program)).split(" ")], check=True, timeout=60)
        assert binds()
