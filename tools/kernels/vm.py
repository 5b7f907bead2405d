"""A distribution's own kernel under qemu without KVM, with the host's file system as its root over virtiofs.

Everything inside is 10 to 15 times slower than on the host; it takes about 20 seconds until it runs Python.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kernels.packages import PackageUnavailableError, Suite

if TYPE_CHECKING:
    from kernels.records import Kernel

__all__ = ["prepare_vm", "start_vm"]

MODULES = ("virtio_pci", "virtiofs", "overlay")
"""What the initial file system must load to see its root; the rest comes from the host's folder later."""

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /root /upper /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod "/modules/$module"; done
/bin/busybox mount -t virtiofs hostroot /host || /bin/busybox poweroff -f
/bin/busybox mount -t tmpfs upper /upper
/bin/busybox mkdir /upper/changes /upper/work
/bin/busybox mount -t overlay -o lowerdir=/host,upperdir=/upper/changes,workdir=/upper/work overlay /new
/bin/busybox mkdir -p /new/host
/bin/busybox mount --move /host /new/host
/bin/busybox mount --move /dev /new/dev
/bin/busybox umount /proc
for word in $(/bin/busybox cat /settings); do export "$word"; done
exec /bin/busybox switch_root /new "$repository/tools/kernels/init.sh"
"""


def prepare_vm(kernel: Kernel, store: Path) -> tuple[Path, Path]:
    """Fetch a kernel for clouds; return its image and the folder with its modules.

    Raises:
        PackageUnavailableError: it, or qemu, virtiofsd, busybox or kmod, cannot be had here.
    """
    for program in ("qemu-system-x86_64", "busybox", "depmod", "modprobe"):
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
            raise PackageUnavailableError(f"{program} is not installed")
    suite = Suite(kernel.suite, store)
    tree = suite.unpacked(suite.newest(re.escape(kernel.package) + r"\.\S*-cloud-amd64(?!-)(?<!unsigned)"))
    image = next((tree / "boot").glob("vmlinuz-*"))
    modules = next(path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.is_dir())
    for version in modules.iterdir():
        if not (version / "modules.dep").exists():
            subprocess.run(["/sbin/depmod", "-b", str(modules.parents[1]), version.name], check=True)
    return image, modules


def start_vm(image: Path, share: Path, settings: dict[str, str], console: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start virtiofsd and qemu in one session, so that killing its process group ends both; return its leader."""
    modules = next((share / "modules/lib/modules").iterdir())
    initrd = _initrd(share, modules, settings)
    sock = share / "virtiofs"
    daemon = [_virtiofsd(), f"--socket-path={sock}", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"]
    machine = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
        *("-object", "memory-backend-memfd,id=mem,size=2048M,share=on", "-numa", "node,memdev=mem"),
        *("-chardev", f"socket,id=c0,path={sock}", "-device", "vhost-user-fs-pci,chardev=c0,tag=hostroot"),
        *("-kernel", str(image), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on"),
        *("-nographic", "-no-reboot", "-nic", "none"),
    ]
    return subprocess.Popen(
        ["bash", "-c", _SESSION, "bash", str(sock), str(len(daemon)), *daemon, *machine],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=console,
        start_new_session=True,
    )


_SESSION = """
sock=$1; count=$2; shift 2
"${@:1:count}" & shift "$count"
for _ in $(seq 100); do [ -S "$sock" ] && break; sleep 0.1; done
exec "$@"
"""


def _virtiofsd() -> str:
    for path in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"):
        if Path(path).exists():
            return path
    raise PackageUnavailableError("virtiofsd is not installed")


def _initrd(share: Path, modules: Path, settings: dict[str, str]) -> Path:
    """Write the initial file system: busybox, the modules in their order, and the init."""
    folder = share / "initrd"
    (folder / "bin").mkdir(parents=True)
    (folder / "modules").mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", folder / "bin/busybox")
    order = []
    for path in _with_dependencies(modules):
        plain = path.name.removesuffix(".xz").removesuffix(".gz")
        data = path.read_bytes()
        data = (
            lzma.decompress(data) if path.suffix == ".xz" else gzip.decompress(data) if path.suffix == ".gz" else data
        )
        (folder / "modules" / plain).write_bytes(data)
        order.append(plain)
    (folder / "order").write_text("\n".join(order), encoding="ascii")
    (folder / "settings").write_text("\n".join(f"{key}={value}" for key, value in settings.items()), encoding="utf-8")
    (folder / "init").write_text(INIT, encoding="ascii")
    (folder / "init").chmod(0o755)
    target = share / "initrd.cpio"
    with target.open("wb") as out:
        names = subprocess.run(["find", "."], cwd=folder, check=True, capture_output=True).stdout
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=folder, input=names, stdout=out, check=True)
    return target


def _with_dependencies(modules: Path) -> list[Path]:
    """Return the modules to load, each after those it needs; what is built in has no file."""
    needs = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, others = line.partition(":")
        needs[Path(path).name.split(".")[0].replace("-", "_")] = [path, *others.split()]
    order: list[str] = []
    for name in MODULES:
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    return [modules / path for path in order]
