"""The advice how to install an extra fits how tailbite was installed, and stands wherever a package is missing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tailbite
from tailbite import _extras

CLI = "from tailbite.cli import main; import sys; sys.argv = ['tailbite', *{}]; sys.exit(main())"


def test_in_a_virtual_environment_it_is_pip() -> None:
    assert _extras.how_to_install("lab") == "pip install 'tailbite[lab]'"


@pytest.mark.parametrize(
    ("receipt", "command"),
    [
        ("uv-receipt.toml", "uv tool install 'tailbite[lab]'"),
        ("pipx_metadata.json", "pipx install --force 'tailbite[lab]'"),
    ],
)
def test_in_an_environment_of_a_tool_it_is_that_tool(
    receipt: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / receipt).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert _extras.how_to_install("lab") == command


def test_where_pip_is_refused_it_is_pipx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sysconfig

    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert _extras.how_to_install("lab") == "pipx install 'tailbite[lab]'"


@pytest.mark.parametrize(
    "file", ["/srv/tailbite.pyz/tailbite/_extras.py", "/usr/lib/tailbite/tailbite.pyz/_extras.py"]
)
def test_a_single_file_cannot_be_extended(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extras, "__file__", file)
    assert _extras.how_to_install("lab") == "pipx install 'tailbite[lab]'"


@pytest.mark.parametrize(
    ("file", "extra", "package"),
    [
        ("", "pip install 'tailbite-core[anyio]'", "pip install structlog"),
        (
            "uv-receipt.toml",
            "uv tool install app --with 'tailbite-core[anyio]'",
            "uv tool install app --with structlog",
        ),
        ("pipx_metadata.json", "pipx inject app 'tailbite-core[anyio]'", "pipx inject app structlog"),
        (
            "EXTERNALLY-MANAGED",
            "python3 -m venv .venv && .venv/bin/pip install 'tailbite-core[anyio]'",
            "python3 -m venv .venv && .venv/bin/pip install structlog",
        ),
    ],
)
def test_beside_the_bare_library_it_is_the_librarys_extra(
    file: str, extra: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that depends on tailbite-core does not need the command."""
    import sysconfig

    environment = tmp_path / "app"
    library = environment / "tailbite"
    library.mkdir(parents=True)
    (environment / (file or "nothing")).touch()
    monkeypatch.setattr(_extras, "__file__", str(library / "_extras.py"))
    monkeypatch.setattr(sys, "prefix", str(environment))
    if file == "EXTERNALLY-MANAGED":
        monkeypatch.setattr(sys, "base_prefix", str(environment))
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(environment))
    assert (_extras.how_to_install("anyio"), _extras.how_to_add("structlog")) == (extra, package)


def test_the_sentence_agrees_with_its_subject() -> None:
    assert _extras.missing("pictures", "lab").startswith("pictures need the 'lab' extra; install it with: ")
    assert _extras.missing("tailbite.anyio", "anyio").startswith("tailbite.anyio needs the 'anyio' extra")


SOURCES = Path(tailbite.__file__).parent
ALWAYS = {"tailbite", "click", "rich", "tomli"}
"""The packages of every installation; tomli stands in for tomllib in the single file on Python 3.10."""

ENTRIES: dict[str, tuple[tuple[str, str], ...]] = {
    "prometheus_client": (
        (
            "from tailbite import hooks; hooks.prometheus()",
            "tailbite.hooks.prometheus() needs the 'prometheus' extra",
        ),
        (CLI.format(["exporter", "--netns", "self"]), "tailbite: tailbite exporter needs the 'prometheus' extra"),
        (CLI.format(["check", "--as", "prometheus"]), "tailbite: the Prometheus format needs the 'prometheus' extra"),
    ),
    "structlog": (
        ("from tailbite import hooks; hooks.structlog()", "tailbite.hooks.structlog() needs the package "),
    ),
    "opentelemetry": (
        ("from tailbite import hooks; hooks.opentelemetry()", "tailbite.hooks.opentelemetry() needs the package "),
    ),
    "anyio": (("import tailbite.anyio", "tailbite.anyio needs the 'anyio' extra"),),
    "matplotlib": (
        (CLI.format(["lab", "odds", "--port", "32774", "--figure", "x"]), "tailbite: figures need the 'lab' extra"),
    ),
    "numpy": (
        (CLI.format(["lab", "odds", "--port", "32774", "--figure", "x"]), "tailbite: figures need the 'lab' extra"),
    ),
}
"""By the optional package: where a user first meets it, and the sentence they get without it."""
NEVER_FIRST = {"pytest", "trio", "sitecustomize"}
"""pytest loads its plugin itself, trio runs the code that asks for it, and sitecustomize is that of the user."""


def imported(path: Path) -> set[str]:
    """Return the packages that a module imports at run time, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }


def test_each_optional_package_has_its_sentence() -> None:
    used = set().union(*map(imported, SOURCES.rglob("*.py"))) - sys.stdlib_module_names
    assert used - ALWAYS - NEVER_FIRST == set(ENTRIES)


@pytest.mark.parametrize(
    ("package", "code", "sentence"),
    [(package, *entry) for package, entries in ENTRIES.items() for entry in entries],
)
def test_without_a_package_the_sentence_says_how_to_install_it(
    package: str, code: str, sentence: str, tmp_path: Path
) -> None:
    # None in sys.modules is what an import meets where a package is not installed; find_spec() asks the path.
    hide = f"import importlib.util as u, sys; sys.modules[{package!r}] = None; find = u.find_spec\n"
    hide += (
        f"u.find_spec = lambda name, *rest: None if name.partition('.')[0] == {package!r} else find(name, *rest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide + code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    last = done.stderr.splitlines()[-1]
    assert last.removeprefix("ModuleNotFoundError: ").startswith(sentence), done.stderr
    assert "install it with: pip install " in last
    assert done.returncode == (4 if code.startswith("from tailbite.cli") else 1)


def test_a_fault_of_ours_is_not_called_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named"), _extras.needed("all", extra="lab"):
        importlib.import_module("tailbite.no_such_module")


@pytest.mark.parametrize(
    ("receipt", "command"),
    [
        ("uv-receipt.toml", "uv tool install tailbite --with structlog"),
        ("pipx_metadata.json", "pipx inject tailbite structlog"),
    ],
)
def test_another_package_is_added_by_the_tool_that_installed_tailbite(
    receipt: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / receipt).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert _extras.how_to_add("structlog") == command
