"""The package for Fedora, RHEL, SUSE and their derivatives, built by rpmbuild."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from release import system_tree
from release.project import DESCRIPTION, EPOCH, SUMMARY, URL, run

if TYPE_CHECKING:
    from pathlib import Path

PYTHONS = " or ".join(["python3 >= 3.10", *(f"python3.{minor}" for minor in (10, 11, 12, 13, 14))])
"""RHEL 8 and 9 have newer Pythons beside their own, as packages of another name."""


FOLDERS = ("doc/tailbite", "doc/tailbite/examples", "zsh", "zsh/site-functions", "fish", "fish/vendor_completions.d")
"""The folders below /usr/share that no other package needs to have: rpm lets several packages own one."""


def spec(version: str, files: str) -> str:
    """Return the spec file of the package.

    Args:
        version: the version of the package.
        files: the lines of its ``%files`` section.
    """
    return f"""\
Name: tailbite
Version: {version}
Release: 1
Summary: {SUMMARY}
License: MIT
URL: {URL}
BuildArch: noarch
AutoReqProv: no
Requires: ({PYTHONS})

%global __os_install_post %{{nil}}
%global _build_id_links none

%description
{DESCRIPTION}

%install
cp -a %{{tree}}/. %{{buildroot}}

%posttrans
{system_tree.INSTALLED}
%preun
{system_tree.CLEANED}[ "$1" = 0 ] || exit 0
{system_tree.REMOVED}
%postun
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :

%files
{files}
"""


def build_rpm(folder: Path, application: Path, work: Path, version: str) -> Path:
    """Build the package into a folder and return its path.

    Args:
        folder: the folder of the package.
        application: the application folder.
        work: an empty folder of this build.
        version: the version of the package, as in PEP 440.
    """
    root = work / "root"
    system_tree.lay_out(root, application, "/usr/share/zsh/site-functions")
    own = [
        f"%dir {system_tree.LIBRARY}",
        f"{system_tree.LIBRARY}/*",
        *(f"%dir /usr/share/{folder}" for folder in FOLDERS),
    ]
    others = [
        f"/{path.relative_to(root)}"
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_relative_to(root / system_tree.LIBRARY[1:])
    ]
    file = work / "tailbite.spec"
    file.write_text(spec(version, "\n".join(own + others)), encoding="utf-8")
    defines = {
        "_topdir": work / "rpm",
        "_rpmdir": folder,
        "_rpmfilename": "%{NAME}-%{VERSION}-1.noarch.rpm",
        "_buildhost": "localhost",
        "use_source_date_epoch_as_buildtime": 1,
        "clamp_mtime_to_source_date_epoch": 1,
        "tree": root,
    }
    options = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    run("rpmbuild", "-bb", "--quiet", *options, file, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)})
    return folder / f"tailbite-{version}-1.noarch.rpm"
