"""User Mode Linux: a kernel that runs as a process of the host, with the host's file system as its root.

It needs no root, no KVM and no image (Documentation/virt/uml/user_mode_linux_howto_v2.rst).
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from kernels.packages import Suite

if TYPE_CHECKING:
    from pathlib import Path

    from kernels.records import Kernel

__all__ = ["prepare_uml", "uml_command"]

LOADER = "/lib64/ld-linux-x86-64.so.2"


def prepare_uml(kernel: Kernel, store: Path) -> tuple[Path, Path]:
    """Fetch a kernel; return its program and the folder with its modules.

    A kernel of a newer Debian than this one needs the C library of its own suite, which is unpacked beside it.

    Raises:
        PackageUnavailableError: its packages cannot be fetched.
    """
    suite = Suite(kernel.suite, store)
    tree = suite.unpacked(kernel.package)
    program = tree / "usr/bin/linux.uml"
    if subprocess.run([str(program), "--version"], check=False, capture_output=True).returncode != 0:
        libc = suite.unpacked("libc6")
        patchelf = suite.unpacked("patchelf") / "usr/bin/patchelf"
        libraries = next(libc.glob("**/libc.so.6")).parent
        loader = next(libc.glob("**/ld-linux-x86-64.so.2"))
        stdlib = suite.unpacked("libstdc++6"), suite.unpacked("libgcc-s1")
        paths = [str(libraries), *(str(next(each.glob("**/lib*.so.*")).parent) for each in stdlib)]
        start = [str(loader), "--library-path", ":".join(paths), str(patchelf)]
        subprocess.run(
            [*start, "--set-interpreter", str(loader), "--set-rpath", str(libraries), str(program)], check=True
        )
    return program, tree / "usr/lib/uml/modules"


def uml_command(program: Path, share: Path, settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command that boots a kernel, and its environment."""
    words = [
        *(str(program), "mem=1536M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={settings['repository']}/tools/kernels/init.sh", "con=null", "con0=null,fd:1", "quiet"),
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    return words, {**os.environ, "TMPDIR": str(share)}
