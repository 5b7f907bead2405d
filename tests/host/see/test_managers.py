"""The cgroup of a process tells its unit and container, as systemd and the container engines write it."""

from __future__ import annotations

import pytest

from tailbite.host.see.managers import Manager, manager_of
from tailbite.host.see.records import Container

ID = "0123456789ab" + "c" * 52
NODE = "ab" * 32
SYSTEM = "0::/system.slice/redis-server.service\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service"
NESTED = f"0::/docker/{NODE}/kubelet.slice/kubelet-kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        (SYSTEM, Manager("redis-server.service")),
        ("0::/user.slice/user-0.slice/session-3.scope\n", Manager()),
        ("0::/system.slice/run-r12.scope\n", Manager()),
        ("0::/init.scope\n", Manager()),
        ("0::/\n", Manager()),
        ("", Manager()),
        ("9:name=systemd:/system.slice/system-getty.slice/getty@tty1.service\n0::/\n", Manager("getty@tty1.service")),
        (f"{USER}/app.slice/vite.service\n", Manager("vite.service", uid=1000)),
        (f"{USER}/init.scope\n", Manager(uid=1000, is_instance=True)),
        # A unit is named as it is: foo-bar.service would be another.
        ("0::/system.slice/foo\\x2dbar.service/nested\n", Manager("foo\\x2dbar.service")),
        ("0::/system.slice/__private.service\n", Manager("_private.service")),
        (f"0::/system.slice/docker-{ID}.scope\n", Manager("", ID[:12], "docker")),
        (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n", Manager("", ID[:12], "docker")),
        (f"{USER}/user.slice/libpod-{ID}.scope/container\n", Manager("", ID[:12], "podman", uid=1000)),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", Manager("", ID[:12], "podman")),
        (f"0::/system.slice/web.service/libpod-payload-{ID}\n", Manager("web.service", ID[:12], "podman")),
        (f"{USER}/libpod_parent/{NODE}/{ID}\n", Manager("", ID[:12], "podman", uid=1000)),  # in a pod
        (f"0::/kubepods/burstable/pod12/{ID}\n", Manager("", ID[:12], "kubernetes")),
        (
            f"0::/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{ID}\n",
            Manager("", ID[:12], "kubernetes"),
        ),
        (
            "0::/lxc.payload.web/system.slice/nginx.service\n",
            Manager("nginx.service", "web", "lxc", (Container("web", "lxc"),)),
        ),
        (
            "0::/machine.slice/systemd-nspawn@my\\x2dbox.service/payload/system.slice/nginx.service\n",
            Manager("nginx.service", "my-box", "machinectl", (Container("my-box", "machinectl"),)),
        ),
        ("0::/machine.slice/systemd-nspawn@box.service/supervisor\n", Manager("systemd-nspawn@box.service")),
        (NESTED, Manager("", ID[:12], "kubernetes", (Container(NODE[:12], "docker"),))),
        (f"0::/docker/{NODE}/docker/{ID}\n", Manager("", ID[:12], "docker", (Container(NODE[:12], "docker"),))),
        (
            f"0::/lxc.payload.ci/docker/{ID}/system.slice/app.service\n",
            Manager("app.service", ID[:12], "docker", (Container("ci", "lxc"), Container(ID[:12], "docker"))),
        ),
    ],
)
def test_what_manages_a_process_is_read_from_its_cgroup(cgroup: str, found: Manager) -> None:
    assert manager_of(cgroup) == found


@pytest.mark.parametrize(
    ("cgroup", "own", "found"),
    [
        (f"0::/docker/{NODE}\n", f"0::/docker/{NODE}\n", Manager()),
        (NESTED, f"0::/docker/{NODE}/kubelet.slice/kubelet.service\n", Manager("", ID[:12], "kubernetes")),
        (f"0::/docker/{ID}\n", f"0::/docker/{NODE}\n", Manager("", ID[:12], "docker")),
        ("0::/lxc.payload.web/system.slice/nginx.service\n", "0::/lxc.payload.web/\n", Manager("nginx.service")),
    ],
)
def test_containers_that_the_asking_process_is_in_do_not_count(cgroup: str, own: str, found: Manager) -> None:
    assert manager_of(cgroup, own) == found
