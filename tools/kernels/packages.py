"""Packages of any suite of Debian or Ubuntu, downloaded and unpacked into a folder; it installs nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["PackageUnavailableError", "Suite", "find_kmod"]

MIRROR = os.environ.get("TAILBITE_DEBIAN_MIRROR", "http://deb.debian.org")
UBUNTU_MIRROR = os.environ.get("TAILBITE_UBUNTU_MIRROR", "http://archive.ubuntu.com")
UBUNTU_SUITES = ("bionic", "focal", "jammy", "noble")


class PackageUnavailableError(OSError):
    """A package, or the whole suite, could not be fetched."""


class Suite:
    """One suite of Debian or Ubuntu, with lists and a cache of its own.

    Args:
        name: such as "bullseye", "bullseye-security" or "focal-updates".
        folder: the lists, the packages and the unpacked trees are kept here.

    Raises:
        PackageUnavailableError: apt is missing, or the lists cannot be fetched.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder / name
        for part in ("lists/partial", "cache/archives/partial", "trees"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        sources = self._folder / "sources.list"
        sources.write_text(f"deb {_source(name, folder)} {name} main\n", encoding="ascii")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::Lists": self._folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._folder / "cache",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "root",
            "Acquire::http::Timeout": "20",
            "Acquire::Retries": "3",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        if not any((self._folder / "lists").glob("*_Packages*")):
            self._run("apt-get", "update", "-q")

    def unpacked(self, package: str) -> Path:
        """Return the folder with the files of a package's newest version.

        Raises:
            PackageUnavailableError: the suite has no such package, or it cannot be fetched.
        """
        tree = self._folder / "trees" / package
        if not (tree / ".complete").exists():
            tree.mkdir(parents=True, exist_ok=True)
            for old in tree.glob("*.deb"):
                old.unlink()
            self._run("apt-get", "download", "-q", package, cwd=tree)
            for archive in tree.glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(archive), str(tree)], check=True)
                archive.unlink()
            (tree / ".complete").touch()
        return tree

    def newest(self, pattern: str) -> str:
        """Return the name of the newest package whose whole name matches a regular expression.

        Raises:
            PackageUnavailableError: the suite has no such package.
        """
        listing = self._run("apt-cache", "pkgnames")
        found = [name for name in listing.split() if re.fullmatch(pattern, name)]
        if not found:
            raise PackageUnavailableError(f"no package {pattern}")
        return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def _run(self, program: str, *words: str, cwd: Path | None = None) -> str:
        command = [program, *self._options, *words]
        try:
            done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PackageUnavailableError(f"{program} {words[0]}: {error}") from error
        # apt-get update exits with 0 and a warning when a mirror does not answer.
        if done.returncode != 0 or "Failed to fetch" in done.stderr:
            raise PackageUnavailableError(f"{program} {' '.join(words)}: {done.stderr.strip()[-300:]}")
        return done.stdout


def _source(name: str, folder: Path) -> str:
    """Return the archive of a suite; Ubuntu's with the keys that sign it, which are in a package of Debian.

    Raises:
        PackageUnavailableError: the keys cannot be fetched.
    """
    if name.startswith(UBUNTU_SUITES):
        keyring = Suite("trixie", folder).unpacked("ubuntu-keyring")
        keys = next(keyring.glob("**/ubuntu-archive-keyring.gpg"))
        return f"[signed-by={keys.resolve()}] {UBUNTU_MIRROR}/ubuntu"
    return f"{MIRROR}/debian-security" if name.endswith("-security") else f"{MIRROR}/debian"


def find_kmod(store: Path) -> tuple[Path, str]:
    """Return the program that loads modules and the folder of its libraries: the host's, or a package of its Debian.

    Raises:
        PackageUnavailableError: it is not installed and cannot be fetched.
    """
    installed = shutil.which("kmod", path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/bin")
    if installed is not None:
        return Path(installed), ""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    suite = Suite(release, store)
    libraries = next(suite.unpacked("libkmod2").glob("**/libkmod.so.2")).parent
    return next(suite.unpacked("kmod").glob("**/bin/kmod")), str(libraries)
