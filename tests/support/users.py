"""Running things as somebody without any privilege, when the tests run as root."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import tailbite

__all__ = ["NOBODY", "open_to_all", "python_as_nobody"]

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
"""A command prefix: user and group 65534, no capability, and no way to gain one."""


def python_as_nobody(*arguments: str) -> list[str]:
    """Return a command that runs Python with tailbite and its command line as nobody."""
    return [*NOBODY, *_interpreter(), *arguments]


@cache
def _interpreter() -> tuple[str, ...]:
    """Find a Python that nobody may use: this one, or the system's; a home directory may be closed to others."""
    source = str(Path(tailbite.__file__).parent.parent)
    packages = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (f"{source}:{packages}", None):
        path = folder or _copied(source, packages)
        for program in (sys.executable, f"/usr/bin/{version}", "/usr/bin/python3"):
            command = ("env", "-C", "/", f"PYTHONPATH={path}", program)
            probe = [*NOBODY, *command, "-c", "import tailbite.cli.group, rich"]
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return command
    raise RuntimeError(f"no Python that an unprivileged user may run; tried {sys.executable} and /usr/bin/{version}")


def open_to_all(folder: Path) -> None:
    """Have every user reach a folder of pytest's, however deep it lies: a parallel run has one level more."""
    for each in (folder, *folder.parents):
        if each.parent == each or each.stat().st_mode & 0o555 == 0o555:
            break
        with contextlib.suppress(PermissionError):  # --basetemp of another user
            each.chmod(0o755)


def _copied(source: str, packages: str) -> str:
    """Copy what the command line imports to a folder that everybody may read."""
    folder = tempfile.mkdtemp(prefix="tailbite-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder).chmod(0o755)
    shutil.copytree(Path(source) / "tailbite", Path(folder) / "tailbite")
    for name in ("click", "rich", "pygments", "markdown_it", "mdurl"):
        shutil.copytree(Path(packages) / name, Path(folder) / name)
    return folder
