"""The advice how to install an extra fits how tailbite was installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tailbite import _extras

if TYPE_CHECKING:
    from pathlib import Path


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


def test_the_sentence_agrees_with_its_subject() -> None:
    assert _extras.missing("pictures", "lab").startswith("pictures need the 'lab' extra; install it with: ")
    assert _extras.missing("tailbite.anyio", "anyio").startswith("tailbite.anyio needs the 'anyio' extra")
