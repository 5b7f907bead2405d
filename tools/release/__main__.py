"""``make dist``: every artefact of a release in dist/, with its size and checksum.

A package is left out visibly where the program that builds it is missing; with CI=true that is an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from release import application
from release.debian import build_deb
from release.project import DIST, version
from release.rpm import build_rpm
from release.wheels import build_source, build_wheels

BUILDERS = {"dpkg-deb": build_deb, "rpmbuild": build_rpm}


def build_all(folder: Path, work: Path) -> None:
    """Build every artefact into an empty folder."""
    wheels = build_wheels(folder)
    build_source(folder)
    app = work / "app"
    application.lay_out(app, wheels)
    application.pack(app, folder / "tailbite.pyz")
    for program, build in BUILDERS.items():
        if shutil.which(program) is None:
            print(f"{program} is not installed: its package is left out", file=sys.stderr)
            if os.environ.get("CI", "").lower() == "true":
                sys.exit(1)
            continue
        (work / program).mkdir()
        build(folder, app, work / program, version())


def main() -> None:
    """Build beside dist/, then put the new folder in its place: a build that fails changes nothing."""
    with tempfile.TemporaryDirectory(prefix=".dist-", dir=DIST.parent) as name:
        new, work = Path(name) / "dist", Path(name) / "work"
        new.mkdir()
        work.mkdir()
        build_all(new, work)
        shutil.rmtree(DIST, ignore_errors=True)
        new.rename(DIST)
    DIST.chmod(0o755)
    for path in sorted(DIST.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {digest[:16]}  dist/{path.name}")


if __name__ == "__main__":
    main()
