"""The packages of a release: no file is in two, links of the package page are absolute, the library works alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of a release, by the name of their package."""
    folder = tmp_path_factory.mktemp("wheels")
    environment = {**os.environ, "TAILBITE_RELEASE": "1"}
    for source in (ROOT / "deploy/core", ROOT):
        command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=100)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name and ".data/" not in name}


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return archive.read(name).decode()


def test_no_file_belongs_to_both_packages(wheels: dict[str, Path]) -> None:
    core, command = names(wheels["tailbite_core"]), names(wheels["tailbite"])
    assert not core & command
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/tailbite").rglob("*.py")}
    assert source <= core | command
    assert "Requires-Dist: tailbite-core==" in metadata(wheels["tailbite"])
    assert "Requires-Dist" not in re.sub(r"Requires-Dist: .*; extra == .*\n", "", metadata(wheels["tailbite_core"]))


def test_every_link_of_the_package_page_is_absolute(wheels: dict[str, Path]) -> None:
    page = metadata(wheels["tailbite"]).partition("\n\n")[2]
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    for field in ("Homepage", "Documentation", "Source", "Issues", "Changelog"):
        assert f"Project-URL: {field}, https://" in metadata(wheels["tailbite"])


def test_the_library_alone_has_its_whole_face(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Every public name can be imported where nothing but the library is installed."""
    with zipfile.ZipFile(wheels["tailbite_core"]) as archive:
        archive.extractall(tmp_path)
    code = "import tailbite, tailbite.aio, tailbite.testing, tailbite.verify, tailbite.hooks, tailbite.events\n"
    code += "for name in tailbite.__all__: getattr(tailbite, name)\nprint(tailbite.__file__)"
    command = [sys.executable, "-S", "-W", "ignore", "-c", code]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, str(tmp_path) in done.stdout) == (0, True), done.stderr
