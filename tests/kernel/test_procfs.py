"""/proc is read as it is: processes vanish, others are closed, containers have many names."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.users import python_as_nobody
from tailbite.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ID = "4f5c2e9d1b3a" + "0" * 52


def test_every_process_that_has_a_socket_open_is_found() -> None:
    with socket.socket() as mine, socket.socket() as shared:
        shared.set_inheritable(True)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[shared.fileno()])
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (mine, shared)]
        found = procfs.socket_holders([*inodes, 0])
        child.communicate(b"\n", timeout=60)
    assert found.by_inode == {inodes[0]: (os.getpid(),), inodes[1]: tuple(sorted((os.getpid(), child.pid)))}


def test_looking_for_nothing_reads_nothing(tmp_path: Path) -> None:
    assert procfs.socket_holders([0], tmp_path / "no-such-proc").by_inode == {}


def test_on_a_host_with_very_many_descriptors_a_holder_is_enough(tmp_path: Path) -> None:
    fake_process(tmp_path, 1, {f"fd/{number}": "socket:[77]" for number in range(50)})
    fake_process(tmp_path, 2, {f"fd/{number}": "socket:[77]" for number in range(50)})
    assert procfs.socket_holders([77], tmp_path, spare=100_000).by_inode == {77: (1, 2)}
    assert procfs.socket_holders([77], tmp_path, spare=20).by_inode == {77: (1,)}
    assert procfs.socket_holders([77, 78], tmp_path, spare=20).by_inode == {77: (1, 2)}


def fake_process(proc: Path, pid: int, links: dict[str, str]) -> Path:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "ns").mkdir()
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return folder


def test_a_process_that_exits_while_we_look_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_process(tmp_path, 1, {"fd/3": "socket:[77]", "ns/net": "net:[5]"})
    monkeypatch.setattr(procfs, "process_ids", lambda proc: [1, 2])
    assert procfs.socket_holders([77], tmp_path) == procfs.Holders({77: (1,)}, closed=0)
    assert procfs.network_namespaces(tmp_path) == procfs.NetworkNamespaces({5: (1,)}, closed=0)


def test_a_descriptor_that_is_closed_while_we_look_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_process(tmp_path, 1, {"fd/3": "socket:[77]", "fd/4": "socket:[78]"})
    real = os.readlink

    def readlink(path: str, *, dir_fd: int) -> str:
        if path == "3":
            raise OSError(errno.ENOENT, "closed meanwhile")
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", readlink)
    assert procfs.socket_holders([77, 78], tmp_path).by_inode == {78: (1,)}


@pytest.mark.skipif(os.geteuid() != 0, reason="is about what root sees and others do not")
def test_what_is_closed_to_this_user_is_counted() -> None:
    code = (
        "import os; from tailbite.kernel import procfs\n"
        "print(procfs.socket_holders([1]).closed > 0, procfs.network_namespaces().closed > 0)"
    )
    done = subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID[:12]),
        (f"12:pids:/docker/{ID}\n11:cpu:/docker/{ID}\n", ID[:12]),
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-podab_c.slice/cri-containerd-{ID}.scope\n", ID[:12]),
        (f"0::/kubepods/besteffort/pod1b2c/{ID}\n", ID[:12]),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID[:12]),
        (f"0::/docker/{'f' * 64}/kubelet/kubepods/pod1/{ID}\n", ID[:12]),
        ("0::/lxc.payload.web1/init.scope\n", "web1"),
        ("0::/lxc/web1\n", "web1"),
        ("0::/machine.slice/machine-deb.scope/payload\n", "deb"),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dmy.scope/libvirt/emulator\n", "qemu-1-my"),
        (f"0::/system.slice/containerd.service/kubepods-burstable-pod4b.slice:cri-containerd:{ID}\n", ID[:12]),
        (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container\n", ID[:12]),
        # As read from Podman 4.3 with runc 1.1 and from LXC 5.0 on a host with cgroup v1 beside v2:
        (
            f"9:name=systemd:/libpod_parent/libpod-{ID}\n1:cpu:/libpod_parent/libpod-{ID}\n0::/libpod_parent/libpod-{ID}\n",
            ID[:12],
        ),
        ("9:name=systemd:/lxc.payload.my-web\n4:memory:/lxc.payload.my-web\n0::/lxc.payload.my-web\n", "my-web"),
        ("9:name=systemd:/lxc.monitor.my-web\n0::/lxc.monitor.my-web\n", ""),
        ("4:memory:/process_api/960cf998d98c910d0d9e6181460c55e3\n0::/\n", ""),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ""),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_a_container_is_known_by_its_cgroup(cgroup: str, name: str) -> None:
    assert procfs.container_of(cgroup) == name


@given(st.text())
def test_any_text_for_a_cgroup_or_mounts_is_survived(text: str) -> None:
    procfs.container_of(text)
    list(procfs.parse_mounts(text))


def mounts(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def test_mounted_namespaces_are_found_by_their_number(tmp_path: Path) -> None:
    proc = mounts(
        tmp_path,
        "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
        r"600 25 0:4 net:[4026532281] /run/netns/my\040blue rw shared:9 - nsfs nsfs rw",
        "601 25 0:4 mnt:[4026532282] /run/snapd/ns/x.mnt rw - nsfs nsfs rw",
    )
    assert procfs.named_namespaces(proc) == {4026532281: "/run/netns/my blue"}


@pytest.mark.parametrize(
    ("options", "hidden"),
    [("rw", ""), ("rw,hidepid=2", "2"), ("rw,gid=5,hidepid=invisible", "invisible"), ("rw,hidepid=0", "")],
)
def test_hidepid_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, hidden: str) -> None:
    proc = mounts(tmp_path, f"20 1 0:5 / {tmp_path} rw - proc proc {options}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert procfs.hidden_processes(proc) == hidden
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert procfs.hidden_processes(proc) == ""


@pytest.mark.peers
def test_a_pid_namespace_is_noticed(peer: Callable[[str], str]) -> None:
    ask = "from tailbite.kernel.procfs import is_in_pid_namespace as seen; print(seen())"
    mine = (peer("unshare"), "--pid", "--fork", "--mount-proc", *(() if os.geteuid() == 0 else ("-Ur",)))
    assert subprocess.run((*mine, sys.executable, "-c", ask), capture_output=True, text=True).stdout == "True\n"
