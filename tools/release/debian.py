"""The package for Debian and its derivatives, built by dpkg-deb."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from release import system_tree
from release.project import DESCRIPTION, EPOCH, MAINTAINER, SUMMARY, URL, run

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = {
    "postinst": f'[ "$1" = configure ] || exit 0\n{system_tree.INSTALLED}',
    "prerm": f'{system_tree.CLEANED}[ "$1" = remove ] || exit 0\n{system_tree.REMOVED}',
    "postrm": "[ ! -d /run/systemd/system ] || systemctl daemon-reload || true\n",
}


def control(version: str, kib: int) -> str:
    """Return the control file of the package, see deb-control(5).

    Args:
        version: the version of the package.
        kib: the size of its files, in KiB.
    """
    text = "\n".join(f" {line}" for line in DESCRIPTION.splitlines())
    return f"""\
Package: tailbite
Version: {version}
Section: net
Priority: optional
Architecture: all
Maintainer: {MAINTAINER}
Installed-Size: {kib}
Depends: python3 (>= 3.10)
Homepage: {URL}
Description: {SUMMARY}
{text}
"""


def build_deb(folder: Path, application: Path, work: Path, version: str) -> Path:
    """Build the package into a folder and return its path.

    Args:
        folder: the folder of the package.
        application: the application folder.
        work: an empty folder of this build.
        version: the version of the package, as in PEP 440.
    """
    root = work / "root"
    system_tree.lay_out(root, application, "/usr/share/zsh/vendor-completions")
    kib = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    system_tree.write(root / "DEBIAN/control", control(version, kib).encode())
    for name, script in SCRIPTS.items():
        system_tree.write(root / "DEBIAN" / name, f"#!/bin/sh\nset -e\n{script}".encode(), 0o755)
    package = folder / f"tailbite_{version}_all.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    run("dpkg-deb", "--build", "--root-owner-group", "-Zxz", root, package, env=environment)
    return package
