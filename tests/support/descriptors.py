"""A process that has used up its file descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["no_descriptor_left"]


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Lower RLIMIT_NOFILE to the first free descriptor, so that the next one fails with EMFILE; back at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
