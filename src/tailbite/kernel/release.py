"""The release of the running kernel (uname(2))."""

from __future__ import annotations

import os
import re

__all__ = ["kernel_release", "kernel_version", "parse_version"]


def kernel_release() -> str:
    """Return the kernel's release as uname(1) prints it, e.g. ``6.18.44-amd64``."""
    return os.uname().release


def parse_version(release: str) -> tuple[int, int] | None:
    """Return the first two numbers of a release; None if it does not begin with two numbers."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def kernel_version() -> tuple[int, int]:
    """Return the first two numbers of the running kernel's release; (0, 0) if it does not begin with two numbers."""
    return parse_version(kernel_release()) or (0, 0)
