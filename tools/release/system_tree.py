"""The tree of a system's package: what lies where on a host, the same for Debian and RPM systems.

The command is /usr/bin/tailbite; units are installed and never enabled. The scripts that run after the installation
and before the removal are here as well, because they do the same on both.
"""

from __future__ import annotations

import gzip
import os
import shutil
from typing import TYPE_CHECKING

from release.project import EPOCH, ROOT, SHARE

if TYPE_CHECKING:
    from pathlib import Path

LIBRARY = "/usr/lib/tailbite"
COMMAND = f"""\
#!/bin/sh
# The link is made when the package is installed: the first Python of this host that is new enough.
python={LIBRARY}/python3
[ -x "$python" ] || python=python3
exec "$python" -I {LIBRARY} "$@"
"""
UNITS = ROOT / "deploy/systemd"
SERVICES = "tailbite-check.timer tailbite-exporter.socket tailbite-exporter.service tailbite-watch.service"

INSTALLED = f"""\
find {LIBRARY} \\( -name __pycache__ -o -name '*.pyc' \\) -prune -exec rm -rf {{}} +
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
  if path=$(command -v "$python") && "$path" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    ln -sfn "$path" {LIBRARY}/python3
    "$path" -m compileall -q {LIBRARY} || true
    break
  fi
done
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  systemctl try-restart {SERVICES} || true
fi
"""
"""After an installation or upgrade: choose Python, compile, and restart what was running."""

CLEANED = f"""\
find {LIBRARY} \\( -name __pycache__ -o -name '*.pyc' \\) -prune -exec rm -rf {{}} +
"""
"""Before the files of this version go, on an upgrade too: the compiled files that no package knows."""

REMOVED = f"""\
rm -f {LIBRARY}/python3
if command -v systemctl >/dev/null; then
  [ ! -d /run/systemd/system ] || systemctl stop {SERVICES} || true
  systemctl --quiet disable {SERVICES} || true
fi
"""
"""Before the removal: nothing stays enabled or running."""


def lay_out(root: Path, application: Path, completions: str) -> None:
    """Fill a folder that does not exist yet with the files of the package.

    Args:
        root: the folder that stands for ``/``.
        application: the application folder.
        completions: the folder of zsh's completions: systems differ.
    """
    shutil.copytree(application, root / LIBRARY[1:])
    write(root / "usr/bin/tailbite", COMMAND.encode(), 0o755)
    copies = {
        SHARE / "bash-completion/completions/tailbite": "usr/share/bash-completion/completions/tailbite",
        SHARE / "zsh/site-functions/_tailbite": f"{completions[1:]}/_tailbite",
        SHARE / "fish/vendor_completions.d/tailbite.fish": "usr/share/fish/vendor_completions.d/tailbite.fish",
        **{unit: f"usr/lib/systemd/system/{unit.name}" for unit in UNITS.iterdir()},
        ROOT / "deploy/prometheus/tailbite.rules.yml": "usr/share/doc/tailbite/examples/tailbite.rules.yml",
        ROOT / "deploy/grafana/tailbite.json": "usr/share/doc/tailbite/examples/tailbite.json",
        ROOT / "README.md": "usr/share/doc/tailbite/README.md",
    }
    for source, target in copies.items():
        write(root / target, source.read_bytes())
    write(root / "usr/share/man/man8/tailbite.8.gz", compressed(SHARE / "man/man8/tailbite.8"))
    write(root / "usr/share/doc/tailbite/changelog.gz", compressed(ROOT / "CHANGELOG.md"))
    write(root / "usr/share/doc/tailbite/copyright", (ROOT / "LICENSE").read_bytes())
    for path in root.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file of the tree, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def compressed(path: Path) -> bytes:
    """Return a file compressed by gzip, without the time at which it was done."""
    return gzip.compress(path.read_bytes(), 9, mtime=0)
