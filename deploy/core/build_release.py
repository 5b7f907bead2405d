"""Build hooks that divide a release into two packages: ``tailbite-core`` and ``tailbite``.

``tailbite-core`` is the library and depends on nothing. ``tailbite`` is the command, the audit and the laboratory,
and depends on the library of the same version. A checkout is never divided: ``pip install -e .`` installs
everything from one tree. ``make dist`` sets TAILBITE_RELEASE=1, and the wheel of ``tailbite`` then leaves out what
is in ``tailbite-core``, so that no file belongs to two packages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

COMMAND = ["click>=8.1", "rich>=13.7"]
"""Packages that the command needs: an option parser and tables."""


def library(root: str) -> list[str]:
    """Return the modules and packages of the library, as names below src/tailbite."""
    import tomllib

    text = (Path(root) / "deploy/core/pyproject.toml").read_text(encoding="utf-8")
    included = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    return [target.removeprefix("tailbite/") for target in included.values()]


def is_release() -> bool:
    """Tell whether this build is one half of a release."""
    return os.environ.get("TAILBITE_RELEASE") == "1"


class CustomMetadataHook(MetadataHookInterface):
    """The dependencies of ``tailbite``."""

    def update(self, metadata: dict[str, Any]) -> None:
        version_file = Path(self.root) / "src/tailbite/_version.py"
        found = re.search(r'__version__ = "(.+?)"', version_file.read_text(encoding="utf-8"))
        assert found is not None
        core = [f"tailbite-core=={found[1]}"] if is_release() else []
        metadata["dependencies"] = core + COMMAND


class CustomBuildHook(BuildHookInterface[Any]):
    """The files of a released ``tailbite``: those that ``tailbite-core`` does not have."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if is_release() and version == "standard":
            names = library(self.root)
            self.build_config.target_config["exclude"] = [f"/src/tailbite/{name}" for name in names]
