"""The packages that ``make dist`` builds: the same files for Debian and RPM systems, and nothing enabled."""

from __future__ import annotations

import re
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from conftest import CI, ROOT, find

if TYPE_CHECKING:
    from pathlib import Path

DIST = ROOT / "dist"


def package(pattern: str) -> Path:
    """Return the one artefact with such a name."""
    found = list(DIST.glob(pattern))
    if not found:
        (pytest.fail if CI else pytest.skip)("run make dist first")
    assert len(found) == 1
    return found[0]


def output(program: str, *arguments: str | Path) -> str:
    return subprocess.run(
        [find(program), *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE, timeout=60
    ).stdout


@pytest.fixture(scope="session")
def deb() -> dict[str, str]:
    """The mode and owner of each file of the Debian package, by its path."""
    lines = output("dpkg-deb", "--contents", package("*.deb")).splitlines()
    return {line.split(maxsplit=5)[5][1:]: " ".join(line.split()[:2]) for line in lines if not line.endswith("/")}


def rpm_files() -> set[str]:
    """Return the paths of the RPM package that are not folders."""
    query = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]"
    lines = output("rpm", "--query", "--queryformat", query, "--package", package("*.rpm")).splitlines()
    assert {line.split()[1] for line in lines} == {"root/root"}
    return {line.split(maxsplit=2)[2] for line in lines if not line.startswith("d")}


def test_both_kinds_have_the_same_files(deb: dict[str, str]) -> None:
    def common(paths: set[str]) -> set[str]:
        return {re.sub(r"zsh/(vendor-completions|site-functions)", "zsh", path) for path in paths}

    assert common(set(deb)) == common(rpm_files())
    for path in (
        "/usr/bin/tailbite",
        "/usr/share/man/man8/tailbite.8.gz",
        "/usr/share/bash-completion/completions/tailbite",
        "/usr/share/zsh/vendor-completions/_tailbite",
        "/usr/share/fish/vendor_completions.d/tailbite.fish",
        "/usr/lib/systemd/system/tailbite-exporter.socket",
        "/usr/lib/systemd/system/tailbite-watch.service",
        "/usr/lib/tailbite/tailbite/cli/schemas/scan.json",
        "/usr/lib/tailbite/LICENSES/tailbite.txt",
        "/usr/share/doc/tailbite/copyright",
    ):
        assert path in deb


def test_files_belong_to_root_and_no_unit_is_enabled(deb: dict[str, str]) -> None:
    assert {each.split()[1] for each in deb.values()} == {"root/root"}
    assert [path for path, each in deb.items() if "w" in each.split()[0][4:]] == []
    assert [path for path in deb if not path.startswith("/usr/") or ".wants/" in path or ".pyc" in path] == []


def test_the_scripts_of_the_packages_are_shell(tmp_path: Path) -> None:
    output("dpkg-deb", "--control", package("*.deb"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control", "postinst", "postrm", "prerm"]
    for name in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", tmp_path / name], check=True)
    (tmp_path / "rpm").write_text(
        re.sub(r"(?m)^\w+ scriptlet.*:$", "", output("rpm", "--query", "--scripts", "--package", package("*.rpm")))
    )
    subprocess.run(["sh", "-n", tmp_path / "rpm"], check=True)


def test_two_builds_of_one_tree_are_equal() -> None:
    """A file of the archive has the time of no build."""
    with zipfile.ZipFile(package("tailbite.pyz")) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert sorted(archive.namelist()) == archive.namelist()
