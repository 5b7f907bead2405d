"""Records of the kernel runs: a kernel to boot, and one cell of the page."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HOST", "KERNELS", "VM_LEAVES_OUT", "Cell", "Kernel", "debian", "ubuntu"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that Debian or Ubuntu packages and a machine without privileges can boot.

    Attributes:
        name: its name on the command line of the tool, and the key of its results.
        way: "uml" (User Mode Linux, a process of the host), "vm" (qemu without KVM), or "host".
        suite: the suite of Debian or Ubuntu that has its package.
        package: the package; for "vm" a regular expression for its whole name, the newest one is taken.
        why: what it stands for.
    """

    name: str
    way: str
    suite: str
    package: str
    why: str


def debian(release: str) -> str:
    """Return the pattern of the packages of Debian's kernels for clouds."""
    return rf"linux-image-{re.escape(release)}\.\S*-cloud-amd64"


def ubuntu(release: str) -> str:
    """Return the pattern of the packages of Ubuntu's usual kernels."""
    return rf"linux-image-{re.escape(release)}\.0-\d+-generic"


HOST = Kernel("host", "host", "", "", "this machine's own kernel, for comparison")

KERNELS = (
    Kernel("uml-5.10", "uml", "bullseye", "user-mode-linux", "Debian 11 of 2021; no port range option"),
    Kernel("uml-6.1", "uml", "bookworm", "user-mode-linux", "Debian 12; the option is backported"),
    Kernel("uml-6.12", "uml", "trixie", "user-mode-linux", "Debian 13"),
    Kernel("uml-7", "uml", "sid", "user-mode-linux", "Debian's development"),
    Kernel("vm-4.18", "vm", "bionic-updates", ubuntu("4.18"), "Ubuntu 18.04 of 2019; near RHEL 8's 4.18"),
    Kernel("vm-5.4", "vm", "focal-updates", ubuntu("5.4"), "Ubuntu 20.04"),
    Kernel("vm-5.10", "vm", "bullseye-security", debian("5.10"), "Debian 11 with its security updates"),
    Kernel("vm-5.15", "vm", "jammy-updates", ubuntu("5.15"), "Ubuntu 22.04; near RHEL 9's 5.14"),
    Kernel("vm-6.1", "vm", "bookworm", debian("6.1"), "Debian 12 as clouds run it"),
    Kernel("vm-6.8", "vm", "noble-updates", ubuntu("6.8"), "Ubuntu 24.04"),
    Kernel("vm-6.12", "vm", "trixie", debian("6.12"), "Debian 13 as clouds run it"),
)


VM_LEAVES_OUT = ("server starts", "server starts, run", "lab cures")
"""Rows that count what a machine manages in a time: run under qemu only if they are named."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One command, trap or test suite on one kernel.

    Attributes:
        row: what was run, the row of the page.
        outcome: "ok", "fault" or "not run".
        detail: figures, or the reason.
        seconds: how long it took in the booted kernel.
    """

    row: str
    outcome: str
    detail: str
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)
