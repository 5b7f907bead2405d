"""A distribution's own kernel under qemu without KVM, with the host's file system as its root.

The root comes over virtiofs, or over 9p where the kernel has no virtiofs (before Linux 5.4).

Everything inside is 10 to 15 times slower than on the host; it takes about 20 seconds until it runs Python.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kernels.packages import PackageUnavailableError, Suite

if TYPE_CHECKING:
    from kernels.records import Kernel

__all__ = ["Sharing", "prepare_vm", "start_vm"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Way for a virtual machine to see a folder of the host.

    Attributes:
        modules: names of modules that the initial file system must load; the rest comes from the host's folder later.
        mount: options of mount(8).
    """

    modules: tuple[str, ...]
    mount: str


VIRTIOFS = Sharing(("virtio_pci", "virtiofs", "overlay"), "-t virtiofs")
NINE_P = Sharing(
    ("virtio_pci", "9pnet_virtio", "9p", "overlay"),
    "-t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144",
)

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /root /upper /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod "/modules/$module"; done
/bin/busybox mount $(/bin/busybox cat /mount) hostroot /host || /bin/busybox poweroff -f
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
        PackageUnavailableError: it, or qemu, virtiofsd, busybox or kmod, is not available here.
    """
    for program in ("qemu-system-x86_64", "busybox", "depmod", "modprobe"):
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
            raise PackageUnavailableError(f"{program} is not installed")
    suite = Suite(kernel.suite, store)
    package = suite.newest(kernel.package)
    tree = suite.unpacked(package)
    image = next((tree / "boot").glob("vmlinuz-*"))
    if not list(tree.glob("**/lib/modules")):  # Ubuntu's are in a package of their own
        tree = suite.unpacked(package.replace("image", "modules"))
    modules = next(tree.glob("**/lib/modules"))
    for version in modules.iterdir():
        if not (version / "modules.dep").exists():
            subprocess.run(["/sbin/depmod", "-b", str(modules.parents[1]), version.name], check=True)
    return image, modules


def start_vm(image: Path, share: Path, settings: dict[str, str], console: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start virtiofsd and qemu in one session, so that killing its process group ends both; return its leader."""
    modules = next((share / "modules/lib/modules").iterdir())
    sharing = sharing_of(modules)
    initrd = _initrd(share, modules, settings, sharing)
    daemon, folder = _virtiofs(share / "virtiofs") if sharing is VIRTIOFS else _nine_p()
    machine = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
        *("-object", "memory-backend-memfd,id=mem,size=2048M,share=on", "-numa", "node,memdev=mem"),
        *folder,
        *("-kernel", str(image), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on"),
        *("-nographic", "-no-reboot", "-nic", "none"),
    ]
    return subprocess.Popen(
        ["bash", "-c", _SESSION, "bash", str(share / "virtiofs"), str(len(daemon)), *daemon, *machine],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=console,
        start_new_session=True,
    )


_SESSION = """
sock=$1; count=$2; shift 2
if [ "$count" -gt 0 ]; then
  "${@:1:count}" & shift "$count"
  for _ in $(seq 100); do [ -S "$sock" ] && break; sleep 0.1; done
fi
exec "$@"
"""


def sharing_of(modules: Path) -> Sharing:
    listed = [(modules / name).read_text(encoding="ascii") for name in ("modules.dep", "modules.builtin")]
    return VIRTIOFS if any("/virtiofs.ko" in text for text in listed) else NINE_P


def _virtiofs(sock: Path) -> tuple[list[str], list[str]]:
    """Return the command of the daemon that shares the host's files, and qemu's options."""
    daemon = [_virtiofsd(), f"--socket-path={sock}", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"]
    device = "vhost-user-fs-pci,chardev=c0,tag=hostroot"
    return daemon, ["-chardev", f"socket,id=c0,path={sock}", "-device", device]


def _nine_p() -> tuple[list[str], list[str]]:
    """Return no command, and qemu's options: it shares the host's files itself."""
    shared = "local,id=f0,path=/,security_model=none,multidevs=remap"
    return [], ["-fsdev", shared, "-device", "virtio-9p-pci,fsdev=f0,mount_tag=hostroot"]


def _virtiofsd() -> str:
    for path in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"):
        if Path(path).exists():
            return path
    raise PackageUnavailableError("virtiofsd is not installed")


def _initrd(share: Path, modules: Path, settings: dict[str, str], sharing: Sharing) -> Path:
    """Write the initial file system: busybox, the modules in their order, and the init."""
    folder = share / "initrd"
    (folder / "bin").mkdir(parents=True)
    (folder / "modules").mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", folder / "bin/busybox")
    order = []
    for path in with_dependencies(modules, sharing.modules):
        plain = path.name.partition(".")[0] + ".ko"
        (folder / "modules" / plain).write_bytes(decompressed(path))
        order.append(plain)
    (folder / "mount").write_text(sharing.mount, encoding="ascii")
    (folder / "order").write_text("\n".join(order), encoding="ascii")
    (folder / "settings").write_text("\n".join(f"{key}={value}" for key, value in settings.items()), encoding="utf-8")
    (folder / "init").write_text(INIT, encoding="ascii")
    (folder / "init").chmod(0o755)
    target = share / "initrd.cpio"
    with target.open("wb") as out:
        names = subprocess.run(["find", "."], cwd=folder, check=True, capture_output=True).stdout
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=folder, input=names, stdout=out, check=True)
    return target


def decompressed(path: Path) -> bytes:
    """Return the bytes of a module; distributions compress them in three ways."""
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
    return data


def _needs(modules: Path) -> dict[str, list[str]]:
    """Return the file of each module by its name, followed by the files of the modules that it needs."""
    needs = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, others = line.partition(":")
        needs[Path(path).name.split(".")[0].replace("-", "_")] = [path, *others.split()]
    return needs


def with_dependencies(modules: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the modules to load, each after those it needs; what is built in has no file."""
    needs = _needs(modules)
    order: list[str] = []
    for name in names:
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    return [modules / path for path in order]
