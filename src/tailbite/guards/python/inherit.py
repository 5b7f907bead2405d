"""Reach the Pythons that a program starts: an environment in which every Python guards itself.

Python imports the module ``sitecustomize`` when it starts (the ``site`` module's documentation). A directory that has
ours is put first on PYTHONPATH; ours switches the guard on and then runs the ``sitecustomize`` that would have been
found without it. The environment is inherited, so children are reached, and theirs.

Not reached: a Python started with ``-I``, ``-E`` or ``-S``, with an environment of its own, or older than 3.11 (it
says so on stderr).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DIRECTORY", "environment_with_guard"]

DIRECTORY: Final = str(Path(__file__).parent / "injected")


def environment_with_guard(before: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return ``before`` with our directory first on PYTHONPATH; nothing changes if it is on it already."""
    ours = os.fsencode(DIRECTORY)
    entries = before.get(b"PYTHONPATH", b"").split(b":")
    if ours in entries:
        return dict(before)
    return {**before, b"PYTHONPATH": b":".join([ours, *filter(None, entries)])}
