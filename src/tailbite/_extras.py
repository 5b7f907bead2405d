"""Installation advice for the optional parts of tailbite, in the words that fit how tailbite itself was installed.

``pip install`` is the wrong advice where pipx or uv keeps tailbite in an environment of its own, where the system's
package manager owns Python (PEP 668), and where tailbite is a single file. Owns that choice; knows nothing of
what the optional part does.
"""

from __future__ import annotations

import os
import sys

__all__ = ["how_to_install", "missing"]


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
    requirement = f"'tailbite[{extra}]'"
    if not os.path.exists(__file__) or __file__.startswith(("/usr/lib/tailbite/", "/usr/share/tailbite/")):  # noqa: PTH110
        return f"pipx install {requirement}"  # a single file, or a package of the system: neither can be extended
    if os.path.exists(os.path.join(sys.prefix, "uv-receipt.toml")):  # noqa: PTH110, PTH118
        return f"uv tool install {requirement}"
    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):  # noqa: PTH110, PTH118
        return f"pipx install --force {requirement}"
    if sys.prefix == sys.base_prefix and _is_externally_managed():
        return f"pipx install {requirement}"
    return f"pip install {requirement}"


def _is_externally_managed() -> bool:
    """Tell whether pip is refused here: EXTERNALLY-MANAGED lies beside the standard library (PEP 668)."""
    import sysconfig

    return os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))  # noqa: PTH110, PTH118
