"""The man page and the completions that the package carries, whatever way it was installed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["COMPLETIONS", "MAN_PAGE", "read_share"]

MAN_PAGE: Final = "man/man8/tailbite.8"
COMPLETIONS: Final = {
    "bash": "bash-completion/completions/tailbite",
    "zsh": "zsh/site-functions/_tailbite",
    "fish": "fish/vendor_completions.d/tailbite.fish",
}


def read_share(name: str) -> str:
    """Return the text of a file below share/; a checkout has that folder at its top."""
    packed: Traversable = files("tailbite.cli") / "share"
    folder = packed if packed.is_dir() else Path(__file__).parents[3] / "share"
    return (folder / name).read_text(encoding="utf-8")
