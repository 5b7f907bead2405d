"""Installation advice for the optional parts of tailbite, in the words that fit how tailbite itself was installed.

``pip install`` is the wrong advice where pipx or uv keeps tailbite in an environment of its own, where the system's
package manager owns Python (PEP 668), and where tailbite is a single file. Owns that choice; knows nothing of
what the optional part does.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["how_to_add", "how_to_install", "missing", "needed"]


@contextlib.contextmanager
def needed(purpose: str, *, extra: str = "", package: str = "") -> Iterator[None]:
    """Import optional packages in the body; where one is not installed, the error says how to install it.

    Args:
        purpose: what needs it, as the subject of a sentence: ``tailbite.anyio``.
        extra: the extra of tailbite that brings the package; "" if none does.
        package: the package's name on PyPI, where no extra brings it.

    Raises:
        ModuleNotFoundError: the package is not installed; its ``name`` is that of the missing module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "tailbite":
            raise  # a fault of ours, and not an optional package
        if extra:
            text = missing(purpose, extra)
        else:
            text = f"{purpose} needs the package {package}; install it with: {how_to_add(package)}"
        raise ModuleNotFoundError(text, name=error.name) from None


def missing(purpose: str, extra: str) -> str:
    """Return the sentence for a part that is not installed.

    Args:
        purpose: what needs it, as the subject of a sentence: ``pictures``.
        extra: the name of the extra, as in ``tailbite[lab]``.
    """
    verb = "need" if purpose.endswith("s") and not purpose.endswith("ss") else "needs"
    return f"{purpose} {verb} the {extra!r} extra; install it with: {how_to_install(extra)}"


def how_to_install(extra: str) -> str:
    """Return the shell command that adds an extra to this installation of tailbite."""
    if not _has_command():
        return _beside_library(f"'tailbite-core[{extra}]'")
    requirement = f"'tailbite[{extra}]'"
    if not os.path.exists(__file__) or __file__.startswith(("/usr/lib/tailbite/", "/usr/share/tailbite/")):  # noqa: PTH110
        return f"pipx install {requirement}"  # a single file, or a package of the system: neither can be extended
    commands = {"uv": "uv tool install", "pipx": "pipx install --force", "system": "pipx install"}
    return f"{commands.get(_installer(), 'pip install')} {requirement}"


def how_to_add(package: str) -> str:
    """Return the shell command that installs another package beside this installation of tailbite."""
    if not _has_command():
        return _beside_library(package)
    command = how_to_install(package)
    if command.startswith("uv tool"):
        return f"uv tool install tailbite --with {package}"
    return f"pipx inject tailbite {package}" if command.startswith("pipx") else f"pip install {package}"


def _has_command() -> bool:
    """Tell whether this is all of tailbite, and not the library alone (tailbite-core)."""
    folder, _ = os.path.split(__file__)
    return not os.path.isdir(folder) or os.path.isdir(os.path.join(folder, "cli"))  # noqa: PTH112, PTH118


def _beside_library(requirement: str) -> str:
    """Return the command that adds to the application whose dependency the library is."""
    application = os.path.basename(sys.prefix)  # noqa: PTH119
    commands = {
        "uv": f"uv tool install {application} --with",
        "pipx": f"pipx inject {application}",
        "system": "python3 -m venv .venv && .venv/bin/pip install",
    }
    return f"{commands.get(_installer(), 'pip install')} {requirement}"


def _installer() -> str:
    """Name what keeps this environment: "uv" or "pipx" an application's own, "system" a closed Python, else "pip"."""
    if os.path.exists(os.path.join(sys.prefix, "uv-receipt.toml")):  # noqa: PTH110, PTH118
        return "uv"
    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):  # noqa: PTH110, PTH118
        return "pipx"
    return "system" if sys.prefix == sys.base_prefix and _is_externally_managed() else "pip"


def _is_externally_managed() -> bool:
    """Tell whether pip is refused here: EXTERNALLY-MANAGED lies beside the standard library (PEP 668)."""
    import sysconfig

    return os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))  # noqa: PTH110, PTH118
