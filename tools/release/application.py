"""The application folder: tailbite and the libraries of its command, all in pure Python, started by ``__main__.py``.

The single file is this folder in a zip archive; the packages and the image have it as /usr/lib/tailbite.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from time import gmtime
from typing import TYPE_CHECKING

from release.project import EPOCH, ROOT, run

if TYPE_CHECKING:
    from pathlib import Path

LIBRARIES = ("click>=8.1", "rich>=13.7", "prometheus-client>=0.20", "tomli>=2")
"""The libraries of the command and of the exporter, and the TOML parser that Python 3.10 lacks."""
OLDEST = "3.10"
"""The oldest Python that runs the application; the newest release of each library that supports it is taken."""
UNUSED = ("bin", "*.dist-info")
"""Files that pip adds, and nothing imports."""

MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("tailbite needs Python 3.10 or newer; this is Python %d.%d" % sys.version_info[:2])

from tailbite.cli import main

main()
"""
"""The start, in words that every Python can read: an older one gets a sentence instead of a SyntaxError."""


def lay_out(folder: Path, wheels: list[Path]) -> None:
    """Fill a folder that does not exist yet with the application."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    only = ("--only-binary", ":all:", "--implementation", "py", "--abi", "none", "--platform", "any")
    run(*pip, *only, "--python-version", OLDEST, "--target", folder, *LIBRARIES)
    keep_licences(folder)
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith("tailbite/")])
    shutil.copy(ROOT / "LICENSE", folder / "LICENSES/tailbite.txt")
    (folder / "__main__.py").write_text(MAIN, encoding="utf-8")


def keep_licences(folder: Path) -> None:
    """Collect the licence of each library in one folder: their own terms demand it."""
    (folder / "LICENSES").mkdir()
    for path in sorted(folder.glob("*.dist-info/**/*")):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")):
            library = path.relative_to(folder).parts[0].partition("-")[0]
            shutil.copy(path, folder / "LICENSES" / f"{library}-{path.name}")


def pack(folder: Path, file: Path) -> None:
    """Write the application as one executable file: a zip archive behind a line that names Python."""
    year, month, day, hour, minute, second = gmtime(EPOCH)[:6]
    with file.open("wb") as out:
        out.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED, 9)
    file.chmod(0o755)
